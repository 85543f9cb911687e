/**
 * How a mount ends, whatever carries its calls: because it was unmounted by us, from outside, or
 * because its connection broke. The transport notices, and says so here, once.
 */
import { OperatingError } from '../../base/errors.ts'
import type { Io } from '../../io/io.ts'
import { detach, mountedAt } from './mount-point.ts'

/** The kernel lets go of an unmounted filesystem at once, unless someone still holds it. */
const LET_GO_TIMEOUT_MS = 3_000

export class MountEnd {
  readonly mountPath: string
  /** Of the mounted filesystem, "0:NUMBER". */
  readonly deviceNumber: string | null
  /** Resolves when nothing is in flight and everything open is closed. */
  readonly over: Promise<void>
  readonly #io: Io
  #onOver: () => void = () => undefined
  #isOver = false
  #reason: string | null = null
  #listener: ((reason: string) => void) | null = null

  /** `deviceNumber` null: nothing of ours was found mounted there. */
  constructor(io: Io, mountPath: string, deviceNumber: string | null) {
    this.#io = io
    this.mountPath = mountPath
    this.deviceNumber = deviceNumber
    this.over = new Promise((resolve) => (this.#onOver = resolve))
  }

  get isOver(): boolean {
    return this.#isOver
  }

  /** See `FuseMount.onEnd`. */
  onEnd(listener: (reason: string) => void): void {
    this.#listener = listener
    if (this.#reason === null) return
    const reason = this.#reason
    queueMicrotask(() => listener(reason))
  }

  /** It is over; `reason` for the listener, null when `unmount` brought it about. */
  end(reason: string | null): void {
    this.#isOver = true
    this.#onOver()
    if (reason === null) return
    this.#reason = reason
    this.#listener?.(reason)
  }

  /** Whether the mount at our path is ours: nobody else's is taken away. */
  async isOnTop(): Promise<boolean> {
    const mounted = await mountedAt(this.mountPath)
    return mounted !== null && mounted.deviceNumber === this.deviceNumber
  }

  /** Of a connection that was aborted the mount stays, and gives whoever looks there errors. */
  async detachLeft(): Promise<boolean> {
    const isLeft = await this.isOnTop()
    if (isLeft) await detach(this.mountPath, true).catch(() => undefined)
    return isLeft
  }

  /**
   * Rejects `busy` while anything holds what is unmounted: after a lazy unmount by someone, under
   * another mount, or in another namespace, files may be open that no folder of ours leads to.
   */
  async mustComeSoon(): Promise<void> {
    let cancel = (): void => undefined
    const late = new Promise<void>((resolve) => {
      cancel = this.#io.setTimer(LET_GO_TIMEOUT_MS, resolve)
    })
    await Promise.race([this.over, late])
    cancel()
    if (this.#isOver) return
    throw new OperatingError('busy', `something still holds the files of ${this.mountPath}`, {
      hint: 'It is unmounted, and goes when they are closed.',
    })
  }
}
