import type { IoFile } from '../io/io.ts'
import type { SegmentFooter, SegmentKind } from '../format/segment.ts'
import {
  DATA_SLOT_FIRST,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_PAGE_SLOT_SHIFT,
} from '../format/segment.ts'
import { assert, must } from '../base/assert.ts'

/** Words in one page of the checksum table: two a slot. */
export const TABLE_PAGE_WORDS: number = 2 * TABLE_PAGE_SLOT_COUNT

let statesMade = 0

/** What is known in memory of one segment's file. A rewritten file gets a state of its own. */
export class SegmentState {
  readonly id: number
  /** Different for every state of this process: what is cached of a file is never another's. */
  readonly serial: number
  /** Null until its header or footer was read. */
  kind: SegmentKind | null = null
  /** Of a bulk segment, once its header was read. */
  importId = 0
  /** False when only the footer says what it is: then it is never judged to be a leftover. */
  isHeaderSound = true
  /**
   * False while it is being filled: then its whole checksum table is here. True: table pages are
   * loaded when needed and may be dropped again.
   */
  sealed = true
  file: IoFile | null = null
  /** One opening at a time. */
  opening: Promise<IoFile> | null = null
  footer: SegmentFooter | null = null
  /** Of the checksum table; of a settled segment, of its directory, which begins with the same. */
  readonly pages: (Uint32Array | null)[] = new Array<Uint32Array | null>(TABLE_PAGE_COUNT).fill(
    null,
  )
  /** When file and pages were last marked as used: see `SegmentStore.isReady`. */
  fileUsedAt = -1
  readonly pageUsedAt: Float64Array = new Float64Array(TABLE_PAGE_COUNT).fill(-1)
  /** Reads in flight, unsynced data: the file stays open while there is any of that. */
  pinCount = 0
  /** The file left the cache of open files while it was pinned. */
  closeWhenIdle = false
  #idleWaiters: (() => void)[] = []

  constructor(id: number) {
    this.id = id
    statesMade += 1
    this.serial = statesMade
  }

  /** Resolves when nothing is pinned any more; there may be pins again by then. */
  whenIdle(): Promise<void> {
    if (this.pinCount === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idleWaiters.push(resolve)
    })
  }

  /** Once the last pin has gone. */
  noteIdle(): void {
    if (this.#idleWaiters.length === 0) return
    for (const resolve of this.#idleWaiters.splice(0)) resolve()
  }

  /** True when a directory says where its blocks are; known once the footer was read. */
  get isSettled(): boolean {
    return this.footer?.settled !== undefined
  }

  /** Of a segment being filled: the first slot not given to anything yet. */
  #nextSlot = DATA_SLOT_FIRST

  /** Makes room for the checksums of a segment about to be filled. */
  beginTable(): void {
    this.sealed = false
    this.#nextSlot = DATA_SLOT_FIRST
    for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) this.pages[i] = new Uint32Array(TABLE_PAGE_WORDS)
  }

  /** Notes the checksums of `count` blocks from `slot`; `words` holds two a block from `index`. */
  setChecksums(slot: number, count: number, words: Uint32Array, index: number): void {
    assert(slot >= this.#nextSlot, `slot ${slot} of segment ${this.id} is written once (I1)`)
    this.#nextSlot = slot + count
    for (let i = 0; i < count; i += 1) {
      const at = slot + i
      const page = must(this.pages[at >> TABLE_PAGE_SLOT_SHIFT], 'the table of an open segment')
      const word = 2 * (at & (TABLE_PAGE_SLOT_COUNT - 1))
      page[word] = words[index + 2 * i]
      page[word + 1] = words[index + 2 * i + 1]
    }
  }
}
