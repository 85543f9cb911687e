/**
 * A small pool with some of its bytes changed and every checksum made right again: what somebody
 * could write who knows the format and means no good. A patch is eight bytes:
 *
 *     0  2  page, of all pages in order      4  4  value
 *     2  2  offset in it, or what the operation makes of it (low 12 bits), operation (high 4)
 *
 * Data is patched first, then what has its checksum: record headers in the order of the log, each
 * naming the one before; tables, directories, footers; the superblocks last.
 */
import type { Checksum } from '../../src/base/checksum.ts'
import { must } from '../../src/base/assert.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../../src/base/units.ts'
import { CATALOGUE_MAGIC } from '../../src/format/catalogue.ts'
import { PLACE_FRAME, frameIndex, frameOffset, placeKind } from '../../src/format/directory.ts'
import { PAGE_SIZE_BYTES, hasMagic, pageView, sealPage } from '../../src/format/page.ts'
import { RECORD_MAGIC, readRecordChecksum } from '../../src/format/record.ts'
import {
  FOOTER_SLOT,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_SLOT,
} from '../../src/format/segment.ts'
import { PoolBuilder } from '../support/pool-builder.ts'
import { DIRECTORY_SLOT, FRAMES_SLOT } from '../support/settled-builder.ts'

export const PATCH_BYTES = 8

// Of the drawings in src/format.
const RECORD_PREVIOUS_AT = 48
const RECORD_ENTRY_COUNT_AT = 56
const RECORD_BLOCK_COUNT_AT = 58
const RECORD_ENTRIES_AT = 64
const RECORD_ENTRY_BYTES = 16
const FOOTER_CHECKSUMS_AT = 48
const FOOTER_DIRECTORY_BYTES_AT = 304
const SUPERBLOCK_PREVIOUS_AT = 88
const PART_LENGTH_AT = 12
const PART_PAYLOAD_AT = 32

interface PageKey {
  /** 0: the superblock. */
  segment: number
  slot: number
}

interface SettledPlaces {
  places: Uint32Array
}

/** A patch, read. */
interface Patch extends PageKey {
  operation: number
  offset: number
  value: number
}

export class PatchedPools {
  readonly #base: PoolBuilder
  readonly #checksum: Checksum
  readonly #pages: PageKey[] = []
  /** In the order of the log; `isBeforePosition`: the superblock names the last of these. */
  readonly #records: { key: PageKey; isBeforePosition: boolean }[] = []
  readonly #settled: ReadonlyMap<number, SettledPlaces>

  constructor(
    base: PoolBuilder,
    positionSlot: number,
    checksum: Checksum,
    settled: ReadonlyMap<number, SettledPlaces>,
  ) {
    this.#base = base
    this.#checksum = checksum
    this.#settled = settled
    this.#pages.push({ segment: 0, slot: 0 }, { segment: 0, slot: 1 })
    const lastId = Math.max(...base.segments.keys())
    for (const [segment, { pages }] of base.segments) {
      for (const slot of [...pages.keys()].sort((a, b) => a - b)) {
        const key = { segment, slot }
        this.#pages.push(key)
        if (!isRecord(must(pages.get(slot), 'a page'))) continue
        const isBeforePosition = segment < lastId || slot < positionSlot
        this.#records.push({ key, isBeforePosition })
      }
    }
  }

  get pageCount(): number {
    return this.#pages.length
  }

  /** A patch of page number `index` for a seed. */
  static encode(index: number, operation: number, offset: number, value: number): Uint8Array {
    const bytes = new Uint8Array(PATCH_BYTES)
    const view = new DataView(bytes.buffer)
    view.setUint16(0, index, true)
    view.setUint16(2, (operation << 12) | offset, true)
    view.setUint32(4, value, true)
    return bytes
  }

