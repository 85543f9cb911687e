/**
 * The kernel's calls that do not move data, one function each: arguments in, a call of the
 * filesystem, the reply's body out. The table at the end says which opcode is which and how many
 * bytes its fixed arguments have; names follow them.
 */
import { constants } from 'node:fs'
import { setUint53, tryUint53 } from '../../base/bytes.ts'
import { Errno, OperatingError } from '../../base/errors.ts'
import {
  COPY_FILE_RANGE_IN,
  CREATE_IN,
  FALLOCATE_IN,
  GETXATTR_IN,
  GETXATTR_OUT,
  LSEEK_IN,
  LSEEK_OUT,
  MKDIR_IN,
  MKNOD_IN,
  OPEN_IN,
  Opcode,
  OpenFlag,
  RANGE_IN,
  RELEASE_IN,
  RENAME2_IN,
  RENAME_IN,
  RENAME_NOREPLACE,
  SETATTR_IN,
  S_IFREG,
  SetattrValid,
  WRITE_OUT,
} from './abi.ts'
import {
  encodeAttributesReply,
  encodeEntry,
  encodeListing,
  encodeOpen,
  encodeSpace,
  encodeStatx,
} from './encode.ts'
import { errnoOf, refusal } from './errors.ts'
import { meaningOf } from './nodes.ts'
import type { OpenFile, OpenFiles } from './open-files.ts'
import { CLIENT_PREFIX } from './operations.ts'
import type {
  AttributeChanges,
  Attributes,
  DirectoryEntry,
  FileOperations,
  HandleNumber,
  NodeNumber,
} from './operations.ts'

/** What a mount has open: files are closed when it ends without their RELEASE. */
export interface OpenTable {
  readonly files: OpenFiles
  /** Listings begun, each as it was at its opendir(3). */
  readonly listings: Map<number, DirectoryEntry[]>
}

/** One request and the room for its reply. */
export interface Call {
  readonly operations: FileOperations
  readonly open: OpenTable
  /** Files that must stay open until the call has ended. */
  readonly used: OpenFile[]
  readonly node: NodeNumber
  readonly processId: number
  /** Everything behind the head; valid until the reply's body is written. */
  readonly args: Buffer
  readonly view: DataView
  readonly replyView: DataView
  readonly replyAt: number
  /** For replies that do not fit there. */
  readonly memory: Buffer
  readonly bodyAt: number
  readonly bodyRoomBytes: number
  /** Set when the reply is in the body. */
  bodyBytes: number
}

/** Resolves to the length of the short reply; 0 where it has none or it is in the body. */
type Handler = (call: Call) => Promise<number>

/** How long a name that always leads to the same folder may be believed. */
const FIXED_NAME_VALID_SECONDS = 3600
const LISTING_COUNT_MAX = 4096
/** Of all listings together: 128 MiB or so. */
const LISTED_ENTRY_COUNT_MAX = 1 << 20
const O_ACCMODE = 3
const MODE_BITS = 0o7777
const TYPE_BITS = 0o170000

function uint53(call: Call, offset: number): number {
  const value = tryUint53(call.view, offset)
  if (value === null) throw refusal(Errno.EFBIG, 'an offset beyond every file')
  return value
}

function openHandle(call: Call, offset: number): HandleNumber {
  const file = call.open.files.tryUse(uint53(call, offset))
  if (file === null) throw refusal(Errno.EBADF, 'a file that is not open')
  call.used.push(file)
  return file.handle
}

/** The strings behind the fixed arguments. */
function names(call: Call, offset: number, count: number): string[] {
  const found: string[] = []
  let at = offset
  while (found.length < count) {
    const end = call.args.indexOf(0, at)
    if (end < 0) throw refusal(Errno.EINVAL, 'a name without an end')
    found.push(call.args.toString('utf8', at, end))
    at = end + 1
  }
  return found
}

function replyEntry(call: Call, attributes: Attributes): number {
  const meaning = meaningOf(attributes.node)
  const isFixed = meaning?.diskId === 0
  const validSeconds = isFixed ? FIXED_NAME_VALID_SECONDS : 0
  return encodeEntry(call.replyView, call.replyAt, attributes, validSeconds)
}

async function lookup(call: Call): Promise<number> {
  const [name] = names(call, 0, 1)
  return replyEntry(call, await call.operations.lookup(call.node, name))
}

async function attributes(call: Call): Promise<number> {
  const found = await call.operations.attributes(call.node)
  return encodeAttributesReply(call.replyView, call.replyAt, found)
}

