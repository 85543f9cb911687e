/**
 * The kernel's FUSE protocol in numbers: `include/uapi/linux/fuse.h`, version 7.38, whose names
 * these follow. All integers are in the machine's order, which Node's platforms have little-endian;
 * `kernel-mount.ts` refuses any other.
 */
import type { Layout } from '../../base/layout.ts'
import { layout } from '../../base/layout.ts'

export const FUSE_MAJOR = 7
export const FUSE_MINOR = 38
/** The oldest kernel protocol we speak: Linux 4.20, with 1 MiB requests. */
export const FUSE_MINOR_MIN = 28

export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  TMPFILE: 51,
  STATX: 52,
} as const

/** Flags of INIT that we answer with; the second word counts from bit 32. */
export const InitFlag = {
  ASYNC_READ: 0x1,
  BIG_WRITES: 0x20,
  ASYNC_DIO: 0x8000,
  PARALLEL_DIROPS: 0x40000,
  HANDLE_KILLPRIV: 0x80000,
  MAX_PAGES: 0x400000,
  HANDLE_KILLPRIV_V2: 0x10000000,
  INIT_EXT: 0x40000000,
} as const
export const InitFlag2 = {
  DIRECT_IO_ALLOW_MMAP: 0x10,
} as const

export const OpenFlag = {
  DIRECT_IO: 0x1,
  KEEP_CACHE: 0x2,
  NOFLUSH: 0x20,
  PARALLEL_DIRECT_WRITES: 0x40,
} as const

export const SetattrValid = {
  MODE: 0x1,
  UID: 0x2,
  GID: 0x4,
  SIZE: 0x8,
  MTIME: 0x20,
  MTIME_NOW: 0x100,
} as const

export const RENAME_NOREPLACE = 1

export const S_IFDIR = 0o040000
export const S_IFREG = 0o100000
export const DT_DIR = 4
export const DT_REG = 8

/** Head of every request. */
const inFields = {
  len: 4,
  opcode: 4,
  unique: 8,
  nodeid: 8,
  uid: 4,
  gid: 4,
  pid: 4,
  totalExtlen: 2,
  padding: 2,
} as const
export const IN: Layout<typeof inFields> = layout(inFields)
/** Head of every reply. */
const outFields = { len: 4, error: 4, unique: 8 } as const
export const OUT: Layout<typeof outFields> = layout(outFields)
export const IN_BYTES: number = IN.endOffset
export const OUT_BYTES: number = OUT.endOffset

