/** A filesystem called as a transport would, and one over a tree in memory. */
import { must } from '../../src/base/assert.ts'
import { errnoOf } from '../../src/export/fuse/errors.ts'
import { PoolFilesystem } from '../../src/export/fuse/filesystem.ts'
import type { FileOperations, HandleNumber, NodeNumber } from '../../src/export/fuse/operations.ts'
import { FALLOC_KEEP_SIZE, SEEK_DATA, SEEK_HOLE } from '../../src/export/fuse/operations.ts'
import type { TargetCompletion } from '../../src/export/target.ts'
import type { Arena } from '../../src/io/arena.ts'
import { BuddyArena } from '../../src/io/buddy-arena.ts'
import type { MemoryTreeOptions } from './memory-tree.ts'
import { MemoryTree } from './memory-tree.ts'

export const STARTED_MS = 1_000_000
export const OWNER = { userId: 1000, groupId: 100 }

export interface RigOptions extends Omit<MemoryTreeOptions, 'arena'> {
  allowOther?: boolean
}

/** Bytes from `start` to before `end`. */
export type Range = [start: number, end: number]

/** Calls a filesystem as a transport would. */
export class FilesystemDriver {
  readonly arena: Arena
  readonly files: FileOperations
  #nextTag = 1

  constructor(files: FileOperations, arena: Arena) {
    this.files = files
    this.arena = arena
  }

  /** The node of a path from the root. */
  async node(path: string): Promise<NodeNumber> {
    let node = 1
    for (const name of path.split('/').filter((part) => part !== '')) {
      node = (await this.files.lookup(node, name)).node
    }
    return node
  }

  async open(path: string, isWritable = true): Promise<HandleNumber> {
    return this.files.open(await this.node(path), isWritable, 'fuse: test')
  }

  /** The result: 0 or -errno. */
  async write(handle: HandleNumber, offsetBytes: number, bytes: Buffer): Promise<number> {
    const piece = this.#take(bytes.length)
    bytes.copy(this.arena.memory, piece)
    const result = await this.#operate((completion, tag) => {
      this.files.write(handle, offsetBytes, bytes.length, piece, completion, tag)
    })
    this.arena.free(piece, Math.max(1, bytes.length))
    return result
  }

  async read(handle: HandleNumber, offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    const count = this.files.readableBytes(handle, offsetBytes, lengthBytes)
    if (count === 0) return Buffer.alloc(0)
    const piece = this.#take(count)
    const result = await this.#operate((completion, tag) => {
      this.files.read(handle, offsetBytes, count, piece, completion, tag)
    })
    if (result !== 0) throw new Error(`read: ${result}`)
    const bytes = Buffer.from(this.arena.memory.subarray(piece, piece + count))
    this.arena.free(piece, count)
    return bytes
  }

  flush(handle: HandleNumber): Promise<number> {
    return this.#operate((completion, tag) => this.files.flush(handle, completion, tag))
  }

  punch(handle: HandleNumber, offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.files.allocate(handle, 2 | FALLOC_KEEP_SIZE, offsetBytes, lengthBytes)
  }

  /** What SEEK_DATA and SEEK_HOLE find from the start to the end. */
  async dataRanges(handle: HandleNumber): Promise<Range[]> {
    const ranges: Range[] = []
    let at = 0
    for (;;) {
      const start = await this.files.seek(handle, at, SEEK_DATA).catch(() => -1)
      if (start < 0) return ranges
      at = await this.files.seek(handle, start, SEEK_HOLE)
      ranges.push([start, at])
      const sizeBytes = this.files.readableBytes(handle, 0, Number.MAX_SAFE_INTEGER)
      if (at === sizeBytes) return ranges
    }
  }

  #take(lengthBytes: number): number {
    const piece = this.arena.allocate(Math.max(1, lengthBytes))
    return must(piece < 0 ? null : piece, 'room in the arena')
  }

  async #operate(start: (completion: TargetCompletion, tag: number) => void): Promise<number> {
    const tag = this.#nextTag
    this.#nextTag += 1
    return new Promise((resolve, reject) => {
      let isInside = true
      const targetComplete = (completedTag: number, result: number): void => {
        if (isInside) reject(new Error('completed inside the call'))
        if (completedTag !== tag) reject(new Error('completed with another tag'))
        resolve(result)
      }
      start({ targetComplete }, tag)
      isInside = false
    })
  }
}

export class FilesystemRig extends FilesystemDriver {
  readonly tree: MemoryTree
  declare readonly files: PoolFilesystem

  constructor({ allowOther = false, ...rest }: RigOptions = {}) {
    const arena = new BuddyArena(Buffer.alloc(16 << 20))
    const tree = new MemoryTree({ arena, nowMs: () => STARTED_MS, ...rest })
    const options = { allowOther, startedMs: STARTED_MS, arena }
    super(new PoolFilesystem(tree, OWNER, options), arena)
    this.tree = tree
  }
}

/**
 * Two volumes: `web` of 3 blocks and 5 bytes, with 10 bytes in its second block and a snapshot
 * `monday`, and an empty `db`. Their ids are 1 and 2, the snapshot's is 3.
 */
export function populated(options: RigOptions = {}): FilesystemRig {
  const rig = new FilesystemRig(options)
  const web = rig.tree.addVolume('web', 3 * 4096 + 5)
  rig.tree.addVolume('db', 0)
  rig.tree.disk(web.id).tryPut(4096, pattern(10, 1))
  rig.tree.addSnapshot(web.id, 'monday')
  return rig
}

/** Lets everything that is ready happen. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** The errno that it throws or rejects with; 0 when it does not. */
export async function errnoFrom(work: Promise<unknown> | (() => unknown)): Promise<number> {
  try {
    await (typeof work === 'function' ? work() : work)
    return 0
  } catch (error) {
    return errnoOf(error)
  }
}

/** Bytes of which none is zero. */
export function pattern(lengthBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  for (let i = 0; i < lengthBytes; i += 1) bytes[i] = 1 + ((i * 7 + (i >> 8) * 13 + seed) % 255)
  return bytes
}
