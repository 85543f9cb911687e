import { SCRUB_FILE, encodeScrubState, tryDecodeScrubState } from '../format/scrub-state.ts'
import type { ScrubState } from '../format/scrub-state.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { allocateArena } from '../io/arena.ts'
import { ioResult } from '../io/io.ts'
import type { IoFile } from '../io/io.ts'
import { removeIfThere } from '../segment/fingerprint-file.ts'
import type { PoolCore } from './core.ts'

const NO_STATE: ScrubState = { running: null, last: null }
/** What errors name where no segment is meant. */
const NO_SEGMENT = 0

/** The file `scrub` of the pool: read once, written aside and renamed. */
export class ScrubFile {
  readonly #core: PoolCore
  readonly #path: string
  #loading: Promise<ScrubState> | null = null
  /** The file was there and is no state of this pool's. */
  isDamaged = false

  constructor(core: PoolCore) {
    this.#core = core
    this.#path = `${core.path}/${SCRUB_FILE}`
  }

  /** Rejects with the operating system's error. */
  load(): Promise<ScrubState> {
    this.#loading ??= this.#read().catch((error: unknown) => {
      this.#loading = null
      throw error
    })
    return this.#loading
  }

  /** Durable when it resolves. */
  async save(state: ScrubState): Promise<void> {
    const { io, store, poolId, checksum, path, space } = this.#core
    const page = await allocateArena(io.arena, PAGE_SIZE_BYTES)
    try {
      encodeScrubState(state, poolId, io.arena.memory, page, checksum)
      await space.withReserve(async () => {
        const aside = `${this.#path}.new`
        await removeIfThere(io, aside)
        const file = await io.open(aside, 'create')
        try {
          store.write(file, NO_SEGMENT, 0, page, PAGE_SIZE_BYTES)
          await store.syncFile(file, NO_SEGMENT)
        } finally {
          await io.close(file)
        }
        await io.rename(aside, this.#path)
        await io.syncDirectory(path)
      })
    } finally {
      io.arena.free(page, PAGE_SIZE_BYTES)
    }
    this.#loading = Promise.resolve(state)
    this.isDamaged = false
  }

  async #read(): Promise<ScrubState> {
    const { io, poolId, checksum, path } = this.#core
    if (!(await io.list(path)).includes(SCRUB_FILE)) return NO_STATE
    const file = await io.open(this.#path, 'read')
    const page = await allocateArena(io.arena, PAGE_SIZE_BYTES)
    try {
      const isWhole = (await this.#readPage(file, page)) === PAGE_SIZE_BYTES
      const state = isWhole ? tryDecodeScrubState(io.arena.memory, page, poolId, checksum) : null
      this.isDamaged = state === null
      return state ?? NO_STATE
    } finally {
      await io.close(file)
      io.arena.free(page, PAGE_SIZE_BYTES)
    }
  }

  #readPage(file: IoFile, page: number): Promise<number> {
    return ioResult((completion) => {
      this.#core.io.read(file, 0, page, PAGE_SIZE_BYTES, completion, 0)
    })
  }
}
