/** What ring-io and node-io share: the control path, clocks and entropy. */
import { randomBytes } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { Binding } from '../native/binding.ts'
import type { Arena } from './arena.ts'
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
} from './io.ts'
import type { MessageDevice, MessageOwner } from './messages.ts'
import { NodeFiles } from './node-files.ts'

export abstract class PosixIo implements Io {
  abstract readonly kind: 'ring' | 'node'
  readonly arena: Arena
  /** Null where there is no addon. */
  protected readonly addon: Binding | null
  readonly #files: NodeFiles

  /** `binding`: for locks and hole punching; null where there is no addon. */
  constructor(arena: Arena, binding: Binding | null) {
    this.arena = arena
    this.addon = binding
    this.#files = new NodeFiles(binding)
  }

  abstract read(
    file: IoFile,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void
  abstract writeSync(file: IoFile, offsetBytes: number, vector: IoVector): number
  abstract sync(file: IoFile, completion: IoCompletion, tag: number): void
  abstract atTurnEnd(hook: TurnHook): void
  abstract listen(address: SocketAddress, accept: (socket: IoSocket) => void): Promise<IoListener>
  abstract shutdown(): Promise<void>

  open(path: string, mode: OpenMode): Promise<IoFile> {
    return this.#files.open(path, mode)
  }

  close(file: IoFile): Promise<void> {
    return this.#files.close(file)
  }

  stat(file: IoFile): Promise<IoFileStat> {
    return this.#files.stat(file)
  }

  truncate(file: IoFile, sizeBytes: number): Promise<void> {
    return this.#files.truncate(file, sizeBytes)
  }

  punch(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#files.fallocate('punch', file, offsetBytes, lengthBytes)
  }

  allocate(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#files.fallocate('allocate', file, offsetBytes, lengthBytes)
  }

  list(path: string): Promise<string[]> {
    return this.#files.list(path)
  }

  createDirectory(path: string): Promise<void> {
    return this.#files.createDirectory(path)
  }

  rename(from: string, to: string): Promise<void> {
    return this.#files.rename(from, to)
  }

  remove(path: string): Promise<void> {
    return this.#files.remove(path)
  }

  syncDirectory(path: string): Promise<void> {
    return this.#files.syncDirectory(path)
  }

  space(path: string): Promise<IoSpace> {
    return this.#files.space(path)
  }

  lock(path: string, holder: string): Promise<IoLock> {
    return this.#files.lock(path, holder)
  }

  openMessages(_fd: number, _owner: MessageOwner): MessageDevice | null {
    return null
  }

  nowMs(): number {
    return performance.now()
  }

  wallClockMs(): number {
    return Date.now()
  }

  setTimer(delayMs: number, callback: () => void): () => void {
    const timer = setTimeout(callback, delayMs)
    timer.unref()
    return () => clearTimeout(timer)
  }

  pause(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve))
  }

  randomBytes(lengthBytes: number): Uint8Array {
    return randomBytes(lengthBytes)
  }
}
