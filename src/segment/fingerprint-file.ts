/** Keeps the dedup index while the pool is closed, and makes it anew where there is none. */
import { OperatingError, VarveError } from '../base/errors.ts'
import { PLACE_FRAME } from '../format/directory.ts'
import {
  ENTRIES_PER_PAGE,
  FINGERPRINT_FILE,
  decodeFingerprintPage,
  encodeFingerprintHead,
  encodeFingerprintPage,
  tryDecodeFingerprintHead,
} from '../format/fingerprints.ts'
import type { FingerprintEntry, FingerprintHead } from '../format/fingerprints.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import { allocateArena } from '../io/arena.ts'
import type { Io, IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import type { DedupIndex } from './dedup-index.ts'
import type { SegmentStore } from './segment-store.ts'

const WINDOW_PAGE_COUNT = 64
/** What errors name where no segment is meant; nobody but `Fingerprints` sees them. */
const NO_SEGMENT = 0
const WINDOW_BYTES: number = WINDOW_PAGE_COUNT * PAGE_SIZE_BYTES

/** Written aside and renamed: a crash leaves the file of before, whose generation is then wrong. */
export async function saveFingerprints(
  store: SegmentStore,
  index: DedupIndex,
  poolPath: string,
  generation: number,
): Promise<void> {
  const { io } = store
  const path = `${poolPath}/${FINGERPRINT_FILE}`
  const aside = `${path}.new`
  const window = await allocateArena(io.arena, WINDOW_BYTES)
  let file: IoFile | null = null
  try {
    await removeIfThere(io, aside)
    file = await io.open(aside, 'create')
    await writePages(store, index, file, window, generation)
    await store.syncFile(file, NO_SEGMENT)
    await io.close(file)
    file = null
    await io.rename(aside, path)
    await io.syncDirectory(poolPath)
  } finally {
    if (file !== null) await io.close(file)
    io.arena.free(window, WINDOW_BYTES)
  }
}

async function writePages(
  store: SegmentStore,
  index: DedupIndex,
  file: IoFile,
  window: number,
  generation: number,
): Promise<void> {
  const { io, checksum, poolId } = store
  const { memory } = io.arena
  const pageCount = Math.ceil(index.count / ENTRIES_PER_PAGE)
  const head = { generation, sampleBits: index.sampleBits, pageCount }
  encodeFingerprintHead(head, poolId, memory, window, checksum)
  let pagesInWindow = 1
  let offsetBytes = 0
  const flush = (): void => {
    const lengthBytes = pagesInWindow * PAGE_SIZE_BYTES
    store.write(file, NO_SEGMENT, offsetBytes, window, lengthBytes)
    offsetBytes += lengthBytes
    pagesInWindow = 0
  }
  const cursor = index.entries()
  for (let page = 0; page < pageCount; page += 1) {
    if (pagesInWindow === WINDOW_PAGE_COUNT) {
      flush()
      await io.pause()
    }
    const entries: FingerprintEntry[] = []
    while (entries.length < ENTRIES_PER_PAGE) {
      const next = cursor.next()
      if (next.done === true) break
      entries.push(next.value)
    }
    const at = window + pagesInWindow * PAGE_SIZE_BYTES
    encodeFingerprintPage(entries.length, (i) => entries[i], memory, at, checksum)
    pagesInWindow += 1
  }
  flush()
}

/** Whether every page of the file is sound; null when there is none. */
export async function verifyFingerprints(
  store: SegmentStore,
  poolPath: string,
  pace: (readBytes: number) => Promise<void>,
): Promise<boolean | null> {
  const { io, checksum } = store
  if (!(await io.list(poolPath)).includes(FINGERPRINT_FILE)) return null
  const file = await io.open(`${poolPath}/${FINGERPRINT_FILE}`, 'read')
  const page = await allocateArena(io.arena, PAGE_SIZE_BYTES)
  try {
    const head = await tryReadHead(store, file, page)
    const { sizeBytes } = await io.stat(file)
    if (head === null || sizeBytes !== (1 + head.pageCount) * PAGE_SIZE_BYTES) return false
    for (let index = 1; index <= head.pageCount; index += 1) {
      const result = await ioResult((completion) => {
        io.read(file, index * PAGE_SIZE_BYTES, page, PAGE_SIZE_BYTES, completion, 0)
      })
      const ignore = (): void => undefined
      if (result !== PAGE_SIZE_BYTES) return false
      if (!decodeFingerprintPage(io.arena.memory, page, checksum, ignore)) return false
      await pace(PAGE_SIZE_BYTES)
    }
    return true
  } finally {
    await io.close(file)
    io.arena.free(page, PAGE_SIZE_BYTES)
  }
}

/** Fills the index from the file; false when there is none for this checkpoint. */
export async function tryLoadFingerprints(
  store: SegmentStore,
  index: DedupIndex,
  poolPath: string,
  generation: number,
): Promise<boolean> {
  const { io, checksum } = store
  let file: IoFile
  try {
    file = await io.open(`${poolPath}/${FINGERPRINT_FILE}`, 'read')
  } catch {
    return false
  }
  const window = await allocateArena(io.arena, WINDOW_BYTES)
  const fill = (offsetBytes: number): Promise<number> =>
    ioResult((completion) => {
      io.read(file, offsetBytes, window, WINDOW_BYTES, completion, 0)
    })
  try {
    const { memory } = io.arena
    const head = await tryReadHead(store, file, window)
    if (head?.generation !== generation) return false
    let filledBytes = await fill(0)
    index.reserve(head.pageCount * ENTRIES_PER_PAGE, head.sampleBits)
    const set = (segment: number, slot: number, tag: number, extra: number): void => {
      if (slot >= DATA_SLOT_FIRST && slot < DATA_SLOT_END) index.set(tag, extra, segment, slot)
    }
    for (let page = 1; page <= head.pageCount; page += 1) {
      const within = page % WINDOW_PAGE_COUNT
      if (within === 0) filledBytes = await fill(page * PAGE_SIZE_BYTES)
      if (filledBytes < (within + 1) * PAGE_SIZE_BYTES) break
      decodeFingerprintPage(memory, window + within * PAGE_SIZE_BYTES, checksum, set)
    }
    return true
  } finally {
    await io.close(file)
    io.arena.free(window, WINDOW_BYTES)
  }
}

/** Reads the first page to `page` of the arena; null when it is no head of this pool's file. */
async function tryReadHead(
  store: SegmentStore,
  file: IoFile,
  page: number,
): Promise<FingerprintHead | null> {
  const { io, checksum, poolId } = store
  const result = await ioResult((completion) => {
    io.read(file, 0, page, PAGE_SIZE_BYTES, completion, 0)
  })
  if (result !== PAGE_SIZE_BYTES) return null
  return tryDecodeFingerprintHead(io.arena.memory, page, poolId, checksum)
}

/** Says of a file that nothing in it has changed since, though the pool was opened and closed. */
export async function retagFingerprints(
  store: SegmentStore,
  poolPath: string,
  from: number,
  to: number,
): Promise<void> {
  const { io, checksum, poolId } = store
  const path = `${poolPath}/${FINGERPRINT_FILE}`
  if (!(await io.list(poolPath)).includes(FINGERPRINT_FILE)) return
  const file = await io.open(path, 'write')
  const page = await allocateArena(io.arena, PAGE_SIZE_BYTES)
  try {
    const head = await tryReadHead(store, file, page)
    if (head?.generation !== from) return
    encodeFingerprintHead({ ...head, generation: to }, poolId, io.arena.memory, page, checksum)
    store.write(file, NO_SEGMENT, 0, page, PAGE_SIZE_BYTES)
  } finally {
    await io.close(file)
    io.arena.free(page, PAGE_SIZE_BYTES)
  }
}

/**
 * Fills the index from the tables of all segments but the log's raw ones, whose blocks may be dead:
 * those are entered when they settle. A segment that cannot be read is left out.
 */
export async function rebuildFingerprints(
  store: SegmentStore,
  index: DedupIndex,
  pace: () => Promise<void>,
): Promise<void> {
  for (const id of store.ids()) {
    if (!store.has(id)) continue
    const state = store.get(id)
    if (!state.sealed) continue
    try {
      if (!(await store.readSealed(state))) continue
      if (!state.isSettled && state.footer?.kind === SegmentKind.log) continue
      const table = await store.loadTable(id)
      for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
        if (table.kindOf(slot) !== PLACE_FRAME) continue
        index.set(table.checksums[2 * slot], table.checksums[2 * slot + 1], id, slot)
      }
    } catch (error) {
      if (!isUnreadable(error)) throw error
    }
    await pace()
  }
}

function isUnreadable(error: unknown): boolean {
  return error instanceof VarveError && error.code !== 'canceled'
}

export async function removeIfThere(io: Io, path: string): Promise<void> {
  await io.remove(path).catch((error: unknown) => {
    if (!(error instanceof OperatingError) || error.code !== 'not-found') throw error
  })
}
