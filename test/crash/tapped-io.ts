/**
 * An `Io` around another that tells a *tap* of everything that changes files, before it is done and
 * after. The power-cut trace and the kill points are taps. What only reads, and sockets, pass by.
 *
 * It can also die, as a process does: from then on nothing reaches the world and nothing comes
 * back, while what the kernel had begun is ended by the kernel.
 */
import type { Arena } from '../../src/io/arena.ts'
import type {
  Io,
  IoCompletion,
  IoFile,
  IoFileStat,
  IoListener,
  IoLock,
  IoSocket,
  IoSpace,
  IoVector,
  OpenMode,
  SocketAddress,
  TurnHook,
} from '../../src/io/io.ts'
import type { MessageDevice, MessageOwner } from '../../src/io/messages.ts'

export type OperationKind =
  | 'create'
  | 'open'
  | 'write'
  | 'sync'
  | 'truncate'
  | 'punch'
  | 'allocate'
  | 'mkdir'
  | 'rename'
  | 'remove'
  | 'syncdir'

export interface IoOperation {
  readonly kind: OperationKind
  /** Of a file that is open: as it was named when it was opened. */
  readonly path: string
  /** Where a rename leads. */
  readonly to?: string
  /** Of an operation on an open file; after `create` and `open`, the file they gave. */
  file?: IoFile
  readonly offsetBytes?: number
  readonly lengthBytes?: number
  /** Of a write; a view, valid during the call. */
  readonly pieces?: readonly Uint8Array[]
}

export interface IoTap {
  before(operation: IoOperation): void
  /** It is done; or it was refused, and nothing changed. */
  after(operation: IoOperation, isDone: boolean): void
}

const never = <T>(): Promise<T> => new Promise<T>(() => undefined)

export class TappedIo implements Io {
  readonly kind: Io['kind']
  readonly arena: Arena
  readonly #inner: Io
  readonly #tap: IoTap
  readonly #files: Set<IoFile> = new Set()
  readonly #locks: Set<IoLock> = new Set()
  readonly #inFlight: Set<Promise<unknown>> = new Set()
  #isDead = false

  constructor(inner: Io, tap: IoTap) {
    this.#inner = inner
    this.#tap = tap
    this.kind = inner.kind
    this.arena = inner.arena
  }

  get isDead(): boolean {
    return this.#isDead
  }