  /** `isSealing`: checksums are made right. */
  build(patches: Uint8Array, isSealing: boolean): PoolBuilder {
    const result = new PoolBuilder(this.#checksum)
    for (const [id, segment] of this.#base.segments) {
      const { kind, table, usedSlotCount } = segment
      result.segments.set(id, { kind, pages: new Map(segment.pages), table, usedSlotCount })
    }
    result.superblockBytes.set(this.#base.superblockBytes)
    const byPage = this.#decode(patches)
    const touched = new Set<string>()
    const apply = (key: PageKey): Uint8Array => {
      const page = pageOf(result, key).slice()
      for (const patch of byPage.get(nameOf(key)) ?? []) applyPatch(page, patch)
      touched.add(nameOf(key))
      putPage(result, key, page)
      return page
    }
    for (const key of this.#pages) {
      if (byPage.has(nameOf(key)) && !this.#isMetadata(key)) apply(key)
    }
    const chain = new Uint32Array(2)
    const positionChain = new Uint32Array(2)
    for (const { key, isBeforePosition } of this.#records) {
      if (isSealing) this.#sumBlocks(result, key, chain)
      const page = apply(key)
      if (isSealing) sealPage(page, 0, this.#checksum)
      readRecordChecksum(page, 0, chain)
      if (isBeforePosition) positionChain.set(chain)
    }
    for (const id of result.segments.keys()) this.#finish(result, id, apply, isSealing)
    for (const slot of [0, 1]) {
      const page = apply({ segment: 0, slot })
      if (!isSealing) continue
      setWords(page, SUPERBLOCK_PREVIOUS_AT, positionChain)
      for (const patch of byPage.get(nameOf({ segment: 0, slot })) ?? []) applyPatch(page, patch)
      sealPage(page, 0, this.#checksum)
      putPage(result, { segment: 0, slot }, page)
    }
    this.#reshape(result, byPage)
    return result
  }

  #decode(bytes: Uint8Array): Map<string, Patch[]> {
    const found = new Map<string, Patch[]>()
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let at = 0; at + PATCH_BYTES <= bytes.length; at += PATCH_BYTES) {
      const key = this.#pages[view.getUint16(at, true) % this.#pages.length]
      const word = view.getUint16(at + 2, true)
      const value = view.getUint32(at + 4, true)
      const patch = { ...key, operation: word >> 12, offset: word & 0xfff, value }
      const others = found.get(nameOf(key))
      if (others === undefined) found.set(nameOf(key), [patch])
      else others.push(patch)
    }
    return found
  }

  #isMetadata({ segment, slot }: PageKey): boolean {
    if (segment === 0 || slot === 0 || slot >= TABLE_SLOT) return true
    return this.#records.some(({ key }) => key.segment === segment && key.slot === slot)
  }

  /** The checksums of a record's blocks and of the record before, in its header. */
  #sumBlocks(pool: PoolBuilder, key: PageKey, chain: Uint32Array): void {
    const page = pageOf(pool, key).slice()
    const view = pageView(page, 0)
    const sums = new Uint32Array(2)
    setWords(page, RECORD_PREVIOUS_AT, chain)
    const entryCount = view.getUint16(RECORD_ENTRY_COUNT_AT, true)
    const first = RECORD_ENTRIES_AT + entryCount * RECORD_ENTRY_BYTES
    for (let i = 0; i < view.getUint16(RECORD_BLOCK_COUNT_AT, true); i += 1) {
      const block = pool.segment(key.segment).pages.get(key.slot + 1 + i)
      if (block === undefined) continue
      this.#checksum.hashBlocks(block, 0, 1, sums, 0)
      setWords(page, first + 8 * i, sums)
    }
    putPage(pool, key, page)
  }

  /** Header, table or directory, footer. */
  #finish(
    pool: PoolBuilder,
    id: number,
    apply: (key: PageKey) => Uint8Array,
    isSealing: boolean,
  ): void {
    const header = apply({ segment: id, slot: 0 })
    if (isSealing) sealPage(header, 0, this.#checksum)
    const { pages } = pool.segment(id)
    if (!pages.has(FOOTER_SLOT)) return
    const footer = apply({ segment: id, slot: FOOTER_SLOT })
    if (pages.has(DIRECTORY_SLOT)) this.#sumDirectory(pool, id, apply, footer, isSealing)
    else this.#sumTable(pool, id, apply, footer, isSealing)
    if (isSealing) sealPage(footer, 0, this.#checksum)
  }

  #sumTable(
    pool: PoolBuilder,
    id: number,
    apply: (key: PageKey) => Uint8Array,
    footer: Uint8Array,
    isSealing: boolean,
  ): void {
    const { pages, table } = pool.segment(id)
    const words = table.slice()
    for (const [slot, block] of pages) {
      const isBlock = slot > 0 && slot < TABLE_SLOT && (words[2 * slot] | words[2 * slot + 1]) !== 0
      if (isBlock && isSealing) this.#checksum.hashBlocks(block, 0, 1, words, 2 * slot)
    }
    const sums = new Uint32Array(2)
    for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
      const key = { segment: id, slot: TABLE_SLOT + i }
      const from = 2 * i * TABLE_PAGE_SLOT_COUNT
      const page = new Uint8Array(words.slice(from, from + 2 * TABLE_PAGE_SLOT_COUNT).buffer)
      putPage(pool, key, page)
      this.#checksum.hashBlocks(apply(key), 0, 1, sums, 0)
      if (isSealing) setWords(footer, FOOTER_CHECKSUMS_AT + 8 * i, sums)
    }
  }

