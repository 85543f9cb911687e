/** Names appear in paths, URIs and JSON: letters, digits, `.`, `_`, `-`; not first `.` or `-`. */
const NAME_PATTERN = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/

/** Fits a file name with room for suffixes. */
export const NAME_LENGTH_MAX = 200

/** Whether it can name a volume, or a snapshot within its volume. */
export function isNamePart(part: string): boolean {
  return NAME_PATTERN.test(part) && part.length <= NAME_LENGTH_MAX
}
