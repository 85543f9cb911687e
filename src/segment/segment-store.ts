/**
 * All segments of a pool by id: their files, opened when needed and a bounded number at a time,
 * their checksum tables, loaded by the page and dropped under a byte budget, and the checked read
 * of blocks by address. Invariant I8: no byte leaves here that does not match its checksum.
 */
import { LRUCache } from 'lru-cache'
import { assert, must } from '../base/assert.ts'
import type { Checksum } from '../base/checksum.ts'
import type { Codecs } from '../base/codec.ts'
import { CorruptionError, OperatingError, Errno } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  PLACE_ALIAS,
  PLACE_WORD_FIRST,
  aliasSlot,
  isLower,
  placeKind,
} from '../format/directory.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import type { SegmentFooter } from '../format/segment.ts'
import {
  FOOTER_SLOT,
  RECYCLED_SUFFIX,
  SETTLING_SUFFIX,
  SegmentKind,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_PAGE_SLOT_SHIFT,
  encodeSegmentHeader,
  footerSegment,
  segmentFileName,
  tryDecodeSegmentFooter,
  tryDecodeSegmentHeader,
  tryParseSegmentFileName,
} from '../format/segment.ts'
import type { Io, IoCompletion, IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import { AllocatedBytes } from './allocated.ts'
import { BlockRead } from './block-read.ts'
import { FrameCache } from './frame-cache.ts'
import { PagePool } from './page-pool.ts'
import { RecycledFiles } from './recycled-files.ts'
import { SegmentState } from './segment-state.ts'
import { SegmentTable, TABLE_PAGE_INDEXES, TablePageLoader } from './segment-table.ts'
import { SettledRead } from './settled-read.ts'
import { VerifyBatch } from './verify-batch.ts'

const TABLE_IO_PAGE_COUNT = 16
const BLOCK_IO_PAGE_COUNT = 64

export interface SegmentStoreOptions {
  /** For checksum table pages of sealed segments. 32 MiB covers 16 GiB of hot data. */
  checksumCacheBytes: number
  /** For decoded frames of settled segments. */
  frameCacheBytes: number
  /** Descriptors kept open; the usual soft limit of a process is 1,024. */
  openFileCountMax: number
}

/** Told of every block that failed its check, for the log. */
export type DamageListener = (segment: number, slot: number, fact: string) => void

export class SegmentStore {
  readonly io: Io
  readonly checksum: Checksum
  readonly poolId: Uint8Array
  /** Empty until somebody sets a limit. */
  readonly recycled: RecycledFiles
  readonly verifyBatch: VerifyBatch
  readonly #folder: string
  /** For headers, footers and table pages: whoever holds one waits for no other page. */
  readonly #pages: PagePool
  /** For blocks read by `readPage`, which may have to wait for a table page. */
  readonly #blockPages: PagePool
  readonly #segments: Map<number, SegmentState> = new Map()
  readonly #openFiles: LRUCache<number, SegmentState>
  readonly #tablePages: LRUCache<number, Uint32Array>
  readonly #tableLoader: TablePageLoader
  readonly #frames: FrameCache
  readonly #freeReads: BlockRead[] = []
  readonly #freeSettledReads: SettledRead[] = []
  readonly #onDamage: DamageListener
  readonly #allocated: AllocatedBytes
  #nextId = 1
  /** Of files and pages in the caches. */
  #arrivalCount = 0
  #isFolderInDoubt = false

  constructor(
    io: Io,
    checksum: Checksum,
    codecs: Codecs,
    poolId: Uint8Array,
    folder: string,
    options: SegmentStoreOptions,
    onDamage: DamageListener,
  ) {
    this.io = io
    this.checksum = checksum
    this.poolId = poolId
    this.#folder = folder
    this.recycled = new RecycledFiles(io, folder)
    this.verifyBatch = new VerifyBatch(io, checksum)
    this.#pages = new PagePool(io.arena, TABLE_IO_PAGE_COUNT)
    this.#blockPages = new PagePool(io.arena, BLOCK_IO_PAGE_COUNT)
    this.#onDamage = onDamage
    this.#allocated = new AllocatedBytes({
      has: (id) => this.#segments.has(id),
      isSealed: (id) => this.#segments.get(id)?.sealed !== false,
      allocatedBytes: (id) => this.allocatedBytes(id),
    })
    this.#openFiles = new LRUCache({
      max: options.openFileCountMax,
      dispose: (state): void => this.#closeFile(state),
    })
    this.#tableLoader = new TablePageLoader(io, checksum, codecs)
    this.#frames = new FrameCache(io, codecs, options.frameCacheBytes)
    this.#tablePages = new LRUCache({
      // At least one segment's, which recovery wants all at once.
      maxSize: Math.max(4 * TABLE_PAGE_COUNT * PAGE_SIZE_BYTES, options.checksumCacheBytes),
      sizeCalculation: (page): number => page.byteLength,
      dispose: (page, key): void => this.#dropPage(page, key),
    })
  }

  /** Registers every segment file in the folder; reads none. */
  async load(): Promise<void> {
    for (const name of await this.io.list(this.#folder)) {
      // A crash while a segment was being settled: the segment itself is as it was.
      const isLeftover = name.endsWith(SETTLING_SUFFIX) || name.endsWith(RECYCLED_SUFFIX)
      if (isLeftover) await this.io.remove(`${this.#folder}/${name}`)
      const id = tryParseSegmentFileName(name)
      if (id === null) continue
      this.#segments.set(id, new SegmentState(id))
      this.#allocated.noteChanged(id)
      this.#nextId = Math.max(this.#nextId, id + 1)
    }
  }

  get nextId(): number {
    return this.#nextId
  }

  /** A checkpoint knew of ids below this, even if their files are gone: they are never reused. */
  reserveIdsBelow(nextId: number): void {
    this.#nextId = Math.max(this.#nextId, nextId)
  }

  /** Ids in ascending order. */
  ids(): number[] {
    return [...this.#segments.keys()].sort((a, b) => a - b)
  }

  get count(): number {
    return this.#segments.size
  }

  has(id: number): boolean {
    return this.#segments.has(id)
  }

  get(id: number): SegmentState {
    const state = this.#segments.get(id)
    if (state === undefined) {
      throw new CorruptionError('segment-corrupt', `segment ${id} is missing`, {
        hint: 'run "varve check" on the pool',
        details: { segment: id },
      })
    }
    return state
  }

  pathOf(id: number): string {
    return `${this.#folder}/${segmentFileName(id)}`
  }

  /**
   * A new segment, its header and its name durable before anything can refer to it. The first of
   * an import (`importId` 0) gives the import its id.
   */
  async create(kind: SegmentKind, importId = 0): Promise<SegmentState> {
    const id = this.#nextId
    this.#nextId += 1
    const header = { segment: id, kind, importId: importIdOf(kind, importId, id) }
    const recycled = kind === SegmentKind.log ? await this.recycled.tryTake() : null
    let path = recycled ?? this.pathOf(id)
    const page = await this.#pages.take()
    let file: IoFile | null = null
    try {
      file = await this.io.open(path, recycled === null ? 'create' : 'write')
      const memory = this.io.arena.memory
      encodeSegmentHeader(header, this.poolId, memory, page, this.checksum)
      this.write(file, id, 0, page, PAGE_SIZE_BYTES)
      await this.syncFile(file, id)
      if (recycled !== null) {
        await this.io.rename(recycled, this.pathOf(id))
        path = this.pathOf(id)
      }
      await this.io.syncDirectory(this.#folder)
    } catch (error) {
      if (file !== null) await this.io.close(file)
      if (file !== null || recycled !== null) await this.io.remove(path)
      throw error
    } finally {
      this.#pages.give(page)
    }
    const state = new SegmentState(id)
    state.kind = kind
    state.importId = header.importId
    state.file = file
    state.beginTable()
    this.#segments.set(id, state)
    this.#allocated.noteChanged(id)
    return state
  }

  /** Writes one piece of the arena into a segment's file. Throws `no-space` or `io`. */
  write(
    file: IoFile,
    id: number,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
  ): void {
    const vector = { pairs: Uint32Array.of(arenaOffset, lengthBytes), count: 1 }
    this.mustSucceed(this.io.writeSync(file, offsetBytes, vector), 'write', id)
  }

  async syncFile(file: IoFile, id: number): Promise<void> {
    const result = await ioResult((completion) => this.io.sync(file, completion, 0))
    this.mustSucceed(result, 'sync', id)
  }

  /** The segment's footer is written: from now on it is like any sealed one. */
  noteSealed(state: SegmentState): void {
    state.sealed = true
    for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
      const page = state.pages[i]
      if (page !== null) this.#keepPage(state, i, page)
    }
    if (state.file !== null) this.#keepOpen(state)
  }

  /**
   * Reads `count` blocks at (segment, slot) into the arena and checks them. Completes with 0, or
   * -EIO for a mismatch, a missing segment or a failed read. What is in the cache of frames
   * completes inside the call. A *probe* is of what may no longer be there: nothing but the result
   * says that it is not.
   */
  read(
    segment: number,
    slot: number,
    count: number,
    arenaOffset: number,
    completion: IoCompletion,
    tag: number,
    isProbe = false,
  ): void {
    const state = this.#segments.get(segment) ?? null
    if (state !== null && state.isSettled && this.isReady(state, slot, count)) {
      state.pinCount += 1
      this.startSettled(state, slot, count, arenaOffset, completion, tag, isProbe)
      return
    }
    const read = this.#freeReads.pop() ?? new BlockRead(this)
    read.start(state, segment, slot, count, arenaOffset, completion, tag, isProbe)
  }

  /** Goes on with a read of a segment that is pinned, ready and settled. */
  startSettled(
    state: SegmentState,
    slot: number,
    count: number,
    arenaOffset: number,
    completion: IoCompletion,
    tag: number,
    isProbe: boolean,
  ): void {
    const read = this.#freeSettledReads.pop() ?? new SettledRead(this, this.#frames)
    read.start(state, slot, count, arenaOffset, completion, tag, isProbe)
  }

  recycle(read: BlockRead): void {
    this.#freeReads.push(read)
  }

  recycleSettled(read: SettledRead): void {
    this.#freeSettledReads.push(read)
  }

  /** Checked bytes of one block in memory of its own, for nodes and the catalogue. */
  async readPage(segment: number, slot: number): Promise<Uint8Array<ArrayBuffer>> {
    const page = await this.#blockPages.take()
    try {
      const result = await ioResult((completion) => {
        this.read(segment, slot, 1, page, completion, 0)
      })
      if (result !== 0) {
        throw new OperatingError('io', `block ${segment}:${slot} cannot be read`, {
          errno: -result,
          details: { segment, slot },
          hint: 'run "varve check" on the pool',
        })
      }
      return Uint8Array.from(this.io.arena.memory.subarray(page, page + PAGE_SIZE_BYTES))
    } finally {
      this.#blockPages.give(page)
    }
  }

  #keepOpen(state: SegmentState): void {
    this.#arrivalCount += 1
    this.#openFiles.set(state.id, state)
  }

  #keepPage(state: SegmentState, index: number, page: Uint32Array): void {
    this.#arrivalCount += 1
    this.#tablePages.set(state.id * TABLE_PAGE_COUNT + index, page)
  }

  /**
   * True when the file is open and the range's table pages are here. Keeps them so a while: the
   * caches are told of a use once per arrival, for only an arrival drives anything out.
   */
  isReady(state: SegmentState, slot: number, count: number): boolean {
    if (state.file === null) return false
    if (!state.sealed) return true
    const arrivalCount = this.#arrivalCount
    if (state.fileUsedAt !== arrivalCount) {
      state.fileUsedAt = arrivalCount
      this.#openFiles.get(state.id)
    }
    const last = (slot + count - 1) >> TABLE_PAGE_SLOT_SHIFT
    for (let i = slot >> TABLE_PAGE_SLOT_SHIFT; i <= last; i += 1) {
      if (state.pages[i] === null) return false
      if (state.pageUsedAt[i] === arrivalCount) continue
      state.pageUsedAt[i] = arrivalCount
      this.#tablePages.get(state.id * TABLE_PAGE_COUNT + i)
    }
    return true
  }

  /** Opens the file and loads the table pages of the range. */
  async prepare(state: SegmentState, slot: number, count: number): Promise<void> {
    const file = await this.openFile(state)
    if (!state.sealed) return
    const footer = (state.footer ??= await this.#loadFooter(state, file))
    for (
      let i = slot >> TABLE_PAGE_SLOT_SHIFT;
      i <= (slot + count - 1) >> TABLE_PAGE_SLOT_SHIFT;
      i += 1
    ) {
      if (state.pages[i] !== null) continue
      const page = await this.#tableLoader.load(file, footer, i)
      state.pages[i] = page
      this.#keepPage(state, i, page)
    }
  }

  /** The whole table of a segment, for rewrites and counts. Rejects as `prepare` does. */
  async loadTable(id: number): Promise<SegmentTable> {
    const state = this.get(id)
    const file = await this.#pin(state)
    try {
      const footer = state.sealed ? (state.footer ??= await this.#loadFooter(state, file)) : null
      const table = new SegmentTable(state.isSettled)
      for (const i of TABLE_PAGE_INDEXES) {
        const known = state.pages[i]
        if (known !== null) table.setPage(i, known)
        else table.setPage(i, await this.#tableLoader.load(file, must(footer, 'the footer'), i))
      }
      return table
    } finally {
      this.unpin(state)
    }
  }

  /** What its footer says; null while it is being filled, or when it has none. */
  async tryFooter(id: number): Promise<SegmentFooter | null> {
    const state = this.get(id)
    return state.sealed && (await this.readSealed(state)) ? state.footer : null
  }

  /** Where the bytes of an address are: follows aliases to their end. */
  async resolve(segment: number, slot: number): Promise<{ segment: number; slot: number }> {
    for (;;) {
      const state = this.get(segment)
      // Held while it is looked at: its pages could leave the cache, its file be closed.
      await this.#pin(state)
      try {
        while (!this.isReady(state, slot, 1)) await this.prepare(state, slot, 1)
        if (!state.isSettled) return { segment, slot }
        const page = must(state.pages[slot >> TABLE_PAGE_SLOT_SHIFT], 'the directory page')
        const word = PLACE_WORD_FIRST + 2 * (slot & (TABLE_PAGE_SLOT_COUNT - 1))
        if (placeKind(page[word + 1]) !== PLACE_ALIAS) return { segment, slot }
        const target = { segment: page[word], slot: aliasSlot(page[word + 1]) }
        if (!isLower(target.segment, target.slot, segment, slot)) throw forward(segment, slot)
        segment = target.segment
        slot = target.slot
      } finally {
        this.unpin(state)
      }
    }
  }

  /**
   * Puts a rewritten file in place of a segment's: whoever has begun to read the old one ends
   * there. The caller has renamed the file, and made that durable.
   */
  replace(id: number, file: IoFile, footer: SegmentFooter): void {
    const old = this.get(id)
    assert(old.sealed, 'only a sealed segment is rewritten')
    const state = new SegmentState(id)
    state.kind = old.kind
    state.importId = old.importId
    state.isHeaderSound = old.isHeaderSound
    state.footer = footer
    this.#segments.set(id, state)
    for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) this.#tablePages.delete(id * TABLE_PAGE_COUNT + i)
    if (!this.#openFiles.delete(id)) this.#closeFile(old)
    state.file = file
    this.#keepOpen(state)
    this.#allocated.noteChanged(id)
  }

  /** A frame of a settled segment was put right in place. */
  forgetFrame(id: number, offsetBytes: number): void {
    this.#frames.forget(this.get(id), offsetBytes)
  }

  async openFile(state: SegmentState): Promise<IoFile> {
    if (state.file !== null) return state.file
    state.opening ??= this.io.open(this.pathOf(state.id), 'write').catch((error: unknown) => {
      // The next who needs it tries again: there may be a descriptor by then.
      state.opening = null
      throw error
    })
    const file = await state.opening
    if (state.opening !== null) {
      state.opening = null
      state.file = file
      if (state.sealed) this.#keepOpen(state)
    }
    return must(state.file, 'the segment file')
  }

  /**
   * What the header says, or the footer where the header is damaged. Null when the file ends with
   * its first page: its creation was cut short. Rejects `segment-corrupt` when a file that holds
   * more says nothing of itself.
   */
  async readKind(state: SegmentState): Promise<SegmentKind | null> {
    if (state.kind !== null) return state.kind
    const file = await this.#pin(state)
    const page = await this.#pages.take()
    try {
      if (!(await this.#readRaw(file, 0, page))) return null
      const memory = this.io.arena.memory
      const header = tryDecodeSegmentHeader(memory, page, this.poolId, this.checksum)
      if (header?.segment === state.id) {
        state.kind = header.kind
        state.importId = header.importId
        return state.kind
      }
      if ((await this.io.stat(file)).sizeBytes <= PAGE_SIZE_BYTES) return null
    } finally {
      this.#pages.give(page)
      this.unpin(state)
    }
    await this.readSealed(state)
    if (state.footer === null && (await this.#isRecycled(state))) {
      state.kind = SegmentKind.log
      state.isHeaderSound = false
      return state.kind
    }
    if (state.footer === null) {
      throw new CorruptionError('segment-corrupt', `segment ${state.id} has no sound header`, {
        hint: 'run "varve check" on the pool',
        details: { segment: state.id },
      })
    }
    state.kind = state.footer.kind
    state.isHeaderSound = false
    return state.kind
  }

  /** Whether the file still has the footer of the log segment that it was before. */
  async #isRecycled(state: SegmentState): Promise<boolean> {
    const before = await this.#readFooter(state, (memory, page) =>
      footerSegment(memory, page, this.poolId, this.checksum),
    )
    return before !== null && before < state.id
  }

  /** Reads the footer; false when the segment is not sealed. */
  async readSealed(state: SegmentState): Promise<boolean> {
    if (state.footer !== null) return true
    state.footer = await this.#readFooter(state, (memory, page) =>
      tryDecodeSegmentFooter(memory, page, this.poolId, state.id, this.checksum),
    )
    return state.footer !== null
  }

  /** What `decode` makes of the footer page; null when the file ends before it. */
  async #readFooter<T>(
    state: SegmentState,
    decode: (memory: Uint8Array, offsetBytes: number) => T | null,
  ): Promise<T | null> {
    const file = await this.#pin(state)
    const page = await this.#pages.take()
    try {
      if (!(await this.#readRaw(file, FOOTER_SLOT, page))) return null
      return decode(this.io.arena.memory, page)
    } finally {
      this.#pages.give(page)
      this.unpin(state)
    }
  }

  /**
   * Removes the file, or keeps it for a later segment, once those who still use it are done;
   * nothing may refer to it.
   */
  async delete(id: number): Promise<void> {
    const state = this.get(id)
    this.#segments.delete(id)
    this.#allocated.noteDeleted(id)
    while (state.pinCount > 0) await state.whenIdle()
    for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
      this.#tablePages.delete(id * TABLE_PAGE_COUNT + i)
    }
    const keptBytes = await this.#recyclableBytes(state)
    if (!this.#openFiles.delete(id)) this.#closeFile(state)
    if (keptBytes === null) await this.io.remove(this.pathOf(id))
    else await this.recycled.keep(this.pathOf(id), keptBytes)
  }

  /** What the file of a deleted segment takes, if it may be kept; else null. */
  async #recyclableBytes(state: SegmentState): Promise<number | null> {
    if (!this.recycled.hasRoom(0)) return null
    const file = await this.#pin(state)
    try {
      const isSealed = await this.readSealed(state)
      if (!isSealed || state.isSettled || state.footer?.kind !== SegmentKind.log) return null
      const { allocatedBytes } = await this.io.stat(file)
      return this.recycled.hasRoom(allocatedBytes) ? allocatedBytes : null
    } catch (error) {
      if (error instanceof OperatingError) return null
      throw error
    } finally {
      this.unpin(state)
    }
  }

  /** Gives the slots' space back; their content is gone. */
  async punch(id: number, slot: number, count: number): Promise<void> {
    const state = this.get(id)
    const file = await this.#pin(state)
    try {
      await this.io.punch(file, slot * BLOCK_SIZE_BYTES, count * BLOCK_SIZE_BYTES)
    } finally {
      this.unpin(state)
      this.#allocated.noteChanged(id)
    }
  }

  /**
   * Makes names durable: which segments there are, and which were rewritten. Once that has failed
   * it is not tried again (I10).
   */
  async syncFolder(): Promise<void> {
    this.verifyFolderDurable()
    try {
      await this.io.syncDirectory(this.#folder)
    } catch (error) {
      this.#isFolderInDoubt = true
      throw error
    }
  }

  /**
   * Throws `io` after a failed `syncFolder`. A power failure may then bring back what a segment was
   * before it was rewritten, and that may point to what its new form does not.
   */
  verifyFolderDurable(): void {
    if (!this.#isFolderInDoubt) return
    throw new OperatingError('io', 'a sync of the segments’ folder has failed', {
      hint: 'repair the disk, then reopen the pool',
    })
  }

  /** What the segment takes on disk; nothing when it was deleted meanwhile. */
  async allocatedBytes(id: number): Promise<number> {
    const state = this.#segments.get(id)
    if (state === undefined) return 0
    const file = await this.#pin(state)
    try {
      return (await this.io.stat(file)).allocatedBytes
    } finally {
      this.unpin(state)
    }
  }

  /** What all segments take on disk; asks only for those that may have changed. */
  physicalBytes(): Promise<number> {
    return this.#allocated.total()
  }

  async close(): Promise<void> {
    // What cannot be removed now is by the next opening.
    await this.recycled.limit(0).catch(() => undefined)
    for (const state of this.#segments.values()) {
      while (state.pinCount > 0) await state.whenIdle()
      const file = state.file
      state.file = null
      if (file !== null) await this.io.close(file)
    }
    this.#openFiles.clear()
    this.#tablePages.clear()
    this.#tableLoader.close()
    this.#frames.close()
    this.#pages.release(this.io.arena)
    this.#blockPages.release(this.io.arena)
  }

  noteDamage(segment: number, slot: number, fact: string): void {
    this.#onDamage(segment, slot, fact)
  }

  /** Keeps the segment's file open, as it is now, until `unpin`. */
  async hold(id: number): Promise<SegmentState> {
    const state = this.get(id)
    await this.#pin(state)
    return state
  }

  /** Ends a read, or whatever else kept the file open. */
  unpin(state: SegmentState): void {
    state.pinCount -= 1
    assert(state.pinCount >= 0, 'what is unpinned was pinned')
    if (state.pinCount > 0) return
    if (state.closeWhenIdle) this.#closeFile(state)
    state.noteIdle()
  }

  async #pin(state: SegmentState): Promise<IoFile> {
    state.pinCount += 1
    try {
      return await this.openFile(state)
    } catch (error) {
      this.unpin(state)
      throw error
    }
  }

  #closeFile(state: SegmentState): void {
    if (state.pinCount > 0) {
      state.closeWhenIdle = true
      return
    }
    const file = state.file
    state.closeWhenIdle = false
    state.file = null
    if (file !== null) void this.io.close(file).catch(() => undefined)
  }

  #dropPage(page: Uint32Array, key: number): void {
    const state = this.#segments.get(Math.floor(key / TABLE_PAGE_COUNT))
    const index = key % TABLE_PAGE_COUNT
    // Two reads may have loaded the same page: the first copy leaves the cache, the second stays.
    if (state?.pages[index] === page) state.pages[index] = null
  }

  async #loadFooter(
    state: SegmentState,
    file: IoFile,
  ): Promise<NonNullable<SegmentState['footer']>> {
    assert(state.file === file, 'the footer is read from the open file')
    if (!(await this.readSealed(state))) {
      throw new CorruptionError('segment-corrupt', `segment ${state.id} has no sound footer`, {
        details: { segment: state.id },
      })
    }
    return must(state.footer, 'the footer just read')
  }

  /** One page without a check; false when the file ends before it. */
  async #readRaw(file: IoFile, slot: number, page: number): Promise<boolean> {
    const offsetBytes = slot * BLOCK_SIZE_BYTES
    const result = await ioResult((completion) => {
      this.io.read(file, offsetBytes, page, PAGE_SIZE_BYTES, completion, 0)
    })
    if (result < 0) {
      throw new OperatingError('io', `${file.path} cannot be read`, { errno: -result })
    }
    return result === PAGE_SIZE_BYTES
  }

  /** Throws `no-space` or `io` for a negative errno. */
  mustSucceed(result: number, verb: string, id: number): void {
    if (result >= 0) return
    throw new OperatingError(
      -result === Errno.ENOSPC ? 'no-space' : 'io',
      `cannot ${verb} segment ${id}: errno ${-result}`,
      { errno: -result },
    )
  }
}

/** What a header says: an import of which no segment is known is called by this one's id. */
export function importIdOf(kind: SegmentKind, importId: number, id: number): number {
  if (kind === SegmentKind.log) return 0
  return importId === 0 ? id : importId
}

function forward(segment: number, slot: number): CorruptionError {
  const fact = `slot ${slot} of segment ${segment} is an alias that does not point downwards`
  const hint = 'run "varve check" on the pool'
  return new CorruptionError('segment-corrupt', fact, { hint, details: { segment, slot } })
}
