/**
 * The "newc" cpio archive that Linux unpacks as an initramfs (kernel documentation,
 * driver-api/early-userspace/buffer-format): per file a header of thirteen 8-digit hexadecimal
 * fields after the magic `070701`, the name with a zero byte, the data; name and data are each
 * padded to four bytes; `TRAILER!!!` ends it. Written here because only so can an unprivileged
 * user put the device node of the console into one.
 */
export type CpioEntry =
  | { kind: 'directory'; path: string }
  | { kind: 'file'; path: string; mode: number; data: Uint8Array }
  | { kind: 'character-device'; path: string; major: number; minor: number }

const TYPE_DIRECTORY = 0o040000
const TYPE_CHARACTER_DEVICE = 0o020000
const TYPE_FILE = 0o100000

export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => encodeEntry(entry, index + 1))
  const trailer = encodeEntry(
    { kind: 'file', path: 'TRAILER!!!', mode: 0, data: new Uint8Array() },
    0,
  )
  return Buffer.concat([...parts, ...trailer])
}

function encodeEntry(entry: CpioEntry, inode: number): Buffer[] {
  const data = entry.kind === 'file' ? entry.data : new Uint8Array()
  const name = Buffer.from(`${entry.path}\0`)
  const isDevice = entry.kind === 'character-device'
  const fields = [
    inode,
    modeOf(entry),
    0, // user
    0, // group
    entry.kind === 'directory' ? 2 : 1, // links
    0, // modified
    data.length,
    0, // device of the archive, major and minor
    0,
    isDevice ? entry.major : 0,
    isDevice ? entry.minor : 0,
    name.length,
    0, // checksum: none in this variant
  ]
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`
  return [padded(Buffer.concat([Buffer.from(header), name])), padded(data)]
}

function modeOf(entry: CpioEntry): number {
  if (entry.kind === 'directory') return TYPE_DIRECTORY | 0o755
  if (entry.kind === 'character-device') return TYPE_CHARACTER_DEVICE | 0o600
  return TYPE_FILE | entry.mode
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
}