async function statx(call: Call): Promise<number> {
  const found = await call.operations.attributes(call.node)
  return encodeStatx(call.replyView, call.replyAt, found)
}

async function setAttributes(call: Call): Promise<number> {
  const { view } = call
  const valid = view.getUint32(SETATTR_IN.valid, true)
  const changes: AttributeChanges = {}
  if ((valid & SetattrValid.MODE) !== 0) {
    changes.mode = view.getUint32(SETATTR_IN.mode, true) & MODE_BITS
  }
  if ((valid & SetattrValid.UID) !== 0) changes.userId = view.getUint32(SETATTR_IN.uid, true)
  if ((valid & SetattrValid.GID) !== 0) changes.groupId = view.getUint32(SETATTR_IN.gid, true)
  if ((valid & SetattrValid.SIZE) !== 0) changes.sizeBytes = uint53(call, SETATTR_IN.size)
  if ((valid & SetattrValid.MTIME_NOW) !== 0) {
    changes.modifiedMs = Date.now()
  } else if ((valid & SetattrValid.MTIME) !== 0) {
    const seconds = tryUint53(view, SETATTR_IN.mtime)
    const nanoseconds = view.getUint32(SETATTR_IN.mtimensec, true)
    // A time before 1970 comes as a huge number; it is not kept.
    if (seconds !== null) changes.modifiedMs = seconds * 1000 + Math.floor(nanoseconds / 1e6)
  }
  const found = await call.operations.change(call.node, changes)
  return encodeAttributesReply(call.replyView, call.replyAt, found)
}

async function makeNode(call: Call): Promise<number> {
  const mode = call.view.getUint32(MKNOD_IN.mode, true)
  if ((mode & TYPE_BITS) !== S_IFREG) throw refusal(Errno.EPERM, 'there are only disks here')
  const [name] = names(call, MKNOD_IN.endOffset, 1)
  return replyEntry(call, await call.operations.create(call.node, name))
}

async function makeDirectory(call: Call): Promise<number> {
  const [name] = names(call, MKDIR_IN.endOffset, 1)
  return replyEntry(call, await call.operations.makeDirectory(call.node, name))
}

async function unlink(call: Call): Promise<number> {
  const [name] = names(call, 0, 1)
  await call.operations.unlink(call.node, name)
  return 0
}

async function removeDirectory(call: Call): Promise<number> {
  const [name] = names(call, 0, 1)
  await call.operations.removeDirectory(call.node, name)
  return 0
}

/** `namesAt`: where the fixed arguments end; the new folder begins both kinds of them. */
async function renameWith(call: Call, namesAt: number): Promise<number> {
  const [name, newName] = names(call, namesAt, 2)
  const newParent = uint53(call, RENAME_IN.newdir)
  await call.operations.rename(call.node, name, newParent, newName)
  return 0
}

function rename(call: Call): Promise<number> {
  return renameWith(call, RENAME_IN.endOffset)
}

async function rename2(call: Call): Promise<number> {
  const flags = call.view.getUint32(RENAME2_IN.flags, true)
  if ((flags & ~RENAME_NOREPLACE) !== 0) throw refusal(Errno.EINVAL, 'names are not exchanged')
  return renameWith(call, RENAME2_IN.endOffset)
}

/** Opens, and says how the kernel is to treat it. */
function openNode(call: Call, node: NodeNumber, flags: number): { handle: number; how: number } {
  const isWritable = (flags & O_ACCMODE) !== constants.O_RDONLY
  const client = `${CLIENT_PREFIX}, process ${call.processId}`
  const handle = call.operations.open(node, isWritable, client)
  call.open.files.add(handle)
  const isDirect = (flags & constants.O_DIRECT) !== 0
  // Nothing is kept back that a close would have to bring out.
  const how = isDirect
    ? OpenFlag.NOFLUSH | OpenFlag.DIRECT_IO | OpenFlag.PARALLEL_DIRECT_WRITES
    : OpenFlag.NOFLUSH
  return { handle, how }
}

async function openFile(call: Call): Promise<number> {
  const flags = call.view.getUint32(OPEN_IN.flags, true)
  const { handle, how } = openNode(call, call.node, flags)
  return encodeOpen(call.replyView, call.replyAt, handle, how)
}

