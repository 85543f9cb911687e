/** What a kernel gone wrong might put on /dev/fuse, drawn from a seed. */
import type { Prng } from '../../src/base/prng.ts'
import {
  COPY_FILE_RANGE_IN,
  CREATE_IN,
  FALLOCATE_IN,
  FSYNC_IN,
  GETXATTR_IN,
  IN,
  IN_BYTES,
  LSEEK_IN,
  MKDIR_IN,
  MKNOD_IN,
  OPEN_IN,
  Opcode,
  RANGE_IN,
  RELEASE_IN,
  RENAME2_IN,
  RENAME_IN,
  SETATTR_IN,
  S_IFREG,
} from '../../src/export/fuse/abi.ts'

const KNOWN: readonly number[] = Object.values(Opcode)
/** What fills a session with life is drawn more often. */
const COMMON: readonly number[] = [
  Opcode.READ,
  Opcode.READ,
  Opcode.WRITE,
  Opcode.WRITE,
  Opcode.CREATE,
  Opcode.OPEN,
  Opcode.RELEASE,
  Opcode.FALLOCATE,
  Opcode.LSEEK,
  Opcode.COPY_FILE_RANGE,
  Opcode.SETATTR,
  Opcode.OPENDIR,
  Opcode.READDIR,
]
const NAMES = [
  'a',
  'b',
  'c',
  'volumes',
  'snapshots',
  'disk',
  'user.varve.size',
  'user.varve.mapped',
]
const ODD_NAMES = [
  '',
  '.',
  '..',
  'a/b',
  '/',
  '../../etc/passwd',
  'a\nb',
  'a@b',
  '\u{fffd}',
  'n'.repeat(255),
  'n'.repeat(256),
  'n'.repeat(70_000),
]
const EDGES = [0n, 1n, 4095n, 4096n, 1n << 20n, 1n << 31n, 1n << 48n, 1n << 53n, 1n << 63n]
const ALL_ONES = (1n << 64n) - 1n
const DATA_BYTES_MAX = 9000
/** Of the file this mount works in: most requests stay near its beginning. */
const FILE_BYTES = 200_000
const NOISE = Buffer.alloc(1 << 20)
for (let i = 0; i < NOISE.length; i += 1) NOISE[i] = (i * 2246822519) >>> 11

const u64 = (prng: Prng, usual: number): bigint => {
  if (prng.chance(0.9)) return BigInt(prng.below(usual))
  return prng.chance(0.5) ? prng.pick(EDGES) : ALL_ONES - BigInt(prng.below(usual))
}

function drawName(prng: Prng): Buffer {
  const name = prng.chance(0.85) ? prng.pick(NAMES) : prng.pick(ODD_NAMES)
  const end = prng.chance(0.97) ? '\0' : ''
  return prng.chance(0.02) ? Buffer.from([0xc3, 0x28, 0xff, 0]) : Buffer.from(name + end)
}

/** Zeroed fixed arguments of `bytes`, filled by `write`. */
function fixed(bytes: number, write: (args: Buffer) => void): Buffer {
  const args = Buffer.alloc(bytes)
  write(args)
  return args
}

function drawRange(prng: Prng, handles: number): Buffer {
  return fixed(RANGE_IN.endOffset, (args) => {
    args.writeBigUInt64LE(u64(prng, handles), RANGE_IN.fh)
    args.writeBigUInt64LE(u64(prng, FILE_BYTES), RANGE_IN.offset)
    const size = prng.chance(0.9) ? prng.below(DATA_BYTES_MAX) : prng.nextU32()
    args.writeUInt32LE(size, RANGE_IN.size)
  })
}

function drawWrite(prng: Prng, handles: number): Buffer {
  const range = drawRange(prng, handles)
  const lengthBytes = prng.chance(0.01) ? NOISE.length : prng.below(DATA_BYTES_MAX)
  if (prng.chance(0.95)) range.writeUInt32LE(lengthBytes, RANGE_IN.size)
  return Buffer.concat([range, NOISE.subarray(0, lengthBytes)])
}

type Maker = (prng: Prng, handles: number) => Buffer

const name: Maker = (prng) => drawName(prng)
const named =
  (bytes: number, write: (args: Buffer, prng: Prng) => void = () => undefined): Maker =>
  (prng) =>
    Buffer.concat([fixed(bytes, (args) => write(args, prng)), drawName(prng)])
const renamed =
  (bytes: number): Maker =>
  (prng) => {
    const args = fixed(bytes, (args) => args.writeBigUInt64LE(u64(prng, 40), 0))
    return Buffer.concat([args, drawName(prng), drawName(prng)])
  }

