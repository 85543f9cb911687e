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

/** Signals one eventfd, once for as often as it is asked to meanwhile, until it is closed. */
class Signal implements IoCompletion {
  readonly #io: Io
  readonly #descriptors: DescriptorIo
  readonly #fd: number
  readonly #hook: TurnHook
  #wait = NONE
  #isWanted = false
  #isClosed = false
  #isOver = false

  constructor(io: Io, descriptors: DescriptorIo, fd: number, hook: TurnHook) {
    this.#io = io
    this.#descriptors = descriptors
    this.#fd = fd
    this.#hook = hook
  }

  get isOver(): boolean {
    return this.#isOver
  }

  send(): void {
    if (this.#wait !== NONE) this.#isWanted = true
    else if (!this.#isClosed) this.#wait = this.#descriptors.signal(this.#fd, this, 0)
  }

  /** A counter that is full has been signalled enough: how it went does not matter. */
  ioComplete(): void {
    this.#wait = NONE
    if (this.#isClosed) {
      this.#end()
      this.#io.atTurnEnd(this.#hook)
    } else if (this.#isWanted) {
      this.#isWanted = false
      this.send()
    }
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    if (this.#wait === NONE) this.#end()
    else this.#descriptors.cancelWait(this.#wait)
  }

  #end(): void {
    this.#isOver = true
    this.#descriptors.closeDescriptor(this.#fd)
  }
}

export class DeviceQueue {
  readonly #io: Io
  readonly #descriptors: DescriptorIo
  readonly #hook: TurnHook
  #ring: Virtqueue | null = null
  #kick: KickWait | null = null
  #call: Signal | null = null
  #error: Signal | null = null
  /** Those that were replaced and are not over yet. */
  #old: { readonly isOver: boolean }[] = []
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

  /** Something of it is with the kernel, or may be. */
  get isWaiting(): boolean {
    this.#old = this.#old.filter(({ isOver }) => !isOver)
    return this.#old.length > 0 || this.#kick?.isOver === false || this.#call !== null
  }

  setRing(ring: Virtqueue | null): void {
    this.#ring = ring
    this.#areKicksEnabled = false
    this.hasNews = false
    this.#tellOfBefore()
  }

  /** Owns the descriptor, an eventfd, from now on; null: there is none. */
  setKick(fd: number | null): void {
    this.#retire(this.#kick)
    this.#kick = fd === null ? null : new KickWait(this.#io, this.#descriptors, fd, this.#hook)
  }

  /** The same; null: the guest looks by itself. */
  setCall(fd: number | null): void {
    this.#retire(this.#call)
    this.#call = this.#signalOf(fd)
    this.#tellOfBefore()
  }

  /**
   * An earlier server may have died between showing the guest that something is done and waking
   * it. The ring and the descriptor to wake it with come in any order.
   */
  #tellOfBefore(): void {
    if (this.#ring !== null) this.call()
  }

  setError(fd: number | null): void {
    this.#retire(this.#error)
    this.#error = this.#signalOf(fd)
  }

  /** Wakes the guest. */
  call(): void {
    this.#call?.send()
  }

  /** Says that the ring is broken, to a front end that listens. */
  signalError(): void {
    this.#error?.send()
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
    this.#ring = null
    this.setKick(null)
    this.setCall(null)
    this.setError(null)
  }

  #signalOf(fd: number | null): Signal | null {
    return fd === null ? null : new Signal(this.#io, this.#descriptors, fd, this.#hook)
  }

  #retire(event: KickWait | Signal | null): void {
    if (event === null) return
    event.close()
    if (!event.isOver) this.#old.push(event)
  }
}
