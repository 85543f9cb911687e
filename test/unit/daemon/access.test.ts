/** Who may use what: rules, the directory that follows from them, and modes of a pool's files. */
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import {
  AccessRules,
  isOwner,
  matchesGlob,
  parseAccessFile,
  parseAccessRule,
  readAccessRules,
} from '../../../src/daemon/access-rules.ts'
import { initPool } from '../../../src/daemon/embedded.ts'
import { poolAccessFindings, socketFolderFinding } from '../../../src/daemon/pool-access.ts'
import { PoolExports } from '../../../src/daemon/pool-exports.ts'
import { targetResult } from '../../../src/export/target.ts'
import { alternativeNames } from '../../../src/io/certificate-names.ts'
import { LOCAL_STRANGER, REMOTE_STRANGER } from '../../../src/io/peer-identity.ts'
import type { PeerIdentity } from '../../../src/io/peer-identity.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { MemoryTarget, directoryOf } from '../../support/memory-target.ts'

const PASSWD = 'root:x:0:0::/root:/bin/sh\nalice:x:1001:1001::/:/bin/sh\nnobody:x:65534:65534:::\n'
const ownId = process.geteuid?.() ?? 0

function user(userId: number): PeerIdentity {
  return { ...LOCAL_STRANGER, user: { processId: 1, userId, groupId: userId } }
}

function holder(...certificateNames: string[]): PeerIdentity {
  return { ...REMOTE_STRANGER, certificateNames }
}

function rulesOf(...words: string[]): AccessRules {
  return new AccessRules(words.map((text) => parseAccessRule(text, PASSWD)))
}

t.test('rules are read as written, and what is none is refused', async (t) => {
  t.strictSame(parseAccessRule('cert:web1=web*', PASSWD), {
    client: { kind: 'certificate', name: 'web1' },
    exports: 'web*',
    readOnly: false,
  })
  t.match(parseAccessRule('cert:a=b=c@*:ro', PASSWD), {
    client: { name: 'a=b' },
    exports: 'c@*',
    readOnly: true,
  })
  t.match(parseAccessRule('user:alice=v', PASSWD), { client: { kind: 'user', userId: 1001 } })
  t.match(parseAccessRule('user:7=v', PASSWD), { client: { kind: 'user', userId: 7 } })
  t.match(parseAccessRule('anyone=v', PASSWD), { client: { kind: 'anyone' } })
  const bad = ['', '=', 'v', 'cert:a', 'cert:=v', 'cert:a=', 'cert:a=:ro', 'cert:a=a@b@c', 'a=v']
  bad.push('cert:a=a/b', 'cert:a=v:rw', 'user:bob=v', 'user:nobody=v', 'user:65534=v', 'user:-1=v')
  bad.push('user:4294967295=v', 'group:kvm=v', 'anyone:x=v', 'cert:a=v v')
  for (const text of bad) {
    t.throws(() => parseAccessRule(text, PASSWD), { code: 'usage' }, JSON.stringify(text))
  }
  const file = '# who\n\ncert:a=v  # the first\nuser:alice=w:ro\r\n'
  t.match(parseAccessFile(file, PASSWD), [{ exports: 'v' }, { exports: 'w', readOnly: true }])
  t.throws(() => parseAccessFile('cert:a=v\nnonsense\n', PASSWD), { code: 'usage' })
})

t.test('a file without a rule is not taken for no rules', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-rules-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'rules')
  writeFileSync(path, '# nobody yet\n')
  await t.rejects(readAccessRules([], path), { code: 'usage' })
  await t.rejects(readAccessRules(['cert:a=v'], path), { code: 'usage' })
  await t.rejects(readAccessRules([], join(folder, 'none')), { code: 'not-found' })
  writeFileSync(path, 'cert:a=v\n')
  t.notOk((await readAccessRules([], path)).isEmpty)
  t.ok((await readAccessRules([], null)).isEmpty)
})

