/**
 * Reading the inodes of an ext4 filesystem that `mke2fs` has just made, by the layout in the
 * kernel's Documentation/filesystems/ext4. Only what is needed to find inodes again; all little
 * endian.
 *
 *   superblock, at 1024:   0 inode count   16 free inodes   40 inodes per group   88 inode size
 *                        254 descriptor size
 *   group descriptor, from block 1:          8 inode table, low   40 inode table, high
 *   inode:   0 mode   2 uid   8 atime  12 ctime  16 mtime  24 gid  26 links  120 uid high
 *          122 gid high
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { assert } from '../../base/assert.ts'
import { BLOCK_SIZE_BYTES } from '../../base/units.ts'

export interface FoundInode {
  inode: number
  mode: number
  userId: number
  groupId: number
  /** The low 32 bits. */
  mtimeSeconds: number
  linkCount: number
}

/** The first that is nobody's by convention is `lost+found`; the tree's come after it. */
export const FIRST_TREE_INODE = 12
export const ROOT_INODE = 2

const SUPERBLOCK_OFFSET = 1024
const SUPERBLOCK_MAGIC = 0xef53

/** Every inode in use from the first of the tree's, in ascending order. */
export function readInodes(imagePath: string): FoundInode[] {
  const fd = openSync(imagePath, 'r')
  try {
    const superblock = readAt(fd, SUPERBLOCK_OFFSET, 1024)
    assert(superblock.readUInt16LE(56) === SUPERBLOCK_MAGIC, 'mke2fs makes ext4')
    const inodeCount = superblock.readUInt32LE(0)
    const usedCount = inodeCount - superblock.readUInt32LE(16)
    const groupInodeCount = superblock.readUInt32LE(40)
    const inodeBytes = superblock.readUInt16LE(88)
    const descriptorBytes = superblock.readUInt16LE(254)
    const found: FoundInode[] = []
    for (let first = 0; first < inodeCount; first += groupInodeCount) {
      const at = BLOCK_SIZE_BYTES + (first / groupInodeCount) * descriptorBytes
      const descriptor = readAt(fd, at, descriptorBytes)
      const block = descriptor.readUInt32LE(8) + descriptor.readUInt32LE(40) * 2 ** 32
      const table = readAt(fd, block * BLOCK_SIZE_BYTES, groupInodeCount * inodeBytes)
      for (let index = 0; index < groupInodeCount; index += 1) {
        const inode = first + index + 1
        if (inode < FIRST_TREE_INODE) continue
        const one = decodeInode(table.subarray(index * inodeBytes, (index + 1) * inodeBytes), inode)
        if (one.linkCount > 0) found.push(one)
      }
      // Inodes are given out in order: the rest of a large filesystem is not looked through.
      if (found.length + FIRST_TREE_INODE - 1 >= usedCount) break
    }
    assert(found.length + FIRST_TREE_INODE - 1 === usedCount, 'every inode in use is found')
    return found
  } finally {
    closeSync(fd)
  }
}

function decodeInode(bytes: Buffer, inode: number): FoundInode {
  return {
    inode,
    mode: bytes.readUInt16LE(0),
    userId: bytes.readUInt16LE(2) + bytes.readUInt16LE(120) * 65536,
    groupId: bytes.readUInt16LE(24) + bytes.readUInt16LE(122) * 65536,
    mtimeSeconds: bytes.readUInt32LE(16),
    linkCount: bytes.readUInt16LE(26),
  }
}

function readAt(fd: number, offsetBytes: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  for (let done = 0; done < lengthBytes;) {
    const count = readSync(fd, bytes, done, lengthBytes - done, offsetBytes + done)
    assert(count > 0, 'an inode table lies within its filesystem')
    done += count
  }
  return bytes
}
