/**
 * Room on the disk that nobody else can take: empty files with space allotted to them, in a folder
 * of the pool's. A disk that others write to, too, may have nothing left when the pool has to
 * journal the very removal that makes room; then one of the files is removed and its space is used.
 * They are made again when there is room again. Nothing refers to them: losing them loses no data.
 */
import { Errno, OperatingError } from '../base/errors.ts'
import type { Io } from '../io/io.ts'

export const RESERVE_FOLDER = 'reserve'

/** So that an operation that needs little does not lay all of it open to others. */
const PIECE_NAMES: readonly string[] = ['1', '2', '3', '4', '5', '6', '7', '8']
const PAGE_BYTES = 4096

export class Reserve {
  readonly #io: Io
  readonly #folder: string
  readonly #pieces: Map<string, number> = new Map()
  #isSupported = true

  private constructor(io: Io, folder: string) {
    this.#io = io
    this.#folder = folder
  }

  /** What an earlier process left is ours. */
  static async open(io: Io, poolFolder: string): Promise<Reserve> {
    const reserve = new Reserve(io, `${poolFolder}/${RESERVE_FOLDER}`)
    if (!(await io.list(poolFolder)).includes(RESERVE_FOLDER)) return reserve
    for (const name of await io.list(reserve.#folder)) {
      if (PIECE_NAMES.includes(name)) await reserve.#adopt(name)
    }
    return reserve
  }

  /** Bytes of the disk that are taken and free for us all the same. */
  get heldBytes(): number {
    return [...this.#pieces.values()].reduce((sum, bytes) => sum + bytes, 0)
  }

  /** Has what is missing of `wantedBytes` set aside, or as much as can be. */
  async take(wantedBytes: number): Promise<void> {
    if (!this.#isSupported || this.#pieces.size === PIECE_NAMES.length) return
    const pieceBytes = Math.ceil(wantedBytes / PIECE_NAMES.length / PAGE_BYTES) * PAGE_BYTES
    try {
      if (this.#pieces.size === 0) await this.#createFolder()
      for (const name of PIECE_NAMES) {
        if (!this.#pieces.has(name)) await this.#create(name, pieceBytes)
      }
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error
      // Short of space somebody was quicker: a later look at the disk tries again.
      if (error.code !== 'no-space') this.#isSupported = false
    }
  }

  /** Gives one piece back to the disk. False: there is none. */
  async release(): Promise<boolean> {
    const [name] = this.#pieces.keys()
    if (name === undefined) return false
    await this.#io.remove(`${this.#folder}/${name}`)
    // Gone, also when the sync fails (seed 1695).
    this.#pieces.delete(name)
    // Some filesystems hand out freed blocks only when the removal is durable.
    await this.#io.syncDirectory(this.#folder)
    return true
  }

  async #adopt(name: string): Promise<void> {
    const path = `${this.#folder}/${name}`
    const file = await this.#io.open(path, 'write')
    try {
      const { allocatedBytes } = await this.#io.stat(file)
      if (allocatedBytes > 0) this.#pieces.set(name, allocatedBytes)
    } finally {
      await this.#io.close(file)
    }
    // One that a crash left without its space is in the way of a new one.
    if (!this.#pieces.has(name)) await this.#io.remove(path)
  }

  async #createFolder(): Promise<void> {
    await this.#io.createDirectory(this.#folder).catch((error: unknown) => {
      if (!(error instanceof OperatingError) || error.code !== 'exists') throw error
    })
  }

  async #create(name: string, lengthBytes: number): Promise<void> {
    const path = `${this.#folder}/${name}`
    const file = await this.#io.open(path, 'create')
    try {
      await this.#io.allocate(file, 0, lengthBytes)
      this.#pieces.set(name, (await this.#io.stat(file)).allocatedBytes)
    } finally {
      await this.#io.close(file)
      if (!this.#pieces.has(name)) await this.#io.remove(path)
    }
  }
}

/** The disk itself said so, not the pool's own count. */
export function isShortOfSpace(error: unknown): boolean {
  return error instanceof OperatingError && error.errno === Errno.ENOSPC
}
