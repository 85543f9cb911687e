/** Bodies of replies, written into memory at an offset. Layouts are in `abi.ts`. */
import { setUint53, setZeros } from '../../base/bytes.ts'
import { BLOCK_SIZE_BYTES } from '../../base/units.ts'
import {
  ATTR,
  ATTR_OUT,
  DIRENT,
  DT_DIR,
  DT_REG,
  ENTRY_OUT,
  OPEN_OUT,
  STATFS_OUT,
  STATX_OUT,
  S_IFDIR,
  S_IFREG,
} from './abi.ts'
import { NAME_BYTES_MAX } from './names.ts'
import type { Attributes, DirectoryEntry, FilesystemSpace } from './operations.ts'

/** How long the kernel may believe attributes; a change made elsewhere shows after that. */
export const ATTRIBUTES_VALID_SECONDS = 1
const SECTOR_BYTES = 512
/** statx(2): type, mode, links, owner, times, inode, size, blocks, and the time of birth. */
const STATX_BASIC_AND_BTIME = 0xfff
const DIRENT_ALIGNMENT = 8

function setTime(
  view: DataView,
  secondsAt: number,
  nanosecondsAt: number,
  milliseconds: number,
): void {
  setUint53(view, secondsAt, Math.floor(milliseconds / 1000))
  view.setUint32(nanosecondsAt, Math.floor(milliseconds % 1000) * 1_000_000, true)
}

function typeAndMode(attributes: Attributes): number {
  return attributes.mode | (attributes.isDirectory ? S_IFDIR : S_IFREG)
}

function encodeAttributes(view: DataView, at: number, attributes: Attributes): void {
  setUint53(view, at + ATTR.ino, attributes.node)
  setUint53(view, at + ATTR.size, attributes.sizeBytes)
  setUint53(view, at + ATTR.blocks, Math.ceil(attributes.allocatedBytes / SECTOR_BYTES))
  setTime(view, at + ATTR.atime, at + ATTR.atimensec, attributes.modifiedMs)
  setTime(view, at + ATTR.mtime, at + ATTR.mtimensec, attributes.modifiedMs)
  setTime(view, at + ATTR.ctime, at + ATTR.ctimensec, attributes.modifiedMs)
  view.setUint32(at + ATTR.mode, typeAndMode(attributes), true)
  view.setUint32(at + ATTR.nlink, attributes.linkCount, true)
  view.setUint32(at + ATTR.uid, attributes.userId, true)
  view.setUint32(at + ATTR.gid, attributes.groupId, true)
  view.setUint32(at + ATTR.rdev, 0, true)
  view.setUint32(at + ATTR.blksize, BLOCK_SIZE_BYTES, true)
  view.setUint32(at + ATTR.flags, 0, true)
}

/** `validSeconds`: how long the kernel may believe that the name leads here. */
export function encodeEntry(
  view: DataView,
  at: number,
  attributes: Attributes,
  validSeconds: number,
): number {
  setUint53(view, at + ENTRY_OUT.nodeid, attributes.node)
  // Numbers are never used again, so one generation is all there is.
  setUint53(view, at + ENTRY_OUT.generation, 0)
  setUint53(view, at + ENTRY_OUT.entryValid, validSeconds)
  setUint53(view, at + ENTRY_OUT.attrValid, ATTRIBUTES_VALID_SECONDS)
  view.setUint32(at + ENTRY_OUT.entryValidNsec, 0, true)
  view.setUint32(at + ENTRY_OUT.attrValidNsec, 0, true)
  encodeAttributes(view, at + ENTRY_OUT.attr, attributes)
  return ENTRY_OUT.endOffset
}

export function encodeAttributesReply(view: DataView, at: number, attributes: Attributes): number {
  setUint53(view, at + ATTR_OUT.attrValid, ATTRIBUTES_VALID_SECONDS)
  view.setUint32(at + ATTR_OUT.attrValidNsec, 0, true)
  view.setUint32(at + ATTR_OUT.dummy, 0, true)
  encodeAttributes(view, at + ATTR_OUT.attr, attributes)
  return ATTR_OUT.endOffset
}