  /** Resolves when the kernel is done with what it had begun, and has closed and unlocked all. */
  async die(): Promise<void> {
    this.#isDead = true
    while (this.#inFlight.size > 0) await Promise.allSettled([...this.#inFlight])
    for (const file of this.#files) await this.#inner.close(file)
    for (const lock of this.#locks) await lock.release()
    await this.#inner.shutdown()
  }

  read(
    file: IoFile,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void {
    if (this.#isDead) return
    const own = this.#ownCompletion(completion)
    this.#inner.read(file, offsetBytes, arenaOffset, lengthBytes, own, tag)
  }

  writeSync(file: IoFile, offsetBytes: number, vector: IoVector): number {
    const pieces: Uint8Array[] = []
    let lengthBytes = 0
    for (let index = 0; index < vector.count; index += 1) {
      const start = vector.pairs[2 * index]
      const end = start + vector.pairs[2 * index + 1]
      pieces.push(this.arena.memory.subarray(start, end))
      lengthBytes += end - start
    }
    // A dead process runs no further: nobody learns of this lie.
    if (this.#isDead) return lengthBytes
    const { path } = file
    const operation: IoOperation = { kind: 'write', path, file, offsetBytes, lengthBytes, pieces }
    this.#tap.before(operation)
    const result = this.#inner.writeSync(file, offsetBytes, vector)
    this.#tap.after(operation, result >= 0)
    return result
  }

  sync(file: IoFile, completion: IoCompletion, tag: number): void {
    if (this.#isDead) return
    const operation: IoOperation = { kind: 'sync', path: file.path, file }
    this.#tap.before(operation)
    const done = (result: number): void => this.#tap.after(operation, result >= 0)
    this.#inner.sync(file, this.#ownCompletion(completion, done), tag)
  }

  atTurnEnd(hook: TurnHook): void {
    // The same hook, not one around it: asked for twice it runs once.
    if (!this.#isDead) this.#inner.atTurnEnd(hook)
  }

  async open(path: string, mode: OpenMode): Promise<IoFile> {
    if (this.#isDead) return never()
    const operation: IoOperation = { kind: mode === 'create' ? 'create' : 'open', path }
    this.#tap.before(operation)
    const opening = this.#inner.open(path, mode).then(
      (file) => {
        this.#files.add(file)
        operation.file = file
        this.#tap.after(operation, true)
        return file
      },
      (error: unknown) => {
        this.#tap.after(operation, false)
        throw error
      },
    )
    return this.#alive(opening)
  }

  async close(file: IoFile): Promise<void> {
    if (this.#isDead) return never()
    this.#files.delete(file)
    return this.#alive(this.#inner.close(file))
  }

  stat(file: IoFile): Promise<IoFileStat> {
    return this.#isDead ? never() : this.#alive(this.#inner.stat(file))
  }

  truncate(file: IoFile, sizeBytes: number): Promise<void> {
    const operation: IoOperation = {
      kind: 'truncate',
      path: file.path,
      file,
      offsetBytes: sizeBytes,
    }
    return this.#tapped(operation, () => this.#inner.truncate(file, sizeBytes))
  }

  punch(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void> {
    const operation: IoOperation = {
      kind: 'punch',
      path: file.path,
      file,
      offsetBytes,
      lengthBytes,
    }
    return this.#tapped(operation, () => this.#inner.punch(file, offsetBytes, lengthBytes))
  }

  allocate(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void> {
    const { path } = file
    const operation: IoOperation = { kind: 'allocate', path, file, offsetBytes, lengthBytes }
    return this.#tapped(operation, () => this.#inner.allocate(file, offsetBytes, lengthBytes))
  }

  list(path: string): Promise<string[]> {
    return this.#isDead ? never() : this.#alive(this.#inner.list(path))
  }

  createDirectory(path: string): Promise<void> {
    return this.#tapped({ kind: 'mkdir', path }, () => this.#inner.createDirectory(path))
  }

  rename(from: string, to: string): Promise<void> {
    return this.#tapped({ kind: 'rename', path: from, to }, () => this.#inner.rename(from, to))
  }

  remove(path: string): Promise<void> {
    return this.#tapped({ kind: 'remove', path }, () => this.#inner.remove(path))
  }

  syncDirectory(path: string): Promise<void> {
    return this.#tapped({ kind: 'syncdir', path }, () => this.#inner.syncDirectory(path))
  }

  space(path: string): Promise<IoSpace> {
    return this.#isDead ? never() : this.#alive(this.#inner.space(path))
  }

  async lock(path: string, holder: string): Promise<IoLock> {
    const lock = await this.#inner.lock(path, holder)
    this.#locks.add(lock)
    return {
      release: async () => {
        this.#locks.delete(lock)
        await lock.release()
      },
    }
  }

  listen(address: SocketAddress, accept: (socket: IoSocket) => void): Promise<IoListener> {
    return this.#inner.listen(address, accept)
  }

  openMessages(fd: number, owner: MessageOwner): MessageDevice | null {
    return this.#inner.openMessages(fd, owner)
  }

  nowMs(): number {
    return this.#inner.nowMs()
  }

  wallClockMs(): number {
    return this.#inner.wallClockMs()
  }

  setTimer(delayMs: number, callback: () => void): () => void {
    return this.#inner.setTimer(delayMs, () => {
      if (!this.#isDead) callback()
    })
  }

  pause(): Promise<void> {
    return this.#isDead ? never() : this.#alive(this.#inner.pause())
  }

  randomBytes(lengthBytes: number): Uint8Array {
    return this.#inner.randomBytes(lengthBytes)
  }

  shutdown(): Promise<void> {
    return this.#inner.shutdown()
  }

  #tapped(operation: IoOperation, start: () => Promise<void>): Promise<void> {
    if (this.#isDead) return never()
    this.#tap.before(operation)
    const running = start().then(
      () => {
        this.#tap.after(operation, true)
      },
      (error: unknown) => {
        this.#tap.after(operation, false)
        throw error
      },
    )
    return this.#alive(running)
  }

  /** What `running` resolves or rejects with, unless the process is dead by then. */
  async #alive<T>(running: Promise<T>): Promise<T> {
    this.#inFlight.add(running)
    try {
      return await running
    } finally {
      this.#inFlight.delete(running)
      if (this.#isDead) await never()
    }
  }

  #ownCompletion(
    completion: IoCompletion,
    done: (result: number) => void = () => undefined,
  ): IoCompletion {
    let end: () => void = () => undefined
    const running = new Promise<void>((resolve) => (end = resolve))
    this.#inFlight.add(running)
    return {
      ioComplete: (tag, result) => {
        this.#inFlight.delete(running)
        end()
        done(result)
        if (!this.#isDead) completion.ioComplete(tag, result)
      },
    }
  }
}
