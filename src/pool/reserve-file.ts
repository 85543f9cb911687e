/**
 * Room on the disk that nobody else can take: an empty file with space allotted to it, in the
 * pool's folder. A disk that others write to, too, may have nothing left when the pool has to
 * journal the very removal that makes room; then the file is removed and its space is used. It is
 * made again when there is room again. Nothing refers to it: losing it loses no data.
 */
import { Errno, OperatingError } from '../base/errors.ts'
import type { Io } from '../io/io.ts'

export const RESERVE_FILE = 'reserve'

export class ReserveFile {
  readonly #io: Io
  readonly #folder: string
  readonly #path: string
  #heldBytes = 0
  #isSupported = true

  private constructor(io: Io, folder: string) {
    this.#io = io
    this.#folder = folder
    this.#path = `${folder}/${RESERVE_FILE}`
  }

  /** What an earlier process left is ours. */
  static async open(io: Io, folder: string): Promise<ReserveFile> {
    const reserve = new ReserveFile(io, folder)
    if (!(await io.list(folder)).includes(RESERVE_FILE)) return reserve
    const file = await io.open(reserve.#path, 'write')
    try {
      reserve.#heldBytes = (await io.stat(file)).allocatedBytes
    } finally {
      await io.close(file)
    }
    // One that a crash left without its space is in the way of a new one.
    if (reserve.#heldBytes === 0) await io.remove(reserve.#path)
    return reserve
  }

  /** Bytes of the disk that are taken and free for us all the same. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /** Has `wantedBytes` set aside if there is nothing yet; without, where that cannot be done. */
  async take(wantedBytes: number): Promise<void> {
    if (this.#heldBytes > 0 || !this.#isSupported) return
    try {
      await this.#create(wantedBytes)
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error
      // Short of space somebody was quicker: the next look tries again.
      if (!isShortOfSpace(error)) this.#isSupported = false
      await this.#io.remove(this.#path).catch(() => undefined)
    }
  }

  async #create(wantedBytes: number): Promise<void> {
    const io = this.#io
    const file = await io.open(this.#path, 'create')
    try {
      await io.allocate(file, 0, wantedBytes)
      this.#heldBytes = (await io.stat(file)).allocatedBytes
    } finally {
      await io.close(file)
    }
  }

  /** Gives everything back to the disk. False: there was nothing. */
  async release(): Promise<boolean> {
    if (this.#heldBytes === 0) return false
    await this.#io.remove(this.#path)
    // Some filesystems hand out freed blocks only when the removal is durable.
    await this.#io.syncDirectory(this.#folder)
    this.#heldBytes = 0
    return true
  }
}

/** The disk itself said so, not the pool's own count. */
export function isShortOfSpace(error: unknown): boolean {
  return error instanceof OperatingError && error.errno === Errno.ENOSPC
}