async function createFile(call: Call): Promise<number> {
  const flags = call.view.getUint32(CREATE_IN.flags, true)
  const [name] = names(call, CREATE_IN.endOffset, 1)
  const { operations, node } = call
  let made: Attributes
  try {
    made = await operations.create(node, name)
  } catch (error) {
    // Made by someone else since the kernel looked.
    const isThere = error instanceof OperatingError && errnoOf(error) === Errno.EEXIST
    if (!isThere || (flags & constants.O_EXCL) !== 0) throw error
    made = await operations.lookup(node, name)
    // The kernel takes it for new and does not truncate it itself.
    if ((flags & constants.O_TRUNC) !== 0) {
      made = await operations.change(made.node, { sizeBytes: 0 })
    }
  }
  const { handle, how } = openNode(call, made.node, flags)
  const entryBytes = replyEntry(call, made)
  return entryBytes + encodeOpen(call.replyView, call.replyAt + entryBytes, handle, how)
}

async function release(call: Call): Promise<number> {
  call.open.files.release(uint53(call, RELEASE_IN.fh))
  return 0
}

async function openDirectory(call: Call): Promise<number> {
  const { listings } = call.open
  if (listings.size >= LISTING_COUNT_MAX) throw refusal(Errno.ENFILE, 'too many listings are open')
  const entries = await call.operations.list(call.node)
  let listedCount = entries.length
  for (const listing of listings.values()) listedCount += listing.length
  // The first one opens however long it is.
  if (listings.size > 0 && listedCount > LISTED_ENTRY_COUNT_MAX) {
    throw refusal(Errno.ENFILE, 'the listings that are open are too long')
  }
  let handle = listings.size
  while (listings.has(handle)) handle += 1
  const here = { node: call.node, isDirectory: true }
  listings.set(handle, [{ name: '.', ...here }, { name: '..', ...here }, ...entries])
  return encodeOpen(call.replyView, call.replyAt, handle, 0)
}

async function readDirectory(call: Call): Promise<number> {
  const entries = call.open.listings.get(uint53(call, RANGE_IN.fh))
  if (entries === undefined) throw refusal(Errno.EBADF, 'no such listing')
  const first = uint53(call, RANGE_IN.offset)
  const roomBytes = Math.min(call.view.getUint32(RANGE_IN.size, true), call.bodyRoomBytes)
  call.bodyBytes = encodeListing(call.memory, call.bodyAt, roomBytes, entries, first)
  return 0
}

async function releaseDirectory(call: Call): Promise<number> {
  call.open.listings.delete(uint53(call, RELEASE_IN.fh))
  return 0
}

async function space(call: Call): Promise<number> {
  return encodeSpace(call.replyView, call.replyAt, await call.operations.space())
}

/** A value, or (asked with no room) its length. */
function replyValue(call: Call, value: Buffer): number {
  const roomBytes = call.view.getUint32(GETXATTR_IN.size, true)
  if (roomBytes === 0) {
    call.replyView.setUint32(call.replyAt + GETXATTR_OUT.size, value.length, true)
    call.replyView.setUint32(call.replyAt + GETXATTR_OUT.padding, 0, true)
    return GETXATTR_OUT.endOffset
  }
  if (value.length > Math.min(roomBytes, call.bodyRoomBytes)) {
    throw refusal(Errno.ERANGE, 'the attribute is longer than the room for it')
  }
  value.copy(call.memory, call.bodyAt)
  call.bodyBytes = value.length
  return 0
}

async function getAttribute(call: Call): Promise<number> {
  const [name] = names(call, GETXATTR_IN.endOffset, 1)
  return replyValue(call, Buffer.from(await call.operations.attribute(call.node, name)))
}

async function listAttributes(call: Call): Promise<number> {
  const found = await call.operations.attributeNames(call.node)
  return replyValue(call, Buffer.from(found.map((name) => `${name}\0`).join('')))
}

async function allocate(call: Call): Promise<number> {
  const mode = call.view.getUint32(FALLOCATE_IN.mode, true)
  const handle = openHandle(call, FALLOCATE_IN.fh)
  const offsetBytes = uint53(call, FALLOCATE_IN.offset)
  const lengthBytes = uint53(call, FALLOCATE_IN.length)
  await call.operations.allocate(handle, mode, offsetBytes, lengthBytes)
  return 0
}

async function seek(call: Call): Promise<number> {
  const handle = openHandle(call, LSEEK_IN.fh)
  const whence = call.view.getUint32(LSEEK_IN.whence, true)
  const offsetBytes = tryUint53(call.view, LSEEK_IN.offset)
  // An offset before the beginning comes as a huge number; neither is in the file.
  if (offsetBytes === null) throw refusal(Errno.ENXIO, 'this offset is not in the file')
  const found = await call.operations.seek(handle, offsetBytes, whence)
  setUint53(call.replyView, call.replyAt + LSEEK_OUT.offset, found)
  return LSEEK_OUT.endOffset
}

