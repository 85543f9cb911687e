/** Clients that reach disks as files: data through open files, control through the tree. */
import { constants } from 'node:fs'
import { setUint53 } from '../../src/base/bytes.ts'
import { OperatingError } from '../../src/base/errors.ts'
import {
  COPY_FILE_RANGE_IN,
  ENTRY_OUT,
  FALLOCATE_IN,
  FSYNC_IN,
  MKDIR_IN,
  OPEN_IN,
  OPEN_OUT,
  Opcode,
  RANGE_IN,
  RELEASE_IN,
  RENAME_IN,
  SETATTR_IN,
  SetattrValid,
} from '../../src/export/fuse/abi.ts'
import { VOLUMES_NODE, diskNode, snapshotsNode } from '../../src/export/fuse/nodes.ts'
import {
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
} from '../../src/export/fuse/operations.ts'
import type { TargetCompletion } from '../../src/export/target.ts'
import { WRITE_FUA } from '../../src/export/target.ts'
import type { Arena } from '../../src/io/arena.ts'
import type { CopyRequest } from '../../src/pool/copy-range.ts'
import type { RemoveRequest } from '../../src/pool/types.ts'
import type { ReplyListener, SimKernel } from './fuse-kernel.ts'
import { UNANSWERED } from './guest.ts'
import type { Guest } from './guest.ts'
import type { SimPool } from './pool-under-test.ts'

export class FuseGuest implements Guest {
  readonly volume: string
  readonly #arena: Arena
  readonly #kernel: SimKernel
  #handle = 0
  #node = 0
  /** Requests that wait for the file to be open. */
  #waiting: (() => void)[] | null = []
  #hasFailed = false

  constructor(volume: string, arena: Arena, kernel: SimKernel) {
    this.volume = volume
    this.#arena = arena
    this.#kernel = kernel
    this.#open().catch((error: unknown) => {
      if (!(error instanceof OperatingError)) throw error
      this.#hasFailed = true
      this.#begin()
    })
  }

  get isGone(): boolean {
    return this.#kernel.isAborted || this.#hasFailed
  }

  read(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#whenOpen(() => {
      const args = rangeArgs(this.#handle, offsetBytes, lengthBytes)
      this.#ask(Opcode.READ, this.#node, args, (error, body) => {
        if (error === 0) this.#arena.memory.set(body, arenaOffset)
        const isShort = error === 0 && body.length !== lengthBytes
        if (isShort) throw new Error(`a read of ${lengthBytes} bytes gave ${body.length}`)
        completion.targetComplete(tag, error)
      })
    })
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const { memory } = this.#arena
    const data = Buffer.from(memory.subarray(arenaOffset, arenaOffset + lengthBytes))
    this.#whenOpen(() => {
      const args = Buffer.concat([rangeArgs(this.#handle, offsetBytes, lengthBytes), data])
      this.#ask(Opcode.WRITE, this.#node, args, (error) => {
        this.#end(error, flags, completion, tag)
      })
    })
  }

  flush(completion: TargetCompletion, tag: number): void {
    this.#whenOpen(() => {
      const args = Buffer.alloc(FSYNC_IN.endOffset)
      setUint53(viewOf(args), FSYNC_IN.fh, this.#handle)
      this.#ask(Opcode.FSYNC, this.#node, args, (error) => {
        completion.targetComplete(tag, error)
      })
    })
  }

  trim(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#allocate(FALLOC_PUNCH_HOLE, offsetBytes, lengthBytes, flags, completion, tag)
  }

  zero(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#allocate(FALLOC_ZERO_RANGE, offsetBytes, lengthBytes, flags, completion, tag)
  }

  die(): void {
    void this.#kernel.abort()
  }

  async leave(): Promise<void> {
    if (this.isGone) return
    const args = Buffer.alloc(RELEASE_IN.endOffset)
    await new Promise<void>((resolve) => {
      this.#whenOpen(() => {
        setUint53(viewOf(args), RELEASE_IN.fh, this.#handle)
        this.#ask(Opcode.RELEASE, this.#node, args, () => resolve())
      })
    })
  }

  #allocate(
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#whenOpen(() => {
      const args = Buffer.alloc(FALLOCATE_IN.endOffset)
      const view = viewOf(args)
      setUint53(view, FALLOCATE_IN.fh, this.#handle)
      setUint53(view, FALLOCATE_IN.offset, offsetBytes)
      setUint53(view, FALLOCATE_IN.length, lengthBytes)
      view.setUint32(FALLOCATE_IN.mode, mode | FALLOC_KEEP_SIZE, true)
      this.#ask(Opcode.FALLOCATE, this.#node, args, (error) => {
        this.#end(error, flags, completion, tag)
      })
    })
  }

  /** A file has no FUA: whoever opens it with O_DSYNC gets a sync behind each write. */
  #end(error: number, flags: number, completion: TargetCompletion, tag: number): void {
    if (error !== 0 || (flags & WRITE_FUA) === 0) completion.targetComplete(tag, error)
    else this.flush(completion, tag)
  }

  async #open(): Promise<void> {
    const entry = await this.#kernel.call(Opcode.LOOKUP, VOLUMES_NODE, nameArgs(this.volume))
    this.#node = Number(entry.readBigUInt64LE(ENTRY_OUT.nodeid))
    const args = Buffer.alloc(OPEN_IN.endOffset)
    args.writeUInt32LE(constants.O_RDWR | constants.O_DIRECT, OPEN_IN.flags)
    const opened = await this.#kernel.call(Opcode.OPEN, this.#node, args)
    this.#handle = Number(opened.readBigUInt64LE(OPEN_OUT.fh))
    this.#begin()
  }

  /** Of a file that could not be opened nothing is asked. */
  #ask(opcode: number, node: number, args: Uint8Array, listener: ReplyListener): void {
    if (this.#hasFailed) queueMicrotask(() => listener(UNANSWERED, Buffer.alloc(0)))
    else this.#kernel.ask(opcode, node, args, listener)
  }

  #begin(): void {
    const waiting = this.#waiting ?? []
    this.#waiting = null
    for (const action of waiting) action()
  }

  #whenOpen(action: () => void): void {
    if (this.#waiting === null) action()
    else this.#waiting.push(action)
  }
}