  /** Frames and directory are stored raw, so that a slot's block lies where its place says. */
  #sumDirectory(
    pool: PoolBuilder,
    id: number,
    apply: (key: PageKey) => Uint8Array,
    footer: Uint8Array,
    isSealing: boolean,
  ): void {
    const { pages } = pool.segment(id)
    const { places } = must(this.#settled.get(id), 'the places of a settled segment')
    const frames = must(pages.get(FRAMES_SLOT), 'frames')
    const stored = must(pages.get(DIRECTORY_SLOT), 'a directory').slice()
    const view = pageView(footer, 0)
    const sums = new Uint32Array(2)
    const starts: number[] = []
    let end = 0
    for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
      starts.push(end)
      end += this.#baseDirectoryBytes(id, i)
    }
    for (let slot = 0; isSealing && slot < SEGMENT_SLOT_COUNT; slot += 1) {
      if (placeKind(places[2 * slot + 1]) !== PLACE_FRAME) continue
      const word0 = places[2 * slot]
      const at = frameOffset(word0) - BLOCK_SIZE_BYTES + frameIndex(word0) * BLOCK_SIZE_BYTES
      this.#checksum.hashBlocks(frames, at, 1, sums, 0)
      const start = starts[Math.floor(slot / TABLE_PAGE_SLOT_COUNT)]
      setWords(stored, start + 8 * (slot % TABLE_PAGE_SLOT_COUNT), sums)
    }
    const key = { segment: id, slot: DIRECTORY_SLOT }
    putPage(pool, key, stored)
    const patched = apply(key)
    for (let i = 0; isSealing && i < TABLE_PAGE_COUNT; i += 1) {
      const lengthBytes = view.getUint32(FOOTER_DIRECTORY_BYTES_AT + 4 * i, true)
      if (lengthBytes === 0 || starts[i] + lengthBytes > patched.length) continue
      this.#checksum.hashBytes(patched, starts[i], lengthBytes, sums, 0)
      setWords(footer, FOOTER_CHECKSUMS_AT + 8 * i, sums)
    }
  }

  #baseDirectoryBytes(id: number, index: number): number {
    const view = pageView(this.#base.page(id, FOOTER_SLOT), 0)
    return view.getUint32(FOOTER_DIRECTORY_BYTES_AT + 4 * index, true)
  }

  /** Operations that take pages away or put another's in their place. */
  #reshape(pool: PoolBuilder, byPage: ReadonlyMap<string, Patch[]>): void {
    for (const patch of [...byPage.values()].flat()) {
      const segment = pool.segments.get(patch.segment)
      if (segment === undefined) continue
      if (patch.operation === OPERATION_CUT) {
        for (const slot of [...segment.pages.keys()]) {
          if (slot >= patch.slot) segment.pages.delete(slot)
        }
      } else if (patch.operation === OPERATION_REMOVE && patch.value % 4 === 0) {
        pool.segments.delete(patch.segment)
      }
    }
  }
}

