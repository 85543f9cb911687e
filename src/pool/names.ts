import { OperatingError } from '../base/errors.ts'
import { NAME_LENGTH_MAX, isNamePart } from '../format/names.ts'

export interface DiskName {
  volume: string
  /** Null for the volume itself. */
  snapshot: string | null
}

function verifyPart(part: string, whole: string): void {
  if (isNamePart(part)) return
  throw new OperatingError('usage', `"${whole}" is not a valid name`, {
    hint:
      `use letters, digits, ".", "_" and "-", not beginning with "." or "-", ` +
      `at most ${NAME_LENGTH_MAX}`,
  })
}

/** Splits `volume` or `volume@snapshot`; throws `usage` for anything else. */
export function mustParseDiskName(text: string): DiskName {
  const [volume, snapshot, ...rest] = text.split('@')
  if (rest.length > 0) {
    throw new OperatingError('usage', `"${text}" has more than one "@"`, {
      hint: 'a snapshot is named volume@snapshot',
    })
  }
  verifyPart(volume, text)
  if (snapshot === undefined) return { volume, snapshot: null }
  verifyPart(snapshot, text)
  return { volume, snapshot }
}

/** A volume's name; throws `usage`. */
export function mustParseVolumeName(text: string): string {
  const name = mustParseDiskName(text)
  if (name.snapshot === null) return name.volume
  throw new OperatingError('usage', `"${text}" names a snapshot, not a volume`)
}

/** `volume@snapshot`; throws `usage`. */
export function mustParseSnapshotName(text: string): { volume: string; snapshot: string } {
  const { volume, snapshot } = mustParseDiskName(text)
  if (snapshot !== null) return { volume, snapshot }
  throw new OperatingError('usage', `"${text}" names a volume, not a snapshot`, {
    hint: 'a snapshot is named volume@snapshot',
  })
}

/** A hold's tag follows the rule of names. */
export function verifyTag(tag: string): void {
  verifyPart(tag, tag)
}
