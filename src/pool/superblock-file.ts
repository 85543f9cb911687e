import { assert, must } from '../base/assert.ts'
import { isZero } from '../base/bytes.ts'
import type { Checksum } from '../base/checksum.ts'
import { CorruptionError, OperatingError } from '../base/errors.ts'
import { verifyWritable } from '../format/features.ts'
import { FORMAT_VERSION, PAGE_SIZE_BYTES } from '../format/page.ts'
import type { Superblock } from '../format/superblock.ts'
import { SUPERBLOCK_FILE, decodeSuperblock, encodeSuperblock } from '../format/superblock.ts'
import { allocateArena } from '../io/arena.ts'
import type { Io, IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'

const PAGE_COUNT = 2

/** The two alternating superblock pages. */
export class SuperblockFile {
  readonly #io: Io
  readonly #checksum: Checksum
  readonly #file: IoFile
  readonly #page: number
  #current: Superblock | null = null
  #wasTorn = false

  private constructor(io: Io, checksum: Checksum, file: IoFile) {
    this.#io = io
    this.#checksum = checksum
    this.#file = file
    this.#page = io.arena.allocate(PAGE_SIZE_BYTES)
    assert(this.#page >= 0, 'the arena holds a superblock')
  }

  /** Creates the file with its first generation, durably but for its name. */
  static async create(
    io: Io,
    checksum: Checksum,
    poolPath: string,
    superblock: Superblock,
  ): Promise<void> {
    const file = await io.open(`${poolPath}/${SUPERBLOCK_FILE}`, 'create')
    const self = new SuperblockFile(io, checksum, file)
    try {
      self.#current = { ...superblock, generation: 0 }
      await self.write((before) => before)
    } finally {
      await self.close()
    }
  }

  /** Reads the newest valid page. Rejects `unsupported`, `superblock-corrupt`. */
  static async open(io: Io, checksum: Checksum, poolPath: string): Promise<SuperblockFile> {
    const file = await io.open(`${poolPath}/${SUPERBLOCK_FILE}`, 'write')
    const self = new SuperblockFile(io, checksum, file)
    try {
      await self.#load(poolPath)
      const { isNewestSound, isOtherSound } = await self.verify()
      self.#wasTorn = !isNewestSound || !isOtherSound
      await self.#makeDurable()
    } catch (error) {
      await self.close()
      throw error
    }
    return self
  }

  get current(): Superblock {
    return must(this.#current, 'the superblock')
  }

  /** One of the pages was unreadable at opening. A crash leaves that, too. */
  get wasTorn(): boolean {
    return this.#wasTorn
  }

  /** Reads both pages from the disk: whether the newest one, and the other, is sound. */
  async verify(): Promise<{ isNewestSound: boolean; isOtherSound: boolean }> {
    const page = await allocateArena(this.#io.arena, PAGE_SIZE_BYTES)
    const newest = this.current.generation % PAGE_COUNT
    try {
      return {
        isNewestSound: await this.#isSound(newest, page),
        isOtherSound: await this.#isSound(1 - newest, page),
      }
    } finally {
      this.#io.arena.free(page, PAGE_SIZE_BYTES)
    }
  }

  /** Writes the newest page again, as it is, before the other one may be touched. */
  rewrite(): Promise<void> {
    return this.#makeDurable()
  }

  async #isSound(index: number, page: number): Promise<boolean> {
    const result = await ioResult((completion) => {
      this.#io.read(this.#file, index * PAGE_SIZE_BYTES, page, PAGE_SIZE_BYTES, completion, 0)
    })
    const bytes = this.#io.arena.memory.subarray(page, page + PAGE_SIZE_BYTES)
    if (result !== PAGE_SIZE_BYTES) return this.current.generation === 1
    if (decodeSuperblock(bytes, this.#checksum).kind === 'valid') return true
    return this.current.generation === 1 && isZero(bytes, 0, PAGE_SIZE_BYTES)
  }

  /** Writes the next generation over the older page and syncs it. */
  async write(change: (before: Superblock) => Superblock): Promise<void> {
    const next = { ...change(this.current), generation: this.current.generation + 1 }
    await this.#put(next)
    this.#current = next
  }

  async #put(superblock: Superblock): Promise<void> {
    const { memory } = this.#io.arena
    const page = memory.subarray(this.#page, this.#page + PAGE_SIZE_BYTES)
    encodeSuperblock(superblock, page, this.#checksum)
    const vector = { pairs: Uint32Array.of(this.#page, PAGE_SIZE_BYTES), count: 1 }
    const offsetBytes = (superblock.generation % PAGE_COUNT) * PAGE_SIZE_BYTES
    this.#verify(this.#io.writeSync(this.#file, offsetBytes, vector), 'written')
    this.#verify(await ioResult((completion) => this.#io.sync(this.#file, completion, 0)), 'synced')
  }

  async close(): Promise<void> {
    this.#io.arena.free(this.#page, PAGE_SIZE_BYTES)
    await this.#io.close(this.#file)
  }

  /**
   * What was just read may be in the page cache only: a sync that failed leaves it there, clean.
   * Written again and synced before the *other* page is ever touched, there is always a sound one.
   */
  #makeDurable(): Promise<void> {
    return this.#put(this.current)
  }

  async #load(poolPath: string): Promise<void> {
    let foreignVersion: number | null = null
    for (let i = 0; i < PAGE_COUNT; i += 1) {
      const result = await ioResult((completion) => {
        const offsetBytes = i * PAGE_SIZE_BYTES
        this.#io.read(this.#file, offsetBytes, this.#page, PAGE_SIZE_BYTES, completion, 0)
      })
      this.#verify(result, 'read')
      if (result < PAGE_SIZE_BYTES) continue
      const page = this.#io.arena.memory.subarray(this.#page, this.#page + PAGE_SIZE_BYTES)
      const verdict = decodeSuperblock(page, this.#checksum)
      if (verdict.kind === 'foreign-version') foreignVersion = verdict.formatVersion
      if (verdict.kind !== 'valid') continue
      const newest = this.#current?.generation ?? 0
      if (verdict.superblock.generation > newest) this.#current = verdict.superblock
    }
    if (foreignVersion !== null) {
      throw new OperatingError('unsupported', `the pool has format ${foreignVersion}`, {
        hint: `This build reads format ${FORMAT_VERSION}: use the version that wrote the pool.`,
        details: { formatVersion: foreignVersion },
      })
    }
    if (this.#current === null) {
      throw new CorruptionError('superblock-corrupt', `${poolPath} has no valid superblock`, {
        hint: 'run "varve check" on the pool',
      })
    }
    verifyWritable(this.#current)
  }

  #verify(result: number, verb: string): void {
    if (result >= 0) return
    throw new OperatingError('io', `the superblock cannot be ${verb}: errno ${-result}`, {
      errno: -result,
      hint: 'repair the disk, then reopen the pool',
    })
  }
}
