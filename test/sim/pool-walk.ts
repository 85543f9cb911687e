/**
 * A naive look at a pool that was closed cleanly, sharing nothing with it but the format: every
 * map of the catalogue is walked, every alias followed, every block held against its checksum, and
 * what is needed compared with what the segments hold.
 */
import type { Checksum } from '../../src/base/checksum.ts'
import type { Codecs } from '../../src/base/codec.ts'
import type { Codec } from '../../src/base/codec.ts'
import type { DiskState, PartAddress } from '../../src/format/catalogue.ts'
import { PartKind, decodePart, verifyLine } from '../../src/format/catalogue.ts'
import {
  DIRECTORY_PAGE_WORDS,
  PLACE_ALIAS,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_WORD_FIRST,
  PLACE_ZERO,
  aliasSlot,
  frameBlockCount,
  frameCodec,
  frameIndex,
  frameOffset,
  frameStoredBytes,
  isLower,
  placeKind,
} from '../../src/format/directory.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  NODE_LEVEL_ROOT,
  SLOT_MASK,
  decodeNode,
} from '../../src/format/node.ts'
import type { SegmentFooter } from '../../src/format/segment.ts'
import {
  DATA_SLOT_END,
  DIRECTORY_PAGE_BYTES,
  FOOTER_SLOT,
  TABLE_PAGE_COUNT,
  TABLE_SLOT,
  directoryPageOffset,
  tryDecodeSegmentFooter,
  tryParseSegmentFileName,
} from '../../src/format/segment.ts'
import type { Superblock } from '../../src/format/superblock.ts'
import { decodeSuperblock } from '../../src/format/superblock.ts'
import type { SimDisk } from '../../src/io/sim-disk.ts'

const BLOCK = 4096
const SLOT_COUNT = 16384

interface SegmentView {
  id: number
  read(offsetBytes: number, lengthBytes: number): Uint8Array
  /** Null: it was never sealed. */
  footer: SegmentFooter | null
  /** Two words a slot. */
  checksums: Uint32Array
  /** Two words a slot, of a settled segment. */
  places: Uint32Array | null
}

export interface PoolWalk {
  /** What must not be; none in a sound pool. */
  problems: string[]
  segmentIds: number[]
  /** What their files take on the disk. */
  segmentBytes: number
  settledIds: number[]
  /** Addresses that disks or aliases need. */
  liveCount: number
  /** Aliases that lead to an alias. */
  chainCount: number
  /** Live blocks in frames whose bytes lie in a lower frame, too. */
  duplicateCount: number
  /** Of settled segments: frames' bytes, shared out over their slots … */
  frameBytes: number
  /** … and those of slots that nobody needs, where that is the eighth that a reclaim takes back. */
  excessBytes: number
}

/** The segment of the newest superblock that can be read; 0 when none can. */
export function tailSegment(disk: SimDisk, checksum: Checksum, path: string): number {
  const { data } = disk.openFile(`${path}/superblock`, 'read')
  const found = [0, 1].flatMap((page) => {
    const bytes = data.page(page)
    const verdict = bytes === null ? null : decodeSuperblock(bytes, checksum)
    return verdict?.kind === 'valid' ? [verdict.superblock] : []
  })
  found.sort((left, right) => right.generation - left.generation)
  return found.length === 0 ? 0 : found[0].position.segment
}

/** Throws for what no pool writes. */
export function walkPool(
  disk: SimDisk,
  checksum: Checksum,
  codecs: Codecs,
  path: string,
): PoolWalk {
  return new Walk(disk, checksum, codecs, path).run()
}

class Walk {
  readonly #disk: SimDisk
  readonly #checksum: Checksum
  readonly #codecs: Codecs
  readonly #path: string
  readonly #superblock: Superblock
  readonly #segments = new Map<number, SegmentView>()
  readonly #live = new Set<number>()
  readonly #problems: string[] = []
  #chainCount = 0
  #segmentBytes = 0

  constructor(disk: SimDisk, checksum: Checksum, codecs: Codecs, path: string) {
    this.#disk = disk
    this.#checksum = checksum
    this.#codecs = codecs
    this.#path = path
    this.#superblock = this.#newestSuperblock()
  }