export function encodeStatx(view: DataView, at: number, attributes: Attributes): number {
  setZeros(view, at, STATX_OUT.endOffset)
  setUint53(view, at + STATX_OUT.attrValid, ATTRIBUTES_VALID_SECONDS)
  view.setUint32(at + STATX_OUT.mask, STATX_BASIC_AND_BTIME, true)
  view.setUint32(at + STATX_OUT.blksize, BLOCK_SIZE_BYTES, true)
  view.setUint32(at + STATX_OUT.nlink, attributes.linkCount, true)
  view.setUint32(at + STATX_OUT.uid, attributes.userId, true)
  view.setUint32(at + STATX_OUT.gid, attributes.groupId, true)
  view.setUint16(at + STATX_OUT.mode, typeAndMode(attributes), true)
  setUint53(view, at + STATX_OUT.ino, attributes.node)
  setUint53(view, at + STATX_OUT.size, attributes.sizeBytes)
  setUint53(view, at + STATX_OUT.blocks, Math.ceil(attributes.allocatedBytes / SECTOR_BYTES))
  const { createdMs, modifiedMs } = attributes
  for (const field of [STATX_OUT.atime, STATX_OUT.ctime, STATX_OUT.mtime]) {
    setTime(view, at + field, at + field + 8, modifiedMs)
  }
  setTime(view, at + STATX_OUT.btime, at + STATX_OUT.btime + 8, createdMs)
  return STATX_OUT.endOffset
}

export function encodeOpen(view: DataView, at: number, handle: number, flags: number): number {
  setUint53(view, at + OPEN_OUT.fh, handle)
  view.setUint32(at + OPEN_OUT.openFlags, flags, true)
  view.setUint32(at + OPEN_OUT.backingId, 0, true)
  return OPEN_OUT.endOffset
}

export function encodeSpace(view: DataView, at: number, space: FilesystemSpace): number {
  const freeBlocks = Math.floor(space.freeBytes / BLOCK_SIZE_BYTES)
  setUint53(view, at + STATFS_OUT.blocks, Math.floor(space.totalBytes / BLOCK_SIZE_BYTES))
  setUint53(view, at + STATFS_OUT.bfree, freeBlocks)
  setUint53(view, at + STATFS_OUT.bavail, freeBlocks)
  setUint53(view, at + STATFS_OUT.files, space.nodeCount)
  setUint53(view, at + STATFS_OUT.ffree, 0)
  view.setUint32(at + STATFS_OUT.bsize, BLOCK_SIZE_BYTES, true)
  view.setUint32(at + STATFS_OUT.namelen, NAME_BYTES_MAX, true)
  view.setUint32(at + STATFS_OUT.frsize, BLOCK_SIZE_BYTES, true)
  setZeros(view, at + STATFS_OUT.padding, STATFS_OUT.endOffset - STATFS_OUT.padding)
  return STATFS_OUT.endOffset
}

/**
 * As many entries from `first` on as fit `roomBytes`; returns the bytes written. An entry's offset
 * is the index to go on from.
 */
export function encodeListing(
  memory: Buffer,
  at: number,
  roomBytes: number,
  entries: readonly DirectoryEntry[],
  first: number,
): number {
  const view = new DataView(memory.buffer, memory.byteOffset + at, roomBytes)
  let offset = 0
  for (let index = first; index < entries.length; index++) {
    const { name, node, isDirectory } = entries[index]
    const nameBytes = Buffer.byteLength(name)
    const usedBytes = DIRENT.endOffset + nameBytes
    const entryBytes = Math.ceil(usedBytes / DIRENT_ALIGNMENT) * DIRENT_ALIGNMENT
    if (offset + entryBytes > roomBytes) break
    setUint53(view, offset + DIRENT.ino, node)
    setUint53(view, offset + DIRENT.off, index + 1)
    view.setUint32(offset + DIRENT.namelen, nameBytes, true)
    view.setUint32(offset + DIRENT.type, isDirectory ? DT_DIR : DT_REG, true)
    memory.write(name, at + offset + DIRENT.endOffset, 'utf8')
    memory.fill(0, at + offset + usedBytes, at + offset + entryBytes)
    offset += entryBytes
  }
  return offset
}
