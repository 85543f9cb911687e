/**
 * The mounts that this process sees, from /proc/self/mountinfo (proc_pid_mountinfo(5)):
 *
 *     36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/sda1 rw,errors=continue
 *     |  |  |    |     |            |           |         |    |         |
 *     id |  dev  |     directory    options     any count type source    of the superblock
 *        parent  of the filesystem that is seen there
 */

/** The type of a mounted pool in the table. */
export const FUSE_TYPE = 'fuse.varve'

export interface MountEntry {
  id: number
  /** `MAJOR:MINOR` of the superblock; of no device for btrfs and FUSE. */
  deviceNumber: string
  directory: string
  options: readonly string[]
  type: string
  source: string
}

/** In the order of the table: what is mounted over another comes later. */
export function parseMountTable(text: string): MountEntry[] {
  return text.split('\n').flatMap((line) => {
    const words = line.split(' ')
    const separator = words.indexOf('-', 6)
    if (separator < 0 || words.length < separator + 3) return []
    return [
      {
        id: Number(words[0]),
        deviceNumber: words[2],
        directory: unescapeOctal(words[4]),
        options: words[5].split(','),
        type: words[separator + 1],
        source: unescapeOctal(words[separator + 2]),
      },
    ]
  })
}

/** Blanks, backslashes and line ends are three octal digits; the rest is UTF-8 as it is. */
function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )
}

/** What is mounted at `directory` itself, on top; null for nothing. */
export function topMount(mounts: readonly MountEntry[], directory: string): MountEntry | null {
  return mounts.findLast((mount) => mount.directory === directory) ?? null
}

/** Whether `path` is `directory` or lies below it; both absolute and without dots. */
export function isBelow(path: string, directory: string): boolean {
  if (path === directory || directory === '/') return true
  return path.startsWith(`${directory}/`)
}

/** The mount that a path without symbolic links lies on: of the longest, the newest. */
export function mountOf(mounts: readonly MountEntry[], path: string): MountEntry | null {
  let found: MountEntry | null = null
  for (const mount of mounts) {
    if (!isBelow(path, mount.directory)) continue
    if (found === null || mount.directory.length >= found.directory.length) found = mount
  }
  return found
}