const OPERATION_CUT = 8
const OPERATION_REMOVE = 9

function applyPatch(page: Uint8Array, { operation, offset, value }: Patch): void {
  // Pages longer than 4 KiB have more places than the offset can say: the value's top helps.
  const at = page.length > PAGE_SIZE_BYTES ? (offset * 64 + (value >>> 26)) % page.length : offset
  const view = new DataView(page.buffer, page.byteOffset, page.length)
  const room = page.length - at
  if (operation <= 2 && room >= 4) view.setUint32(at & ~3, value, true)
  else if (operation === 3 && room >= 2) view.setUint16(at & ~1, value, true)
  else if (operation === 4) page[at] = value
  else if (operation === 5) page[at] ^= 1 << (value % 8)
  else if (operation === 6) replaceNumber(page, offset, value)
  else if (operation === 7 && value % 8 === 0) page.fill(0)
}

/** One of the numbers in a catalogue part's text becomes another. */
function replaceNumber(page: Uint8Array, index: number, value: number): void {
  const start = findPart(page)
  if (start < 0) return
  const view = new DataView(page.buffer, page.byteOffset + start, page.length - start)
  const lengthBytes = Math.min(
    view.getUint32(PART_LENGTH_AT, true),
    PAGE_SIZE_BYTES - PART_PAYLOAD_AT,
  )
  const from = start + PART_PAYLOAD_AT
  const text = Buffer.from(page.subarray(from, from + lengthBytes)).toString('latin1')
  const found = [...text.matchAll(/\d+/g)]
  if (found.length === 0) return
  const match = found[index % found.length]
  const end = match.index + match[0].length
  const number = index & 0x800 ? value * 2 ** 20 : value
  const changed = Buffer.from(text.slice(0, match.index) + String(number) + text.slice(end))
  if (changed.length > PAGE_SIZE_BYTES - PART_PAYLOAD_AT) return
  page.fill(0, from, from + lengthBytes)
  page.set(changed, from)
  view.setUint32(PART_LENGTH_AT, changed.length, true)
}

/** In raw frames a part may lie in any block. */
function findPart(page: Uint8Array): number {
  for (let at = 0; at + PAGE_SIZE_BYTES <= page.length; at += BLOCK_SIZE_BYTES) {
    if (hasMagic(pageView(page, at), CATALOGUE_MAGIC)) return at
  }
  return -1
}

function isRecord(page: Uint8Array): boolean {
  return page.length === PAGE_SIZE_BYTES && hasMagic(pageView(page, 0), RECORD_MAGIC)
}

function nameOf({ segment, slot }: PageKey): string {
  return `${segment}:${slot}`
}

function pageOf(pool: PoolBuilder, { segment, slot }: PageKey): Uint8Array {
  if (segment !== 0) return must(pool.segment(segment).pages.get(slot), 'a page')
  return pool.superblockBytes.subarray(slot * PAGE_SIZE_BYTES, (slot + 1) * PAGE_SIZE_BYTES)
}

function putPage(pool: PoolBuilder, { segment, slot }: PageKey, page: Uint8Array): void {
  if (segment === 0) pool.superblockBytes.set(page, slot * PAGE_SIZE_BYTES)
  else pool.segment(segment).pages.set(slot, page)
}

function setWords(page: Uint8Array, at: number, words: Uint32Array): void {
  const view = new DataView(page.buffer, page.byteOffset, page.length)
  view.setUint32(at, words[0], true)
  view.setUint32(at + 4, words[1], true)
}