const attrFields = {
  ino: 8,
  size: 8,
  blocks: 8,
  atime: 8,
  mtime: 8,
  ctime: 8,
  atimensec: 4,
  mtimensec: 4,
  ctimensec: 4,
  mode: 4,
  nlink: 4,
  uid: 4,
  gid: 4,
  rdev: 4,
  blksize: 4,
  flags: 4,
} as const
export const ATTR: Layout<typeof attrFields> = layout(attrFields)
const entryOutFields = {
  nodeid: 8,
  generation: 8,
  entryValid: 8,
  attrValid: 8,
  entryValidNsec: 4,
  attrValidNsec: 4,
  attr: 88,
} as const
export const ENTRY_OUT: Layout<typeof entryOutFields> = layout(entryOutFields)
const attrOutFields = { attrValid: 8, attrValidNsec: 4, dummy: 4, attr: 88 } as const
export const ATTR_OUT: Layout<typeof attrOutFields> = layout(attrOutFields)
const setattrInFields = {
  valid: 4,
  padding: 4,
  fh: 8,
  size: 8,
  lockOwner: 8,
  atime: 8,
  mtime: 8,
  ctime: 8,
  atimensec: 4,
  mtimensec: 4,
  ctimensec: 4,
  mode: 4,
  unused4: 4,
  uid: 4,
  gid: 4,
  unused5: 4,
} as const
export const SETATTR_IN: Layout<typeof setattrInFields> = layout(setattrInFields)
const mkdirInFields = { mode: 4, umask: 4 } as const
export const MKDIR_IN: Layout<typeof mkdirInFields> = layout(mkdirInFields)
const mknodInFields = { mode: 4, rdev: 4, umask: 4, padding: 4 } as const
export const MKNOD_IN: Layout<typeof mknodInFields> = layout(mknodInFields)
const renameInFields = { newdir: 8 } as const
export const RENAME_IN: Layout<typeof renameInFields> = layout(renameInFields)
const rename2InFields = { newdir: 8, flags: 4, padding: 4 } as const
export const RENAME2_IN: Layout<typeof rename2InFields> = layout(rename2InFields)
const openInFields = { flags: 4, openFlags: 4 } as const
export const OPEN_IN: Layout<typeof openInFields> = layout(openInFields)
const createInFields = { flags: 4, mode: 4, umask: 4, openFlags: 4 } as const
export const CREATE_IN: Layout<typeof createInFields> = layout(createInFields)
const openOutFields = { fh: 8, openFlags: 4, backingId: 4 } as const
export const OPEN_OUT: Layout<typeof openOutFields> = layout(openOutFields)
/** Of READ, READDIR and WRITE. */
const rangeInFields = {
  fh: 8,
  offset: 8,
  size: 4,
  operationFlags: 4,
  lockOwner: 8,
  flags: 4,
  padding: 4,
} as const
export const RANGE_IN: Layout<typeof rangeInFields> = layout(rangeInFields)
const writeOutFields = { size: 4, padding: 4 } as const
export const WRITE_OUT: Layout<typeof writeOutFields> = layout(writeOutFields)
const releaseInFields = { fh: 8, flags: 4, releaseFlags: 4, lockOwner: 8 } as const
export const RELEASE_IN: Layout<typeof releaseInFields> = layout(releaseInFields)
const fsyncInFields = { fh: 8, fsyncFlags: 4, padding: 4 } as const
export const FSYNC_IN: Layout<typeof fsyncInFields> = layout(fsyncInFields)
const getxattrInFields = { size: 4, padding: 4 } as const
export const GETXATTR_IN: Layout<typeof getxattrInFields> = layout(getxattrInFields)
const getxattrOutFields = { size: 4, padding: 4 } as const
export const GETXATTR_OUT: Layout<typeof getxattrOutFields> = layout(getxattrOutFields)
const statfsOutFields = {
  blocks: 8,
  bfree: 8,
  bavail: 8,
  files: 8,
  ffree: 8,
  bsize: 4,
  namelen: 4,
  frsize: 4,
  padding: 4,
  spare: 24,
} as const
export const STATFS_OUT: Layout<typeof statfsOutFields> = layout(statfsOutFields)
const initInFields = {
  major: 4,
  minor: 4,
  maxReadahead: 4,
  flags: 4,
  flags2: 4,
  unused: 44,
} as const
export const INIT_IN: Layout<typeof initInFields> = layout(initInFields)
const initOutFields = {
  major: 4,
  minor: 4,
  maxReadahead: 4,
  flags: 4,
  maxBackground: 2,
  congestionThreshold: 2,
  maxWrite: 4,
  timeGran: 4,
  maxPages: 2,
  mapAlignment: 2,
  flags2: 4,
  unused: 28,
} as const
export const INIT_OUT: Layout<typeof initOutFields> = layout(initOutFields)
const fallocateInFields = { fh: 8, offset: 8, length: 8, mode: 4, padding: 4 } as const
export const FALLOCATE_IN: Layout<typeof fallocateInFields> = layout(fallocateInFields)
const lseekInFields = { fh: 8, offset: 8, whence: 4, padding: 4 } as const
export const LSEEK_IN: Layout<typeof lseekInFields> = layout(lseekInFields)
const lseekOutFields = { offset: 8 } as const
export const LSEEK_OUT: Layout<typeof lseekOutFields> = layout(lseekOutFields)
const copyFileRangeInFields = {
  fhIn: 8,
  offIn: 8,
  nodeidOut: 8,
  fhOut: 8,
  offOut: 8,
  len: 8,
  flags: 8,
} as const
export const COPY_FILE_RANGE_IN: Layout<typeof copyFileRangeInFields> =
  layout(copyFileRangeInFields)
const statxOutFields = {
  attrValid: 8,
  attrValidNsec: 4,
  flags: 4,
  spare: 16,
  mask: 4,
  blksize: 4,
  attributes: 8,
  nlink: 4,
  uid: 4,
  gid: 4,
  mode: 2,
  spare0: 2,
  ino: 8,
  size: 8,
  blocks: 8,
  attributesMask: 8,
  atime: 16,
  btime: 16,
  ctime: 16,
  mtime: 16,
  device: 16,
  spare2: 112,
} as const
export const STATX_OUT: Layout<typeof statxOutFields> = layout(statxOutFields)
const direntFields = { ino: 8, off: 8, namelen: 4, type: 4 } as const
export const DIRENT: Layout<typeof direntFields> = layout(direntFields)
