/**
 * Names as a filesystem has them: bytes. In memory each is a string with one character a byte
 * (latin1), so that names that are no UTF-8 survive and can still be keys.
 */
import { DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, badSource } from './limits.ts'

export function rawBytes(raw: string): Buffer {
  return Buffer.from(raw, 'latin1')
}

/** For people: UTF-8 where it is, nothing that moves a terminal's cursor, not too long. */
export function shownPath(raw: string): string {
  const text = rawBytes(raw).toString('utf8')
  const safe = Array.from(text, (character) => {
    const code = character.codePointAt(0) ?? 0
    return code < 32 || (code >= 127 && code < 160) ? '?' : character
  })
  return safe.length > 120 ? `${safe.slice(0, 117).join('')}...` : safe.join('')
}

/**
 * The components of a path in an archive; none for the root. Refuses what leads out of the tree
 * and what no filesystem could hold.
 */
export function splitPath(raw: string): string[] {
  if (raw === '') throw badSource('an entry has no name')
  if (raw.length > PATH_BYTES_MAX) {
    throw badSource(`a name is longer than ${PATH_BYTES_MAX} bytes: ${shownPath(raw)}`)
  }
  if (raw.startsWith('/')) throw badSource(`a name is absolute: ${shownPath(raw)}`)
  const parts = raw.split('/').filter((part) => part !== '' && part !== '.')
  for (const part of parts) verifyName(part, raw)
  if (parts.length > DEPTH_MAX) {
    throw badSource(`an entry is more than ${DEPTH_MAX} folders deep: ${shownPath(raw)}`)
  }
  return parts
}

/** One component. */
export function verifyName(name: string, path: string): void {
  if (name === '..') throw badSource(`a name leads out of the tree: ${shownPath(path)}`)
  if (name.includes('\0')) throw badSource(`a name has a zero byte: ${shownPath(path)}`)
  if (name.length > NAME_BYTES_MAX) {
    throw badSource(`a name is longer than ${NAME_BYTES_MAX} bytes: ${shownPath(name)}`)
  }
}
