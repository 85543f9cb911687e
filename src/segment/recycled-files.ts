/**
 * Files of log segments that are gone, kept to become the next ones. A log that goes on in a new
 * file has the filesystem find room for every block and the kernel fresh pages for all that is
 * written; in a file that is there already it does neither, and a sync has no metadata to write
 * (docs/decisions/2026-11-26-recycled-segments.md). How much may be kept is for the pool to say.
 *
 * Why old records in a new segment do no harm: records, footers and headers name their segment, and
 * ids are never used twice. A kept file has a name of its own, that no opening takes for a segment:
 * it gets back a segment's name when it has the new segment's header, durably.
 */
import { RECYCLED_SUFFIX } from '../format/segment.ts'
import type { Io } from '../io/io.ts'

const KEPT_COUNT_MAX = 64

interface KeptFile {
  path: string
  allocatedBytes: number
}

export class RecycledFiles {
  readonly #io: Io
  readonly #folder: string
  readonly #kept: KeptFile[] = []
  #limitBytes = 0

  constructor(io: Io, folder: string) {
    this.#io = io
    this.#folder = folder
  }

  /** What the kept files take of the disk. */
  get heldBytes(): number {
    return this.#kept.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0)
  }

  /** For one more file that takes so much. */
  hasRoom(allocatedBytes: number): boolean {
    if (this.#kept.length >= KEPT_COUNT_MAX) return false
    return this.#limitBytes > 0 && this.heldBytes + allocatedBytes <= this.#limitBytes
  }

  /** Takes over the file of a segment that nobody uses any more. */
  async keep(path: string, allocatedBytes: number): Promise<void> {
    const kept = { path: `${path}${RECYCLED_SUFFIX}`, allocatedBytes }
    await this.#io.rename(path, kept.path)
    this.#kept.push(kept)
    // What saves most is taken first.
    this.#kept.sort((a, b) => a.allocatedBytes - b.allocatedBytes)
  }

  /**
   * A file to be written over, or null. Its old name is durably gone: else a power failure could
   * give the old segment the new one's content.
   */
  async tryTake(): Promise<string | null> {
    const kept = this.#kept.pop()
    if (kept === undefined) return null
    try {
      await this.#io.syncDirectory(this.#folder)
    } catch (error) {
      this.#kept.push(kept)
      throw error
    }
    return kept.path
  }

  /** Keeps no more than this from now on; what is too much is removed. */
  async limit(limitBytes: number): Promise<void> {
    this.#limitBytes = limitBytes
    while (this.#kept.length > 0 && (limitBytes === 0 || this.heldBytes > limitBytes)) {
      const kept = this.#kept.pop()
      if (kept !== undefined) await this.#io.remove(kept.path)
    }
  }
}