async function copyRange(call: Call): Promise<number> {
  const from = openHandle(call, COPY_FILE_RANGE_IN.fhIn)
  const to = openHandle(call, COPY_FILE_RANGE_IN.fhOut)
  const fromBytes = uint53(call, COPY_FILE_RANGE_IN.offIn)
  const toBytes = uint53(call, COPY_FILE_RANGE_IN.offOut)
  const lengthBytes = uint53(call, COPY_FILE_RANGE_IN.len)
  const copied = await call.operations.copyRange(from, fromBytes, to, toBytes, lengthBytes)
  call.replyView.setUint32(call.replyAt + WRITE_OUT.size, copied, true)
  call.replyView.setUint32(call.replyAt + WRITE_OUT.padding, 0, true)
  return WRITE_OUT.endOffset
}

async function done(): Promise<number> {
  return 0
}

async function refuseLink(): Promise<number> {
  throw refusal(Errno.EPERM, 'a disk has one name')
}

async function refuseAttribute(): Promise<number> {
  throw refusal(Errno.EPERM, 'attributes here only tell')
}

export interface CallKind {
  /** Fixed arguments; a shorter request is refused. */
  argumentBytes: number
  handle: Handler
}

/** By opcode. What is not here, nor about data, is refused as ENOSYS, and not asked again. */
export const CALLS: ReadonlyMap<number, CallKind> = new Map([
  [Opcode.LOOKUP, { argumentBytes: 0, handle: lookup }],
  [Opcode.GETATTR, { argumentBytes: 0, handle: attributes }],
  [Opcode.SETATTR, { argumentBytes: SETATTR_IN.endOffset, handle: setAttributes }],
  [Opcode.SYMLINK, { argumentBytes: 0, handle: refuseLink }],
  [Opcode.LINK, { argumentBytes: 0, handle: refuseLink }],
  [Opcode.MKNOD, { argumentBytes: MKNOD_IN.endOffset, handle: makeNode }],
  [Opcode.MKDIR, { argumentBytes: MKDIR_IN.endOffset, handle: makeDirectory }],
  [Opcode.UNLINK, { argumentBytes: 0, handle: unlink }],
  [Opcode.RMDIR, { argumentBytes: 0, handle: removeDirectory }],
  [Opcode.RENAME, { argumentBytes: RENAME_IN.endOffset, handle: rename }],
  [Opcode.RENAME2, { argumentBytes: RENAME2_IN.endOffset, handle: rename2 }],
  [Opcode.OPEN, { argumentBytes: OPEN_IN.endOffset, handle: openFile }],
  [Opcode.CREATE, { argumentBytes: CREATE_IN.endOffset, handle: createFile }],
  [Opcode.RELEASE, { argumentBytes: RELEASE_IN.endOffset, handle: release }],
  [Opcode.OPENDIR, { argumentBytes: 0, handle: openDirectory }],
  [Opcode.READDIR, { argumentBytes: RANGE_IN.endOffset, handle: readDirectory }],
  [Opcode.RELEASEDIR, { argumentBytes: RELEASE_IN.endOffset, handle: releaseDirectory }],
  // What is done to names is durable when it is answered.
  [Opcode.FSYNCDIR, { argumentBytes: 0, handle: done }],
  [Opcode.STATFS, { argumentBytes: 0, handle: space }],
  [Opcode.SETXATTR, { argumentBytes: 0, handle: refuseAttribute }],
  [Opcode.REMOVEXATTR, { argumentBytes: 0, handle: refuseAttribute }],
  [Opcode.GETXATTR, { argumentBytes: GETXATTR_IN.endOffset, handle: getAttribute }],
  [Opcode.LISTXATTR, { argumentBytes: GETXATTR_IN.endOffset, handle: listAttributes }],
  [Opcode.FALLOCATE, { argumentBytes: FALLOCATE_IN.endOffset, handle: allocate }],
  [Opcode.LSEEK, { argumentBytes: LSEEK_IN.endOffset, handle: seek }],
  [Opcode.COPY_FILE_RANGE, { argumentBytes: COPY_FILE_RANGE_IN.endOffset, handle: copyRange }],
  [Opcode.STATX, { argumentBytes: 0, handle: statx }],
  [Opcode.DESTROY, { argumentBytes: 0, handle: done }],
])