t.test('a glob matches as the regular expression that it stands for', async () => {
  const part = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?', '@'), maxLength: 8 })
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '@'), maxLength: 8 })
  fc.assert(
    fc.property(part, text, fc.constantFrom('@', ''), (pattern, name, separator) => {
      const any = separator === '' ? '.' : '[^@]'
      const source = pattern.replaceAll('*', `${any}*`).replaceAll('?', any)
      return matchesGlob(pattern, name, separator) === new RegExp(`^${source}$`).test(name)
    }),
    { numRuns: 5000 },
  )
})

t.test('a glob made to take long does not', async (t) => {
  const startMs = performance.now()
  t.notOk(matchesGlob('*a'.repeat(100), `${'a'.repeat(4000)}b`, '@'))
  t.ok(performance.now() - startMs < 2000)
})

t.test('the owner and root may do everything, others what a rule says', async (t) => {
  const none = rulesOf()
  const some = rulesOf(
    'cert:web1=web*',
    'cert:web*=web@*:ro',
    'user:1001=alice:ro',
    'anyone=pub:ro',
  )
  for (const rules of [none, some]) {
    for (const peer of [user(ownId), user(0), LOCAL_STRANGER]) {
      t.ok(isOwner(peer))
      t.equal(rules.accessOf(peer)?.('secret'), 'write')
    }
  }
  t.equal(none.accessOf(user(1001)), null, 'another user is not even asked')
  t.equal(none.accessOf(REMOTE_STRANGER)?.('secret'), 'write')
  const table: [PeerIdentity, string, string][] = [
    [holder('web1'), 'web', 'write'],
    [holder('web1'), 'web2', 'write'],
    [holder('web1'), 'web@mon', 'read'],
    [holder('web1'), 'web2@mon', 'none'],
    [holder('web1'), 'alice', 'none'],
    [holder('other', 'web1'), 'web', 'write'],
    [holder('web2'), 'web', 'none'],
    [holder('web2'), 'web@mon', 'read'],
    [holder('xweb1', 'web', 'WEB1'), 'web', 'none'],
    [holder(), 'web', 'none'],
    [holder(), 'pub', 'read'],
    [holder(), 'pub@mon', 'none'],
    [user(1001), 'alice', 'read'],
    [user(1002), 'alice', 'none'],
    [user(1002), 'pub', 'read'],
    // Whoever has a certificate has not become a user, and the other way about.
    [holder('1001'), 'alice', 'none'],
  ]
  for (const [peer, name, access] of table) {
    t.equal(some.accessOf(peer)?.(name), access, `${JSON.stringify(peer)} ${name}`)
  }
  t.equal(rulesOf('cert:a=v').accessOf(user(1001)), null)
  const both = rulesOf('cert:a=v:ro', 'cert:a=v')
  t.equal(both.accessOf(holder('a'))?.('v'), 'write', 'the most that any rule gives')
  const remote: PeerIdentity = { ...REMOTE_STRANGER, user: user(0).user }
  t.notOk(isOwner(remote), 'a user counts only through the unix socket')
})

t.test('what is denied is not there: neither listed nor opened nor told of', async (t) => {
  const io = new SimIo({ seed: 1 })
  const schedule = (complete: () => void): void => io.atTurnEnd({ turnEnd: complete })
  const common = { arena: io.arena, schedule, sizeBytes: 1 << 20, isRecording: false }
  const inner = directoryOf(
    new MemoryTarget({ ...common, name: 'a', snapshots: ['mon', 'tue'] }),
    new MemoryTarget({ ...common, name: 'a@mon', readOnly: true }),
    new MemoryTarget({ ...common, name: 'b' }),
  )
  const pool = { list: () => inner.list(), openTarget: inner.open.bind(inner) }
  const all = new PoolExports(pool, ['b'])
  t.strictSame(
    all.list().map(({ name, readOnly }) => [name, readOnly]),
    [
      ['a', false],
      ['a@mon', true],
      ['b', true],
    ],
  )
  t.strictSame(all.open('a', 'x')?.snapshots(), ['mon', 'tue'])
  const view = (...words: string[]): PoolExports =>
    all.for(rulesOf(...words).accessOf(holder('c')) ?? (() => 'none'))
  const some = view('cert:c=a:ro', 'cert:c=a@tue')
  t.match(some.list(), [{ name: 'a', readOnly: true }])
  t.equal(some.list().length, 1)
  t.equal(some.open('b', 'x'), null)
  t.equal(some.open('a@mon', 'x'), null)
  t.equal(some.open('nothing', 'x'), null)
  const target = some.open('a', 'x')
  if (target === null) throw new Error('not opened')
  t.equal(target.readOnly, true)
  t.strictSame(target.snapshots(), ['tue'], 'snapshots are told only to those who may have them')
  const at = io.arena.allocate(4096)
  const EROFS = -30
  const changes: Parameters<typeof targetResult>[0][] = [
    (done, tag) => target.write(0, 4096, at, 0, done, tag),
    (done, tag) => target.trim(0, 4096, 0, done, tag),
    (done, tag) => target.zero(0, 4096, 0, done, tag),
  ]
  for (const change of changes) t.equal(await targetResult(change), EROFS)
  const read = targetResult((done, tag) => target.read(0, 4096, at, done, tag))
  t.equal(await io.runUntil(read), 0)
  const writer = view('cert:c=*').open('a', 'x')
  t.equal(writer?.readOnly, false)
  const write = targetResult((done, tag) => writer?.write(0, 4096, at, 0, done, tag))
  t.equal(await io.runUntil(write), 0)
  t.equal(view('cert:c=*').open('b', 'x')?.readOnly, true, '--read-only stays so')
})

