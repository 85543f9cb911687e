/** One queue of the device: its ring, and the events by which both sides wake each other. */
import { Errno } from '../../base/errors.ts'
import type { DescriptorIo } from '../../io/descriptors.ts'
import type { Io, IoCompletion, TurnHook } from '../../io/io.ts'
import type { Virtqueue } from './virtqueue.ts'

const NONE = -1

/** Waits for kicks of one eventfd until it is closed, which closes the descriptor, too. */
class KickWait implements IoCompletion {
  readonly #io: Io
  readonly #descriptors: DescriptorIo
  readonly #fd: number
  readonly #hook: TurnHook
  #wait: number
  #isClosed = false
  #isOver = false

  constructor(io: Io, descriptors: DescriptorIo, fd: number, hook: TurnHook) {
    this.#io = io
    this.#descriptors = descriptors
    this.#fd = fd
    this.#hook = hook
    this.#wait = descriptors.awaitEvent(fd, this, 0)
  }

  get isOver(): boolean {
    return this.#isOver
  }

  ioComplete(_tag: number, result: number): void {
    if (result === -Errno.EAGAIN && !this.#isClosed) {
      this.#wait = this.#descriptors.awaitReadable(this.#fd, this, 0)
      return
    }
    if (this.#isClosed || (result < 0 && result !== -Errno.EINTR)) {
      this.#isOver = true
      this.#descriptors.closeDescriptor(this.#fd)
    } else {
      this.#wait = this.#descriptors.awaitEvent(this.#fd, this, 0)
    }
    this.#io.atTurnEnd(this.#hook)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    if (!this.#isOver) this.#descriptors.cancelWait(this.#wait)
  }
}

export class DeviceQueue {
  readonly #io: Io
  readonly #descriptors: DescriptorIo
  readonly #hook: TurnHook
  #ring: Virtqueue | null = null
  #kick: KickWait | null = null
  /** Those that were replaced and are not over yet. */
  #oldKicks: KickWait[] = []
  #callDescriptor = NONE
  #errorDescriptor = NONE
  /** The guest wakes us at its next request. */
  #areKicksEnabled = false
  isEnabled = false
  /** Something was pushed that the guest has not been shown. */
  hasNews = false

  /** `hook` runs at the end of a turn in which a kick came. */
  constructor(io: Io, descriptors: DescriptorIo, hook: TurnHook) {
    this.#io = io
    this.#descriptors = descriptors
    this.#hook = hook
  }

  get ring(): Virtqueue | null {
    return this.#ring
  }

  /** -1: the guest looks by itself. */
  get callDescriptor(): number {
    return this.#callDescriptor
  }

  /** Something of it is with the kernel. */
  get isWaiting(): boolean {
    this.#oldKicks = this.#oldKicks.filter(({ isOver }) => !isOver)
    return this.#oldKicks.length > 0 || this.#kick?.isOver === false
  }

  setRing(ring: Virtqueue | null): void {
    this.#ring = ring
    this.#areKicksEnabled = false
    this.hasNews = false
  }

  /** Owns the descriptor, an eventfd, from now on; null: there is none. */
  setKick(fd: number | null): void {
    if (this.#kick !== null) {
      this.#kick.close()
      this.#oldKicks.push(this.#kick)
    }
    this.#kick = fd === null ? null : new KickWait(this.#io, this.#descriptors, fd, this.#hook)
  }

  setCall(fd: number | null): void {
    this.#drop(this.#callDescriptor)
    this.#callDescriptor = fd ?? NONE
    // What the guest was not told of before, it is told now.
    if (this.#ring !== null && fd !== null) this.#descriptors.signal(new Int32Array([fd]), 1)
  }

  setError(fd: number | null): void {
    this.#drop(this.#errorDescriptor)
    this.#errorDescriptor = fd ?? NONE
  }

  /** Says that the ring is broken, to a front end that listens. */
  signalError(): void {
    if (this.#errorDescriptor === NONE) return
    this.#descriptors.signal(new Int32Array([this.#errorDescriptor]), 1)
  }

  /** A request was taken: while there are more to come, the guest need not wake us. */
  noteTaken(): void {
    if (!this.#areKicksEnabled) return
    this.#areKicksEnabled = false
    this.#ring?.disableKicks()
  }

  /** There is nothing to take. True: by now there is. */
  sleep(): boolean {
    if (this.#areKicksEnabled) return false
    this.#areKicksEnabled = true
    return this.#ring?.enableKicks() === true
  }

  close(): void {
    this.isEnabled = false
    this.setKick(null)
    this.setCall(null)
    this.setError(null)
    this.#ring = null
  }

  #drop(fd: number): void {
    if (fd !== NONE) this.#descriptors.closeDescriptor(fd)
  }
}
