import { OperatingError } from '../base/errors.ts'
import { GIB, MIB, SEGMENT_SIZE_BYTES } from '../base/units.ts'
import type { Io } from '../io/io.ts'
import type { RecycledFiles } from '../segment/recycled-files.ts'
import { FillGauge } from './fill.ts'
import { isShortOfSpace } from './reserve.ts'
import type { Reserve } from './reserve.ts'
import type { Fill, FillState } from './types.ts'

/** Kept back from guests for checkpoints, deletes and reclaim: a sixteenth, in these bounds. */
const RESERVE_BYTES_MIN: number = 4 * MIB
const RESERVE_BYTES_MAX: number = 64 * MIB
/** Of what is left, kept in files of segments that are gone. */
const RECYCLED_FRACTION = 1 / 8
const RECYCLED_BYTES_MAX: number = 4 * GIB
/**
 * What only makes reading faster leaves so much to guests, and to the settle that comes after it
 * and has the old form and the new one of a segment side by side.
 */
const SPARE_FRACTION = 1 / 8
const SPARE_BYTES_MIN: number = 2 * SEGMENT_SIZE_BYTES
const SPARE_BYTES_MAX: number = 8 * GIB
const REFRESH_AFTER_BYTES: number = 16 * MIB
const REFRESH_WHEN_FULL_MS = 200

/** Told once whenever the state of the fill changes; `freeBytes` is what guests can still write. */
export type FillListener = (fill: Fill, before: FillState, freeBytes: number) => void

/**
 * Knows how much may still be written (I9): the lesser of what the disk has free and what the
 * pool's own capacity leaves. Guests' data may use it down to a reserve; trims, zeroes and new
 * names, which take records and nodes, down to half of it; the other half is for removing,
 * checkpoints, reclaim and recovery. That half is kept in files, so that others who write to the
 * same disk cannot take it. Between looks at the disk it counts down what was written.
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
  readonly #reserve: Reserve
  readonly #recycled: RecycledFiles
  readonly #gauge: FillGauge
  readonly #onFill: FillListener
  /** Looks at the disk and moves of the reserve, one after the other: else it counts twice. */
  #disk: Promise<unknown> = Promise.resolve()
  #releaseCount = 0

  /** `physicalBytes` tells what the pool's files take; asked only if there is a capacity. */
  constructor(
    io: Io,
    path: string,
    capacityBytes: number,
    physicalBytes: () => Promise<number>,
    reserve: Reserve,
    recycled: RecycledFiles,
    options: { warnPercent: number; onFill: FillListener },
  ) {
    this.#io = io
    this.#path = path
    this.#capacityBytes = capacityBytes
    this.#physicalBytes = physicalBytes
    this.#reserve = reserve
    this.#recycled = recycled
    this.#gauge = new FillGauge(options.warnPercent)
    this.#onFill = options.onFill
  }

  /** As of the last look at the disk. */
  get fill(): Fill {
    const { state, percent, warnPercent } = this.#gauge
    return { state, percent, warnPercent }
  }

  /** Bytes that guests can still write. */
  get guestBytes(): number {
    return Math.max(0, this.#leftBytes - this.#reserveBytes)
  }

  /** Of the disk, or of the pool if it may not take all of it. */
  get totalBytes(): number {
    return this.#totalBytes
  }

  /** Set aside on the disk besides what the segments take. */
  get reserveHeldBytes(): number {
    return this.#reserve.heldBytes + this.#recycled.heldBytes
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

  /** Whether `lengthBytes` that nobody has to write leave guests plenty. */
  admitsSpare(lengthBytes: number): boolean {
    const partBytes = Math.floor(this.#totalBytes * SPARE_FRACTION)
    const keptBytes = Math.max(SPARE_BYTES_MIN, Math.min(SPARE_BYTES_MAX, partBytes))
    return this.guestBytes - lengthBytes >= keptBytes
  }

  /** A guest is told that `lengthBytes` do not fit. */
  noteRefused(lengthBytes: number): void {
    this.#gaugeChanges(() => this.#gauge.noteRefused(lengthBytes))
    this.#noteRefusal()
  }

  /** The disk had no room for what was admitted: others write to it, too. */
  noteDiskRefused(): void {
    this.#gaugeChanges(() => this.#gauge.noteDisk(false))
    this.#noteRefusal()
  }

  /**
   * Runs work that makes room, or has to end what was begun: where the disk itself has none, the
   * reserve is given up for it, piece by piece, and it is run again.
   */
  async withReserve<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      const releaseCount = this.#releaseCount
      try {
        return await work()
      } catch (error) {
        if (!isShortOfSpace(error)) throw error
        // Another may have had it released since this one met the end of the disk.
        if (this.#releaseCount === releaseCount) await this.#inTurn(() => this.#release())
        if (this.#releaseCount === releaseCount) throw error
      }
    }
  }

  async #release(): Promise<void> {
    if (await this.#reserve.release()) this.#releaseCount += 1
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
    if (this.#gauge.isDiskRefusing) this.#gaugeChanges(() => this.#gauge.noteDisk(true))
    if (this.#writtenBytes >= REFRESH_AFTER_BYTES) this.#refreshLater()
  }

  /** Looks at the disk; those who ask meanwhile share the answer. Rejects with its error. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#inTurn(() => this.#look()).finally(() => {
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
    await this.#disk
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#disk.then(work)
    this.#disk = done.catch(() => undefined)
    return done
  }

  async #look(): Promise<void> {
    this.#refreshedMs = this.#io.nowMs()
    this.#writtenBytes = 0
    const disk = await this.#io.space(this.#path)
    let totalBytes = disk.totalBytes
    let leftBytes = disk.freeBytes + this.#reserve.heldBytes + this.#recycled.heldBytes
    if (this.#capacityBytes > 0) {
      totalBytes = Math.min(totalBytes, this.#capacityBytes)
      leftBytes = Math.min(leftBytes, this.#capacityBytes - (await this.#physicalBytes()))
    }
    // What was written while the disk was being asked may be counted twice, never not at all.
    this.#leftBytes = leftBytes - this.#writtenBytes
    this.#totalBytes = totalBytes
    const reserve = Math.max(RESERVE_BYTES_MIN, Math.floor(totalBytes / 16))
    const ownBytes = Math.min(reserve, RESERVE_BYTES_MAX)
    // What is set aside is half of it, also on a disk that has shrunk.
    this.#reserveBytes = Math.max(ownBytes, 2 * this.#reserve.heldBytes)
    const guestTotalBytes = Math.max(0, totalBytes - this.#reserveBytes)
    this.#gaugeChanges(() => this.#gauge.update(this.guestBytes, guestTotalBytes))
    const recycledBytesMax = Math.floor(Math.max(0, leftBytes) * RECYCLED_FRACTION)
    await this.#recycled.limit(Math.min(RECYCLED_BYTES_MAX, recycledBytesMax))
    await this.#moveReserve(disk.freeBytes, leftBytes)
  }

  /** Its half is set aside when there is room for all of it, and counts against the capacity. */
  async #moveReserve(freeBytes: number, leftBytes: number): Promise<void> {
    const wantedBytes = this.#reserveBytes / 2
    const { heldBytes } = this.#reserve
    if (heldBytes > leftBytes) await this.#release()
    else if (leftBytes >= 2 * wantedBytes && freeBytes >= wantedBytes - heldBytes) {
      await this.#reserve.take(wantedBytes)
    }
  }

  #gaugeChanges(change: () => void): void {
    const before = this.#gauge.state
    change()
    if (this.#gauge.state !== before) this.#onFill(this.fill, before, this.guestBytes)
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