t.test('a name in a certificate cannot pass for two', async (t) => {
  t.strictSame(alternativeNames('DNS:a, email:b@c, URI:x:y'), ['a', 'b@c', 'x:y'])
  t.strictSame(alternativeNames('IP Address:127.0.0.1, DNS:a'), ['a'])
  t.strictSame(alternativeNames('DNS:"x, DNS:victim", DNS:b'), ['b'])
  t.strictSame(alternativeNames('DNS:"x\\", DNS:victim, \\"", DNS:b'), ['b'])
  t.strictSame(alternativeNames('DNS:"unfinished, DNS:victim'), [])
  t.strictSame(alternativeNames('DNS:a"b, DNS:victim'), [])
  t.strictSame(alternativeNames(''), [])
})

t.test('a pool that others can get at is told of, with what to do', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-modes-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const pool = join(folder, 'pool')
  await initPool(pool, 'node', { capacityBytes: 0 })
  t.strictSame(await poolAccessFindings(pool), [])
  chmodSync(pool, 0o755)
  t.match(await poolAccessFindings(pool), [{ fact: /entered by others/, remedy: /chmod 700/ }])
  chmodSync(pool, 0o720)
  t.match(await poolAccessFindings(pool), [{ fact: /changed by others/ }])
  chmodSync(pool, 0o700)
  chmodSync(join(pool, 'superblock'), 0o640)
  chmodSync(join(pool, 'segments'), 0o711)
  const [finding] = await poolAccessFindings(pool)
  t.match(finding, { fact: /2 files and folders/, remedy: /chmod -R go=/ })
  t.strictSame(await poolAccessFindings(join(folder, 'none')), [])
  t.equal(await socketFolderFinding(pool), null)
  t.equal(await socketFolderFinding('/tmp'), null, 'there, each can only remove what is his')
  chmodSync(folder, 0o777)
  t.match(await socketFolderFinding(folder), { fact: /in the place of ours/ })
})

t.test('a pool is not made in a folder that others can change', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-modes-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const place = (name: string, mode: number): string => {
    const path = join(folder, name)
    mkdirSync(path)
    chmodSync(path, mode)
    return path
  }
  const options = { capacityBytes: 0 }
  for (const mode of [0o777, 0o1777, 0o770]) {
    await t.rejects(initPool(place(`p${mode}`, mode), 'node', options), { code: 'usage' })
  }
  await initPool(place('ours', 0o755), 'node', options)
  if (ownId !== 0) return
  const foreign = place('foreign', 0o755)
  chownSync(foreign, 12345, 12345)
  await t.rejects(initPool(foreign, 'node', options), { code: 'usage' })
  chmodSync(join(folder, 'ours'), 0o700)
  chownSync(join(folder, 'ours'), 12345, 12345)
  t.match(await poolAccessFindings(join(folder, 'ours')), [{ fact: /user 12345/ }])
})