const MAKERS: ReadonlyMap<number, Maker> = new Map<number, Maker>([
  [Opcode.LOOKUP, name],
  [Opcode.UNLINK, name],
  [Opcode.RMDIR, name],
  [Opcode.READ, drawRange],
  [Opcode.READDIR, (prng) => drawRange(prng, 6)],
  [Opcode.WRITE, drawWrite],
  [Opcode.MKDIR, named(MKDIR_IN.endOffset)],
  [Opcode.MKNOD, named(MKNOD_IN.endOffset, (args) => args.writeUInt32LE(S_IFREG, MKNOD_IN.mode))],
  [
    Opcode.CREATE,
    named(CREATE_IN.endOffset, (args, prng) => {
      args.writeUInt32LE(prng.pick([2, 0o102, 0o1102, 0o202, 0]), CREATE_IN.flags)
    }),
  ],
  [Opcode.RENAME, renamed(RENAME_IN.endOffset)],
  [Opcode.RENAME2, renamed(RENAME2_IN.endOffset)],
  [Opcode.GETXATTR, named(GETXATTR_IN.endOffset, (args, prng) => setSize(args, prng))],
  [Opcode.LISTXATTR, (prng) => fixed(GETXATTR_IN.endOffset, (args) => setSize(args, prng))],
  [
    Opcode.OPEN,
    (prng) => fixed(OPEN_IN.endOffset, (args) => args.writeUInt32LE(prng.below(4), OPEN_IN.flags)),
  ],
  [
    Opcode.RELEASE,
    (prng, handles) => {
      return fixed(RELEASE_IN.endOffset, (args) => {
        args.writeBigUInt64LE(u64(prng, 4 * handles), RELEASE_IN.fh)
      })
    },
  ],
  [
    Opcode.RELEASEDIR,
    (prng) => {
      return fixed(RELEASE_IN.endOffset, (args) => args.writeBigUInt64LE(u64(prng, 6), 0))
    },
  ],
  [
    Opcode.FSYNC,
    (prng, handles) => {
      return fixed(FSYNC_IN.endOffset, (args) => args.writeBigUInt64LE(u64(prng, handles), 0))
    },
  ],
  [Opcode.SETATTR, drawSetattr],
  [Opcode.FALLOCATE, drawAllocate],
  [Opcode.LSEEK, drawSeek],
  [Opcode.COPY_FILE_RANGE, drawCopy],
  [Opcode.BATCH_FORGET, (prng) => NOISE.subarray(0, prng.below(5000))],
])

function setSize(args: Buffer, prng: Prng): void {
  args.writeUInt32LE(prng.chance(0.9) ? prng.below(300) : prng.nextU32(), GETXATTR_IN.size)
}

function drawSetattr(prng: Prng): Buffer {
  return fixed(SETATTR_IN.endOffset, (args) => {
    args.writeUInt32LE(prng.chance(0.7) ? prng.pick([8, 0x20, 0x120]) : prng.below(2048), 0)
    args.writeBigUInt64LE(u64(prng, FILE_BYTES), SETATTR_IN.size)
    args.writeBigUInt64LE(u64(prng, 1e9), SETATTR_IN.mtime)
    args.writeUInt32LE(prng.nextU32(), SETATTR_IN.mtimensec)
  })
}

function drawAllocate(prng: Prng, handles: number): Buffer {
  return fixed(FALLOCATE_IN.endOffset, (args) => {
    args.writeBigUInt64LE(u64(prng, handles), FALLOCATE_IN.fh)
    args.writeBigUInt64LE(u64(prng, FILE_BYTES), FALLOCATE_IN.offset)
    args.writeBigUInt64LE(u64(prng, FILE_BYTES), FALLOCATE_IN.length)
    args.writeUInt32LE(prng.pick([0, 1, 3, 0x10, 0x11, 2, 0x40, 0xffffffff]), FALLOCATE_IN.mode)
  })
}

function drawSeek(prng: Prng, handles: number): Buffer {
  return fixed(LSEEK_IN.endOffset, (args) => {
    args.writeBigUInt64LE(u64(prng, handles), LSEEK_IN.fh)
    args.writeBigUInt64LE(u64(prng, FILE_BYTES), LSEEK_IN.offset)
    args.writeUInt32LE(prng.pick([3, 4, 3, 4, 0, 9]), LSEEK_IN.whence)
  })
}

function drawCopy(prng: Prng, handles: number): Buffer {
  return fixed(COPY_FILE_RANGE_IN.endOffset, (args) => {
    const { fhIn, offIn, fhOut, offOut, len } = COPY_FILE_RANGE_IN
    args.writeBigUInt64LE(u64(prng, handles), fhIn)
    args.writeBigUInt64LE(u64(prng, handles), fhOut)
    args.writeBigUInt64LE((4096n * u64(prng, 20)) % (1n << 63n), offIn)
    args.writeBigUInt64LE((4096n * u64(prng, 20)) % (1n << 63n), offOut)
    args.writeBigUInt64LE((4096n * u64(prng, 20)) % (1n << 63n), len)
  })
}

export interface DrawnMessage {
  bytes: Buffer
  /** What the device says how long it is. */
  claimBytes: number
}

/** `handles`: about how many files are open. */
export function drawMessage(prng: Prng, handles: number): DrawnMessage {
  const pool = prng.chance(0.6) ? COMMON : KNOWN
  const opcode = prng.chance(0.99) ? prng.pick(pool) : prng.nextU32()
  const maker = MAKERS.get(opcode)
  const args = maker?.(prng, handles) ?? NOISE.subarray(0, prng.below(200))
  const bytes = Buffer.alloc(IN_BYTES + args.length)
  bytes.writeUInt32LE(opcode, IN.opcode)
  bytes.writeBigUInt64LE(drawNode(prng), IN.nodeid)
  bytes.writeUInt32LE(prng.below(40_000), IN.pid)
  args.copy(bytes, IN_BYTES)
  let whole = bytes
  if (prng.chance(0.05)) whole = bytes.subarray(0, prng.below(bytes.length))
  if (prng.chance(0.05) && whole.length > IN_BYTES) {
    const at = IN_BYTES + prng.below(Math.min(64, whole.length - IN_BYTES))
    whole[at] ^= 1 << prng.below(8)
  }
  if (whole.length >= 4) whole.writeUInt32LE(whole.length, IN.len)
  if (whole.length >= 4 && prng.chance(0.02)) whole.writeUInt32LE(prng.nextU32(), IN.len)
  return { bytes: whole, claimBytes: whole.length }
}

function drawNode(prng: Prng): bigint {
  const kind = prng.weighted([3, 3, 10, 1])
  if (kind === 0) return BigInt(prng.below(4))
  if (kind === 1) return 2n
  return kind === 2 ? BigInt(20 + prng.below(24)) : u64(prng, 1 << 20)
}
