import { OperatingError } from '../base/errors.ts'
import { MIB } from '../base/units.ts'
import type { Io } from '../io/io.ts'

/** Kept back from guests for checkpoints, deletes and reclaim: a sixteenth, in these bounds. */
const RESERVE_BYTES_MIN: number = 4 * MIB
const RESERVE_BYTES_MAX: number = 64 * MIB
const REFRESH_AFTER_BYTES: number = 16 * MIB
const REFRESH_WHEN_FULL_MS = 200

/**
 * Knows how much may still be written (I9): the lesser of what the disk has free and what the
 * pool's own capacity leaves. Guests' data may use it down to a reserve; trims, zeroes and new
 * names, which take records and nodes, down to half of it; the other half is for removing,
 * checkpoints, reclaim and recovery. Between looks at the disk it counts down what was written.
 */
export class Space {
  readonly #io: Io
  readonly #path: string
  readonly #capacityBytes: number
  readonly #physicalBytes: () => Promise<number>
  #reserveBytes = 0
  #leftBytes = 0
  #totalBytes = 0
  #writtenBytes = 0
  #refreshing: Promise<void> | null = null
  #refreshedMs = 0

  /** `physicalBytes` tells what the pool's files take; asked only if there is a capacity. */
  constructor(io: Io, path: string, capacityBytes: number, physicalBytes: () => Promise<number>) {
    this.#io = io
    this.#path = path
    this.#capacityBytes = capacityBytes
    this.#physicalBytes = physicalBytes
  }

  /** Bytes that guests can still write. */
  get guestBytes(): number {
    return Math.max(0, this.#leftBytes - this.#reserveBytes)
  }

  /** Of the disk, or of the pool if it may not take all of it. */
  get totalBytes(): number {
    return this.#totalBytes
  }

  /** Whether a guest's `lengthBytes` fit without touching the reserve. */
  admits(lengthBytes: number): boolean {
    if (lengthBytes <= this.guestBytes) return true
    this.#noteRefusal()
    return false
  }

  /** Whether something other than data that takes `lengthBytes` of log leaves the last half. */
  admitsSmall(lengthBytes: number): boolean {
    if (this.#leftBytes - lengthBytes >= this.#reserveBytes / 2) return true
    this.#noteRefusal()
    return false
  }

  /** Others may have made room on the disk: the next who asks shall know. */
  #noteRefusal(): void {
    const sinceMs = this.#io.nowMs() - this.#refreshedMs
    if (sinceMs >= REFRESH_WHEN_FULL_MS) this.#refreshLater()
  }

  /** Nothing was written since the disk was last asked: a refusal is not for want of looking. */
  get isCurrent(): boolean {
    return this.#writtenBytes === 0 && this.#refreshing === null
  }

  consume(lengthBytes: number): void {
    this.#leftBytes -= lengthBytes
    this.#writtenBytes += lengthBytes
    if (this.#writtenBytes >= REFRESH_AFTER_BYTES) this.#refreshLater()
  }

  /** Looks at the disk; those who ask meanwhile share the answer. Rejects with its error. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#look().finally(() => {
      this.#refreshing = null
    })
    return this.#refreshing
  }

  /** Looks at the disk unless somebody did within the last `ageMs`. */
  async refreshAfter(ageMs: number): Promise<void> {
    if (this.#io.nowMs() - this.#refreshedMs >= ageMs) await this.refresh()
  }

  /** Resolves when no look is under way. */
  async close(): Promise<void> {
    await this.#refreshing?.catch(() => undefined)
  }

  async #look(): Promise<void> {
    this.#refreshedMs = this.#io.nowMs()
    this.#writtenBytes = 0
    const disk = await this.#io.space(this.#path)
    let totalBytes = disk.totalBytes
    let leftBytes = disk.freeBytes
    if (this.#capacityBytes > 0) {
      totalBytes = Math.min(totalBytes, this.#capacityBytes)
      leftBytes = Math.min(leftBytes, this.#capacityBytes - (await this.#physicalBytes()))
    }
    // What was written while the disk was being asked may be counted twice, never not at all.
    this.#leftBytes = leftBytes - this.#writtenBytes
    this.#totalBytes = totalBytes
    const reserve = Math.max(RESERVE_BYTES_MIN, Math.floor(totalBytes / 16))
    this.#reserveBytes = Math.min(reserve, RESERVE_BYTES_MAX)
  }

  #refreshLater(): void {
    // A disk that cannot be asked keeps the last answer; writes to it will say what is wrong.
    this.refresh().catch(() => undefined)
  }
}

/** What control operations throw when the last of the space is not theirs. */
export function poolFull(): OperatingError {
  return new OperatingError('no-space', 'the pool is full', {
    hint: 'remove disks and run "varve reclaim", or raise the capacity',
  })
}