  run(): PoolWalk {
    if (!this.#superblock.clean) throw new Error('only a pool that was closed can be walked')
    for (const name of this.#disk.list(`${this.#path}/segments`)) {
      const id = tryParseSegmentFileName(name)
      if (id === null) this.#problems.push(`a leftover: ${name}`)
      else this.#addSegment(id, `${this.#path}/segments/${name}`)
    }
    for (const disk of this.#disks()) {
      if (disk.root !== null) this.#node(disk.root[0], disk.root[1], NODE_LEVEL_ROOT)
    }
    return this.#judge()
  }

  #addSegment(id: number, path: string): void {
    this.#segments.set(id, this.#view(id, path))
    this.#segmentBytes += this.#disk.openFile(path, 'read').data.allocatedBytes
  }

  #reader(path: string): SegmentView['read'] {
    const { data } = this.#disk.openFile(path, 'read')
    return (offsetBytes, lengthBytes) => {
      const bytes = new Uint8Array(lengthBytes)
      const count = data.read(offsetBytes, bytes)
      return bytes.subarray(0, count)
    }
  }

  #newestSuperblock(): Superblock {
    const read = this.#reader(`${this.#path}/superblock`)
    const found = [0, BLOCK].flatMap((offsetBytes) => {
      const verdict = decodeSuperblock(read(offsetBytes, BLOCK), this.#checksum)
      return verdict.kind === 'valid' ? [verdict.superblock] : []
    })
    found.sort((left, right) => right.generation - left.generation)
    return found[0]
  }

  #view(id: number, path: string): SegmentView {
    const read = this.#reader(path)
    const view: SegmentView = {
      id,
      read,
      footer: null,
      checksums: new Uint32Array(2 * SLOT_COUNT),
      places: null,
    }
    const page = read(FOOTER_SLOT * BLOCK, BLOCK)
    if (page.length < BLOCK) return view
    const { poolId } = this.#superblock
    view.footer = tryDecodeSegmentFooter(page, 0, poolId, id, this.#checksum)
    if (view.footer === null) return view
    const { settled } = view.footer
    if (settled !== undefined) view.places = new Uint32Array(2 * SLOT_COUNT)
    for (let index = 0; index < TABLE_PAGE_COUNT; index += 1) {
      if (settled === undefined) {
        view.checksums.set(wordsOf(read((TABLE_SLOT + index) * BLOCK, BLOCK)), index * 1024)
        continue
      }
      const storedBytes = settled.directoryBytes[index]
      if (storedBytes === 0) continue
      const stored = read(directoryPageOffset(settled, index), storedBytes)
      const words = wordsOf(this.#decode(settled.directoryCodec, stored, DIRECTORY_PAGE_BYTES))
      view.checksums.set(words.subarray(0, PLACE_WORD_FIRST), index * 1024)
      view.places?.set(words.subarray(PLACE_WORD_FIRST, DIRECTORY_PAGE_WORDS), index * 1024)
    }
    return view
  }

  #decode(codec: Codec, stored: Uint8Array, rawBytes: number): Uint8Array {
    if (stored.length === rawBytes) return stored
    const raw = new Uint8Array(rawBytes)
    const isSound = this.#codecs.decode(codec, stored, 0, stored.length, raw, 0, rawBytes)
    if (!isSound) throw new Error('what is stored does not decode')
    return raw
  }

  #disks(): DiskState[] {
    const lines: unknown[][] = []
    let at: PartAddress = this.#superblock.catalogue
    while (at.blockCount > 0) {
      const blocks = []
      for (let i = 0; i < at.blockCount; i += 1) blocks.push(this.#need(at.segment, at.slot + i))
      const part = decodePart(Buffer.concat(blocks))
      lines.unshift(part.lines)
      if (part.kind === PartKind.full) break
      at = part.previous
    }
    const disks = new Map<number, DiskState>()
    for (const value of lines.flat()) {
      const line = verifyLine(value)
      if ('disk' in line) disks.set(line.disk.id, line.disk)
      else for (const id of line.removed) disks.delete(id)
    }
    return [...disks.values()]
  }

  #node(segment: number, slot: number, level: number): void {
    if (this.#live.has(segment * SLOT_COUNT + slot)) return
    const entries = decodeNode(Uint8Array.from(this.#need(segment, slot)), 0, level)
    for (let i = 0; i < entries.length; i += 2) {
      const kind = entries[i + 1] >>> KIND_SHIFT
      const at = entries[i + 1] & SLOT_MASK
      if (kind === KIND_NODE) this.#node(entries[i], at, level - 1)
      else if (kind === KIND_BLOCK) this.#need(entries[i], at)
      else if (kind === KIND_HUGE) for (let k = 0; k < 512; k += 1) this.#need(entries[i], at + k)
    }
  }

  /** The bytes of an address, which is live, and what it leads to. */
  #need(segment: number, slot: number): Uint8Array {
    const isNew = !this.#live.has(segment * SLOT_COUNT + slot)
    this.#live.add(segment * SLOT_COUNT + slot)
    const view = this.#segments.get(segment)
    if (view === undefined) {
      this.#problems.push(`${segment}:${slot} is needed, and there is no such segment`)
      return new Uint8Array(BLOCK)
    }
    const bytes = this.#bytesOf(view, slot)
    if (isNew && view.footer !== null) this.#verify(view, slot, bytes)
    return bytes
  }

  #verify(view: SegmentView, slot: number, bytes: Uint8Array): void {
    const found = new Uint32Array(2)
    this.#checksum.hashBlocks(bytes, 0, 1, found, 0)
    const { checksums } = view
    if (found[0] === checksums[2 * slot] && found[1] === checksums[2 * slot + 1]) return
    this.#problems.push(`${view.id}:${slot} is needed, and does not match its checksum`)
  }

  #bytesOf(view: SegmentView, slot: number): Uint8Array {
    const { places, id } = view
    if (places === null) return padded(view.read(slot * BLOCK, BLOCK))
    const word0 = places[2 * slot]
    const word1 = places[2 * slot + 1]
    switch (placeKind(word1)) {
      case PLACE_ZERO:
        return new Uint8Array(BLOCK)
      case PLACE_ALIAS: {
        const target = aliasSlot(word1)
        if (!isLower(word0, target, id, slot)) throw new Error(`${id}:${slot} points upwards`)
        const next = this.#segments.get(word0)?.places
        if (next && placeKind(next[2 * target + 1]) === PLACE_ALIAS) this.#chainCount += 1
        return this.#need(word0, target)
      }
      case PLACE_FRAME: {
        const stored = view.read(frameOffset(word0), frameStoredBytes(word1))
        const codec = frameCodec(word0) as Codec
        const raw = this.#decode(codec, stored, frameBlockCount(word1) * BLOCK)
        return raw.slice(frameIndex(word0) * BLOCK, (frameIndex(word0) + 1) * BLOCK)
      }
      default:
        this.#problems.push(`${id}:${slot} is needed, and its slot is dead`)
        return new Uint8Array(BLOCK)
    }
  }

  #judge(): PoolWalk {
    const walk: PoolWalk = {
      problems: this.#problems,
      segmentIds: [...this.#segments.keys()],
      segmentBytes: this.#segmentBytes,
      settledIds: [],
      liveCount: this.#live.size,
      chainCount: this.#chainCount,
      duplicateCount: 0,
      frameBytes: 0,
      excessBytes: 0,
    }
    const seen = new Set<string>()
    for (const view of this.#segments.values()) {
      if (view.places === null) continue
      walk.settledIds.push(view.id)
      this.#judgeSettled(view, view.places, walk, seen)
    }
    return walk
  }

  #judgeSettled(view: SegmentView, places: Uint32Array, walk: PoolWalk, seen: Set<string>): void {
    let deadBytes = 0
    let allBytes = 0
    let liveCount = 0
    for (let slot = 1; slot < DATA_SLOT_END; slot += 1) {
      const word1 = places[2 * slot + 1]
      const isLive = this.#live.has(view.id * SLOT_COUNT + slot)
      if (isLive && placeKind(word1) !== PLACE_DEAD) liveCount += 1
      if (placeKind(word1) !== PLACE_FRAME) continue
      const bytes = frameStoredBytes(word1) / frameBlockCount(word1)
      allBytes += bytes
      if (!isLive) {
        deadBytes += bytes
        continue
      }
      const key = `${view.checksums[2 * slot]} ${view.checksums[2 * slot + 1]}`
      if (seen.has(key)) walk.duplicateCount += 1
      seen.add(key)
    }
    walk.frameBytes += allBytes
    if (liveCount === 0) walk.problems.push(`segment ${view.id} is kept, and nobody needs it`)
    if (8 * deadBytes >= allBytes && deadBytes > 0) walk.excessBytes += deadBytes
  }
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.slice().buffer)
}

/** What a file does not reach reads as zeros. */
function padded(bytes: Uint8Array): Uint8Array {
  if (bytes.length === BLOCK) return bytes
  const whole = new Uint8Array(BLOCK)
  whole.set(bytes)
  return whole
}
