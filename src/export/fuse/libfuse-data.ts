/**
 * Reads, writes and flushes that libfuse asks for. Its memory is not the arena's, so bytes are
 * copied once on the way. A call holds one piece of the arena while it is under way; a bounded
 * number are, and the others wait in order with the threads of libfuse that sent them.
 */
import { assert, must } from '../../base/assert.ts'
import type { Arena, ArenaWaiter } from '../../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../io/arena.ts'
import type { TargetCompletion } from '../target.ts'
import type { Reply } from './fuse-native.ts'
import type { FileOperations, HandleNumber } from './operations.ts'

/** libfuse 2 asks for at most 128 KiB at a time: together 4 MiB. */
const CALLS_MAX = 32

type CallKind = 'read' | 'write' | 'flush'

interface Call {
  kind: CallKind
  handle: HandleNumber
  /** libfuse's memory, ours until the reply; null for a flush. */
  buffer: Buffer | null
  lengthBytes: number
  offsetBytes: number
  reply: Reply
}

interface Running {
  call: Call
  /** -1: none. */
  arenaOffset: number
}

export class LibfuseData implements TargetCompletion, ArenaWaiter {
  readonly #operations: FileOperations
  readonly #arena: Arena
  /** By tag. */
  readonly #running: (Running | null)[] = Array.from({ length: CALLS_MAX }, () => null)
  readonly #freeTags: number[] = Array.from({ length: CALLS_MAX }, (_, tag) => tag)
  readonly #waiting: Call[] = []
  #isWaitingForArena = false

  constructor(operations: FileOperations, arena: Arena) {
    this.#operations = operations
    this.#arena = arena
  }

  get isIdle(): boolean {
    return this.#freeTags.length === CALLS_MAX && this.#waiting.length === 0
  }

  /** Replies with the bytes read, fewer only at the end. */
  read(handle: HandleNumber, buffer: Buffer, offsetBytes: number, reply: Reply): void {
    const lengthBytes = Math.min(buffer.length, ARENA_PIECE_BYTES_MAX)
    this.#enter({ kind: 'read', handle, buffer, lengthBytes, offsetBytes, reply })
  }

  /** Replies with the bytes written: all of them. */
  write(handle: HandleNumber, buffer: Buffer, offsetBytes: number, reply: Reply): void {
    const lengthBytes = Math.min(buffer.length, ARENA_PIECE_BYTES_MAX)
    this.#enter({ kind: 'write', handle, buffer, lengthBytes, offsetBytes, reply })
  }

  flush(handle: HandleNumber, reply: Reply): void {
    this.#enter({ kind: 'flush', handle, buffer: null, lengthBytes: 0, offsetBytes: 0, reply })
  }

  targetComplete(tag: number, result: number): void {
    const { call, arenaOffset } = must(this.#running[tag], 'a call under way')
    this.#running[tag] = null
    this.#freeTags.push(tag)
    if (arenaOffset >= 0) {
      if (result === 0 && call.kind === 'read') {
        const end = arenaOffset + call.lengthBytes
        this.#arena.memory.copy(must(call.buffer, 'where to read to'), 0, arenaOffset, end)
      }
      this.#arena.free(arenaOffset, call.lengthBytes)
    }
    call.reply(result === 0 ? call.lengthBytes : result)
    this.#startWaiting()
  }

  arenaFreed(): void {
    this.#isWaitingForArena = false
    this.#startWaiting()
  }

  #enter(call: Call): void {
    if (this.#waiting.length > 0 || !this.#tryStart(call)) this.#waiting.push(call)
  }

  #startWaiting(): void {
    let started = 0
    while (started < this.#waiting.length && this.#tryStart(this.#waiting[started])) started += 1
    this.#waiting.splice(0, started)
  }

  /** False when there is no place or no memory for it now. */
  #tryStart(call: Call): boolean {
    const tag = this.#freeTags.at(-1)
    if (tag === undefined) return false
    if (call.kind === 'flush') {
      this.#begin(tag, call, -1)
      this.#operations.flush(call.handle, this, tag)
      return true
    }
    if (call.kind === 'read') {
      const { handle, offsetBytes } = call
      call.lengthBytes = this.#operations.readableBytes(handle, offsetBytes, call.lengthBytes)
    }
    if (call.lengthBytes === 0) {
      call.reply(0)
      return true
    }
    const arenaOffset = this.#tryAllocate(call.lengthBytes)
    if (arenaOffset < 0) return false
    this.#begin(tag, call, arenaOffset)
    const { handle, offsetBytes, lengthBytes } = call
    if (call.kind === 'read') {
      this.#operations.read(handle, offsetBytes, lengthBytes, arenaOffset, this, tag)
    } else {
      must(call.buffer, 'what to write').copy(this.#arena.memory, arenaOffset, 0, lengthBytes)
      this.#operations.write(handle, offsetBytes, lengthBytes, arenaOffset, this, tag)
    }
    return true
  }

  #begin(tag: number, call: Call, arenaOffset: number): void {
    assert(this.#freeTags.pop() === tag, 'the last free tag is taken')
    this.#running[tag] = { call, arenaOffset }
  }

  #tryAllocate(lengthBytes: number): number {
    const offset = this.#arena.allocate(lengthBytes)
    if (offset < 0 && !this.#isWaitingForArena) {
      this.#isWaitingForArena = true
      this.#arena.wait(this)
    }
    return offset
  }
}
