/**
 * Who may use which disks. A rule is `CLIENT=EXPORT[:ro]`:
 *
 * - CLIENT: `cert:NAME`, a common or alternative name of a verified certificate; `user:NAME` or
 *   `user:UID`, who is at the other end of the unix socket; `anyone`, whoever can connect.
 * - EXPORT: `volume` or `volume@snapshot`.
 *
 * `*` and `?` stand for any characters, in EXPORT for any but "@". Without rules everybody who can
 * connect may use everything: through the unix socket that is its owner. With rules only what one
 * of them says is listed and opened; the owner and root may use everything through the socket.
 */
import { readFile } from 'node:fs/promises'
import { OperatingError } from '../base/errors.ts'
import type { PeerIdentity } from '../io/peer-identity.ts'

export type ClientPattern =
  { kind: 'certificate'; name: string } | { kind: 'user'; userId: number } | { kind: 'anyone' }

export interface AccessRule {
  client: ClientPattern
  exports: string
  readOnly: boolean
}

export type Access = 'none' | 'read' | 'write'
/** By the name of a disk. */
export type AccessOf = (name: string) => Access

/** Whose id every user has who is not in our user namespace: `nobody`. */
const OVERFLOW_USER_ID = 65534
const USER_ID_MAX = 2 ** 32 - 2
const EXPORT_PATTERN = /^[A-Za-z0-9._*?-]+(@[A-Za-z0-9._*?-]+)?$/
const READ_ONLY_SUFFIX = ':ro'

/** `passwd`: the text of /etc/passwd. Throws `usage`. */
export function parseAccessRule(text: string, passwd: string): AccessRule {
  // An EXPORT has no "=", the name in a certificate may.
  const at = text.lastIndexOf('=')
  if (at < 0) throw badRule(text, 'there is no "="')
  const target = text.slice(at + 1)
  const readOnly = target.endsWith(READ_ONLY_SUFFIX)
  const exports = readOnly ? target.slice(0, -READ_ONLY_SUFFIX.length) : target
  if (!EXPORT_PATTERN.test(exports)) throw badRule(text, `"${exports}" names no disks`)
  return { client: parseClient(text.slice(0, at), text, passwd), exports, readOnly }
}

/** One rule a line; what follows a "#" and empty lines are for the reader. Throws `usage`. */
export function parseAccessFile(text: string, passwd: string): AccessRule[] {
  return text
    .split('\n')
    .map((line) => line.replace(/(^|\s)#.*/, '').trim())
    .filter((line) => line !== '')
    .map((line) => parseAccessRule(line, passwd))
}

function parseClient(client: string, rule: string, passwd: string): ClientPattern {
  if (client === 'anyone') return { kind: 'anyone' }
  const [, kind, name] = /^(cert|user):(.+)$/.exec(client) ?? []
  if (kind === 'cert') return { kind: 'certificate', name }
  if (kind !== 'user') throw badRule(rule, `"${client}" names no clients`)
  const userId = /^\d+$/.test(name) ? Number(name) : userIdOf(name, passwd)
  if (userId === null || userId > USER_ID_MAX) throw badRule(rule, `there is no user ${name}`)
  if (userId === OVERFLOW_USER_ID) {
    throw badRule(rule, `${name} is every user of another container, too`)
  }
  return { kind: 'user', userId }
}

function userIdOf(name: string, passwd: string): number | null {
  const fields = passwd.split('\n').map((line) => line.split(':'))
  const found = fields.find(([user]) => user === name)
  return found === undefined ? null : Number(found[2])
}

function badRule(text: string, fact: string): OperatingError {
  return new OperatingError('usage', `no rule: "${text}": ${fact}`, {
    hint: 'A rule is like cert:web1=web*, user:libvirt-qemu=golden:ro or anyone=public@*.',
  })
}

/**
 * Whether `text` is what `pattern` says. `*` and `?` do not stand for `separator`. Takes at most
 * their lengths multiplied, whatever they are.
 */
export function matchesGlob(pattern: string, text: string, separator: string): boolean {
  let at = 0
  let from = 0
  // Where the last "*" stands, and where what it stands for ends; -1: there was none.
  let star = -1
  let starEnd = 0
  while (from < text.length) {
    const expected = pattern[at]
    if (expected === '*') {
      star = at++
      starEnd = from
    } else if (expected === '?' ? text[from] !== separator : expected === text[from]) {
      at += 1
      from += 1
    } else if (star >= 0 && text[starEnd] !== separator) {
      starEnd += 1
      at = star + 1
      from = starEnd
    } else {
      return false
    }
  }
  return /^\**$/.test(pattern.slice(at))
}

export const EVERYTHING: AccessOf = () => 'write'

/** The same, but nothing may be written. */
export function readOnlyAccess(accessOf: AccessOf): AccessOf {
  return (name) => (accessOf(name) === 'none' ? 'none' : 'read')
}

/** `isOwner`: may do all that the server may, and be told everything. Also without an addon. */
export function isOwner({ isLocal, user }: PeerIdentity): boolean {
  if (!isLocal) return false
  // Nobody says who it is: the mode of the socket, which is its owner's alone, has to do.
  if (user === null) return true
  return user.userId === 0 || user.userId === process.geteuid?.()
}

export class AccessRules {
  readonly #rules: readonly AccessRule[]

  constructor(rules: readonly AccessRule[]) {
    this.#rules = rules
  }

  /** Somebody else may connect to the unix socket, too: its mode has to let them. */
  get admitsUsers(): boolean {
    return this.#rules.some(({ client }) => client.kind === 'user')
  }

  get usesCertificates(): boolean {
    return this.#rules.some(({ client }) => client.kind === 'certificate')
  }

  get isEmpty(): boolean {
    return this.#rules.length === 0
  }

  /** Null: has no business here, not even to ask. */
  accessOf(peer: PeerIdentity): AccessOf | null {
    if (isOwner(peer)) return EVERYTHING
    if (this.#rules.length === 0) return peer.isLocal ? null : EVERYTHING
    const rules = this.#rules.filter(({ client }) => isMeant(client, peer))
    // Others are only let through to the unix socket for their rule; certificates come later.
    if (peer.isLocal && rules.length === 0) return null
    return (name) => {
      const matching = rules.filter((rule) => matchesGlob(rule.exports, name, '@'))
      if (matching.length === 0) return 'none'
      return matching.every(({ readOnly }) => readOnly) ? 'read' : 'write'
    }
  }
}

function isMeant(client: ClientPattern, { user, certificateNames }: PeerIdentity): boolean {
  switch (client.kind) {
    case 'anyone':
      return true
    case 'user':
      return user?.userId === client.userId
    case 'certificate':
      return certificateNames.some((name) => matchesGlob(client.name, name, ''))
  }
}

/** `words`: rules; `path`: of a file of rules, or null. Rejects `usage`, and what reading does. */
export async function readAccessRules(
  words: readonly string[],
  path: string | null,
): Promise<AccessRules> {
  const passwd = await readFile('/etc/passwd', 'utf8').catch(() => '')
  const rules = words.map((text) => parseAccessRule(text, passwd))
  if (path === null) return new AccessRules(rules)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new OperatingError(missing ? 'not-found' : 'io', `cannot read ${path}`, { cause: error })
  }
  const fromFile = parseAccessFile(text, passwd)
  // Without any rule everybody could use everything: not what an empty file is meant to say.
  if (fromFile.length === 0) throw new OperatingError('usage', `there is no rule in ${path}`)
  return new AccessRules([...rules, ...fromFile])
}