/** The pool with what a filesystem can do done through it, the rest as ever. */
export function throughFiles(pool: SimPool, kernel: SimKernel): SimPool {
  const volumeId = (name: string): number => pool.files.tryVolume(name)?.id ?? 0
  const files = {
    tryVolume: (name: string) => pool.files.tryVolume(name),
    trySnapshot: (id: number, name: string) => pool.files.trySnapshot(id, name),
    resize: (id: number, sizeBytes: number) => setSize(kernel, id, sizeBytes),
    copyRange: (request: CopyRequest) => copy(kernel, request),
  }
  const overrides = new Map<string | symbol, unknown>([
    ['files', files],
    [
      'snapshot',
      (names: string[]) => {
        const [volume, snapshot] = names[0].split('@')
        if (names.length > 1) return pool.snapshot(names)
        const args = Buffer.concat([Buffer.alloc(MKDIR_IN.endOffset), nameArgs(snapshot)])
        return kernel.call(Opcode.MKDIR, snapshotsNode(volumeId(volume)), args)
      },
    ],
    [
      'rename',
      (from: string, to: string) => {
        const [volume, snapshot] = from.split('@')
        const newName = to.slice(to.indexOf('@') + 1)
        const folder = snapshot === undefined ? VOLUMES_NODE : snapshotsNode(volumeId(volume))
        const head = Buffer.alloc(RENAME_IN.endOffset)
        setUint53(viewOf(head), RENAME_IN.newdir, folder)
        const args = Buffer.concat([head, nameArgs(snapshot ?? volume), nameArgs(newName)])
        return kernel.call(Opcode.RENAME, folder, args)
      },
    ],
    [
      'remove',
      (request: RemoveRequest) => {
        const [volume, snapshot] = request.names[0].split('@')
        if (snapshot !== undefined) {
          return kernel.call(Opcode.RMDIR, snapshotsNode(volumeId(volume)), nameArgs(snapshot))
        }
        if (request.recursive || request.names.length > 1) return pool.remove(request)
        return kernel.call(Opcode.UNLINK, VOLUMES_NODE, nameArgs(volume))
      },
    ],
  ])
  return new Proxy(pool, {
    get: (target, name): unknown => {
      if (overrides.has(name)) return overrides.get(name)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

async function setSize(kernel: SimKernel, id: number, sizeBytes: number): Promise<void> {
  const args = Buffer.alloc(SETATTR_IN.endOffset)
  args.writeUInt32LE(SetattrValid.SIZE, SETATTR_IN.valid)
  setUint53(viewOf(args), SETATTR_IN.size, sizeBytes)
  await kernel.call(Opcode.SETATTR, diskNode(id), args)
}

async function copy(kernel: SimKernel, request: CopyRequest): Promise<void> {
  const { fromId, toId, fromBytes, toBytes, lengthBytes } = request
  if (fromId === toId && Math.abs(fromBytes - toBytes) < lengthBytes) {
    // Linux does not even ask.
    throw new OperatingError('unsupported', 'a range is not copied onto itself')
  }
  const handles: number[] = []
  try {
    for (const [id, flags] of [
      [request.fromId, constants.O_RDONLY],
      [request.toId, constants.O_RDWR],
    ]) {
      const args = Buffer.alloc(OPEN_IN.endOffset)
      args.writeUInt32LE(flags, OPEN_IN.flags)
      const opened = await kernel.call(Opcode.OPEN, diskNode(id), args)
      handles.push(Number(opened.readBigUInt64LE(OPEN_OUT.fh)))
    }
    const args = Buffer.alloc(COPY_FILE_RANGE_IN.endOffset)
    const view = viewOf(args)
    setUint53(view, COPY_FILE_RANGE_IN.fhIn, handles[0])
    setUint53(view, COPY_FILE_RANGE_IN.fhOut, handles[1])
    setUint53(view, COPY_FILE_RANGE_IN.offIn, request.fromBytes)
    setUint53(view, COPY_FILE_RANGE_IN.offOut, request.toBytes)
    setUint53(view, COPY_FILE_RANGE_IN.len, request.lengthBytes)
    setUint53(view, COPY_FILE_RANGE_IN.nodeidOut, diskNode(request.toId))
    await kernel.call(Opcode.COPY_FILE_RANGE, diskNode(request.fromId), args)
  } finally {
    for (const handle of handles) {
      const args = Buffer.alloc(RELEASE_IN.endOffset)
      setUint53(viewOf(args), RELEASE_IN.fh, handle)
      await kernel.call(Opcode.RELEASE, diskNode(request.fromId), args)
    }
  }
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

function nameArgs(name: string): Buffer {
  return Buffer.from(`${name}\0`)
}

function rangeArgs(handle: number, offsetBytes: number, lengthBytes: number): Buffer {
  const args = Buffer.alloc(RANGE_IN.endOffset)
  const view = viewOf(args)
  setUint53(view, RANGE_IN.fh, handle)
  setUint53(view, RANGE_IN.offset, offsetBytes)
  view.setUint32(RANGE_IN.size, lengthBytes, true)
  return args
}
