/**
 * Who uses what, counted the slow way from the files of a pool: every map walked for itself, block
 * by block, into sets; segments and directories read through `src/format` only. It shares nothing
 * with what it judges but the definitions in docs/decisions/2026-11-25-accounting.md.
 */
import { decodePart, verifyLine } from '../../../src/format/catalogue.ts'
import type { DiskState, PartAddress } from '../../../src/format/catalogue.ts'
import {
  directoryPageOffset,
  segmentFileName,
  tryDecodeSegmentFooter,
} from '../../../src/format/segment.ts'
import { decodeSuperblock } from '../../../src/format/superblock.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import { ioResult } from '../../../src/io/io.ts'
import type { Codec } from '../../../src/base/codec.ts'
import type { Usage } from '../../../src/pool/types.ts'
import { tryInflate } from '../../support/deflate-codecs.ts'
import { BLOCK, POOL } from './sim-pool.ts'
import type { SimWorld } from './sim-pool.ts'

const INTERNAL = 0
const SLOT_COUNT = 16384

interface Place {
  kind: 'block' | 'alias' | 'zero' | 'dead'
  /** Where the bytes are, or of an alias, where it points. */
  segment: number
  slot: number
  bytes: number
  read: () => Promise<Uint8Array>
}

/** What one disk reaches. */
interface Reached {
  /** `address at block index` that is stored somewhere. */
  mapped: Map<string, string>
  mappedCount: number
  zeroCount: number
  mappedZeroCount: number
  asData: Set<string>
  asNode: Set<string>
}

/** What is reached by exactly the same disks in the same way. */
interface OwnerClass {
  all: number[]
  asData: number[]
  blockCount: number
  bytes: number
}

/** All bytes of the pool's files, one file at a time. */
class Files {
  readonly #world: SimWorld

  constructor(world: SimWorld) {
    this.#world = world
  }

  async read(path: string, offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const { io } = this.#world
    const file = await this.#world.run(io.open(path, 'read'))
    const at = io.arena.allocate(lengthBytes)
    try {
      const result = await this.#world.run(
        ioResult((completion) => io.read(file, offsetBytes, at, lengthBytes, completion, 0)),
      )
      if (result < 0) throw new Error(`${path} cannot be read: ${result}`)
      const bytes = Uint8Array.from(io.arena.memory.subarray(at, at + lengthBytes))
      return bytes.fill(0, result)
    } finally {
      io.arena.free(at, lengthBytes)
      await this.#world.run(io.close(file))
    }
  }
}

function words(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(Uint8Array.from(bytes).buffer)
}

export class UsageOracle {
  readonly #world: SimWorld
  readonly #files: Files
  readonly #directories: Map<number, Promise<Uint32Array | null>> = new Map()
  readonly #reached: Map<number, Reached> = new Map()
  /** By place, the disks that reach it as data, and as a node. */
  readonly #owners: Map<string, { asData: number[]; asNode: number[] }> = new Map()
  readonly #bytes: Map<string, number> = new Map()
  #superblock!: Superblock
  disks: DiskState[] = []

  private constructor(world: SimWorld) {
    this.#world = world
    this.#files = new Files(world)
  }

  /** Reads what the newest checkpoint says: write one before. */
  static async read(world: SimWorld): Promise<UsageOracle> {
    const oracle = new UsageOracle(world)
    oracle.#superblock = await oracle.#readSuperblock()
    const parts = await oracle.#readCatalogue()
    oracle.#reached.set(INTERNAL, emptyReached())
    for (const { segment, slot, blockCount } of parts) {
      for (let i = 0; i < blockCount; i += 1) {
        const end = await oracle.#end(segment, slot + i)
        oracle.#reached.get(INTERNAL)?.asNode.add(end.key)
      }
    }
    for (const disk of oracle.disks) oracle.#reached.set(disk.id, await oracle.#walk(disk))
    for (const id of oracle.#order()) {
      const { asData, asNode } = oracle.#of(id)
      for (const key of asData) oracle.#owner(key).asData.push(id)
      for (const key of asNode) oracle.#owner(key).asNode.push(id)
    }
    return oracle
  }

  /** Stored bytes that any disk reaches. */
  get liveBytes(): number {
    let sum = 0
    for (const [key, owners] of this.#owners) {
      if (this.#all(owners).some((id) => id !== INTERNAL)) sum += this.#weight(key)
    }
    return sum
  }

  nameOf(disk: DiskState): string {
    if (disk.kind === 'volume') return disk.name
    return `${this.disks.find(({ id }) => id === disk.volumeId)?.name ?? '?'}@${disk.name}`
  }

  exclusiveBytes(ids: ReadonlySet<number>): number {
    let sum = 0
    for (const [key, owners] of this.#owners) {
      if (this.#all(owners).every((id) => ids.has(id))) sum += this.#weight(key)
    }
    return sum
  }

  internalBytes(): number {
    return this.#amortised(INTERNAL).bytes
  }

  usage(ids: ReadonlySet<number>): Usage {
    const chosen = this.disks.filter((disk) => ids.has(disk.id))
    const sum = (pick: (disk: DiskState) => number): number =>
      chosen.reduce((total, disk) => total + pick(disk), 0)
    const ends = new Set(chosen.flatMap((disk) => this.#allEnds(disk.id)))
    const storedBytes = [...ends].reduce((total, key) => total + this.#weight(key), 0)
    const exclusiveBytes = this.exclusiveBytes(ids)
    return {
      logicalBytes: sum((disk) => disk.sizeBytes),
      mappedBytes: BLOCK * sum((disk) => this.#of(disk.id).mappedCount),
      referencedBytes: BLOCK * ends.size,
      storedBytes,
      exclusiveBytes,
      sharedBytes: storedBytes - exclusiveBytes,
      amortisedBytes: sum((disk) => this.#amortised(disk.id).bytes),
      metadataBytes: sum((disk) => this.#amortised(disk.id).metadataBytes),
      ...this.#savings(chosen),
    }
  }

  #savings(
    chosen: DiskState[],
  ): Pick<Usage, 'thinBytes' | 'zeroBytes' | 'cloneBytes' | 'dedupBytes' | 'compressionBytes'> {
    const savings = {
      thinBytes: 0,
      zeroBytes: 0,
      cloneBytes: 0,
      dedupBytes: 0,
      compressionBytes: 0,
    }
    for (const disk of chosen) {
      const { mappedCount, mappedZeroCount, zeroCount } = this.#of(disk.id)
      const blockCount = Math.ceil(disk.sizeBytes / BLOCK)
      savings.thinBytes += (blockCount - mappedCount - zeroCount) * BLOCK
      savings.zeroBytes += (mappedZeroCount + zeroCount) * BLOCK
      const { rawBytes, dataBytes } = this.#amortised(disk.id)
      const mappedBytes = (mappedCount - mappedZeroCount) * BLOCK
      const dedupBytes = Math.max(0, this.#lineageBytes(disk) - rawBytes)
      savings.dedupBytes += dedupBytes
      savings.cloneBytes += mappedBytes - rawBytes - dedupBytes
      savings.compressionBytes += rawBytes - dataBytes
    }
    return savings
  }

  /** The disk's part of what its lineage would store if it shared with nobody else. */
  #lineageBytes(disk: DiskState): number {
    const own = this.#lineages.get(disk.id)
    const sharers: Map<string, number> = new Map()
    const mappers = this.#mappers
    for (const address of this.#of(disk.id).mapped.keys()) {
      const all = mappers.get(address) ?? []
      // Those who share with the same disks are divided together.
      const key = all.join()
      sharers.set(key, (sharers.get(key) ?? 0) + BLOCK)
    }
    let sum = 0
    for (const [key, bytes] of sharers) {
      const lineage = key
        .split(',')
        .map(Number)
        .filter((id) => this.#lineages.get(id) === own)
      sum += partOf(bytes, lineage.length, lineage.indexOf(disk.id))
    }
    return sum
  }

  /** By mapped address, the disks that have it, in order. */
  get #mappers(): Map<string, number[]> {
    if (this.#mappersKnown !== null) return this.#mappersKnown
    const mappers: Map<string, number[]> = new Map()
    for (const id of this.#order()) {
      for (const address of this.#of(id).mapped.keys()) {
        mappers.set(address, [...(mappers.get(address) ?? []), id])
      }
    }
    this.#mappersKnown = mappers
    return mappers
  }
  #mappersKnown: Map<string, number[]> | null = null

  #amortised(id: number): {
    bytes: number
    metadataBytes: number
    rawBytes: number
    dataBytes: number
  } {
    const parts = { bytes: 0, metadataBytes: 0, rawBytes: 0, dataBytes: 0 }
    for (const { all, asData, blockCount, bytes } of this.#classes.values()) {
      const index = all.indexOf(id)
      if (index < 0) continue
      const part = partOf(bytes, all.length, index)
      parts.bytes += part
      if (asData.includes(id)) {
        parts.rawBytes += partOf(blockCount * BLOCK, all.length, index)
        parts.dataBytes += part
      } else parts.metadataBytes += part
    }
    return parts
  }

  get #classes(): Map<string, OwnerClass> {
    if (this.#classesKnown !== null) return this.#classesKnown
    const classes: Map<string, OwnerClass> = new Map()
    for (const [place, owners] of this.#owners) {
      const key = `${owners.asData.join()}/${owners.asNode.join()}`
      let known = classes.get(key)
      if (known === undefined) {
        known = { all: this.#all(owners), asData: owners.asData, blockCount: 0, bytes: 0 }
        classes.set(key, known)
      }
      known.blockCount += 1
      known.bytes += this.#weight(place)
    }
    this.#classesKnown = classes
    return classes
  }
  #classesKnown: Map<string, OwnerClass> | null = null

  /** Disks in the order of lineage, volume and age, what no disk owns before them. */
  #order(): number[] {
    const lineage = (disk: DiskState): number => this.#lineages.get(disk.id) ?? 0
    const sorted = this.disks.toSorted(
      (a, b) =>
        lineage(a) - lineage(b) ||
        a.volumeId - b.volumeId ||
        Number(a.kind === 'volume') - Number(b.kind === 'volume') ||
        a.id - b.id,
    )
    return [INTERNAL, ...sorted.map((disk) => disk.id)]
  }

  /** By disk, the lowest id it is related to: labels are lowered until nothing changes. */
  get #lineages(): Map<number, number> {
    if (this.#lineagesKnown !== null) return this.#lineagesKnown
    const lowest: Map<number, number> = new Map([[INTERNAL, INTERNAL]])
    for (let hasChanged = true; hasChanged;) {
      hasChanged = false
      for (const { id, volumeId, originId } of this.disks) {
        const related = originId === null ? [id, volumeId] : [id, volumeId, originId]
        const low = Math.min(...related.map((other) => lowest.get(other) ?? other))
        for (const other of related) {
          if (lowest.get(other) === low) continue
          lowest.set(other, low)
          hasChanged = true
        }
      }
    }
    this.#lineagesKnown = lowest
    return lowest
  }
  #lineagesKnown: Map<number, number> | null = null

  #all({ asData, asNode }: { asData: number[]; asNode: number[] }): number[] {
    const order = this.#order()
    return order.filter((id) => asData.includes(id) || asNode.includes(id))
  }

  #allEnds(id: number): string[] {
    const { asData, asNode } = this.#of(id)
    return [...asData, ...asNode]
  }

  #weight(key: string): number {
    const bytes = this.#bytes.get(key)
    if (bytes === undefined) throw new Error(`${key} was never met`)
    return bytes
  }

  #of(id: number): Reached {
    const reached = this.#reached.get(id)
    if (reached === undefined) throw new Error(`no disk ${id}`)
    return reached
  }

  #owner(key: string): { asData: number[]; asNode: number[] } {
    let owners = this.#owners.get(key)
    if (owners === undefined) {
      owners = { asData: [], asNode: [] }
      this.#owners.set(key, owners)
    }
    return owners
  }

  async #walk(disk: DiskState): Promise<Reached> {
    const reached = emptyReached()
    if (disk.root !== null) await this.#walkNode(disk.root[0], disk.root[1], 3, 0, reached)
    return reached
  }

  async #walkNode(
    segment: number,
    slot: number,
    level: number,
    firstBlock: number,
    reached: Reached,
  ): Promise<void> {
    const end = await this.#end(segment, slot)
    reached.asNode.add(end.key)
    const entries = words(await end.read())
    const span = 512 ** level
    for (let index = 0; index < 512; index += 1) {
      const word0 = entries[2 * index]
      const at = entries[2 * index + 1] & 0x3fff
      const block = firstBlock + index * span
      switch (entries[2 * index + 1] >>> 28) {
        case 0:
          break
        case 1:
          reached.zeroCount += span
          break
        case 2:
          await this.#note(word0, at, block, reached)
          break
        case 3:
          await this.#walkNode(word0, at, level - 1, block, reached)
          break
        default:
          for (let i = 0; i < 512; i += 1) await this.#note(word0, at + i, block + i, reached)
      }
    }
  }

  async #note(segment: number, slot: number, block: number, reached: Reached): Promise<void> {
    reached.mappedCount += 1
    const place = await this.#place(segment, slot)
    if (place.kind === 'zero') {
      reached.mappedZeroCount += 1
      return
    }
    const { key } = await this.#end(segment, slot)
    reached.asData.add(key)
    reached.mapped.set(`${segment}:${slot} at ${block}`, key)
  }

  async #end(
    segment: number,
    slot: number,
  ): Promise<{ key: string; read: () => Promise<Uint8Array> }> {
    const place = await this.#place(segment, slot)
    if (place.kind === 'alias') return this.#end(place.segment, place.slot)
    if (place.kind !== 'block') throw new Error(`${segment}:${slot} is ${place.kind}`)
    const key = `${segment}:${slot}`
    this.#bytes.set(key, place.bytes)
    return { key, read: place.read }
  }

  async #place(segment: number, slot: number): Promise<Place> {
    const path = `${POOL}/segments/${segmentFileName(segment)}`
    const directory = await this.#directory(segment)
    const nothing = (): Promise<Uint8Array> => Promise.reject(new Error('no bytes of its own'))
    if (directory === null) {
      const read = (): Promise<Uint8Array> => this.#files.read(path, slot * BLOCK, BLOCK)
      return { kind: 'block', segment, slot, bytes: BLOCK, read }
    }
    const word0 = directory[2 * slot]
    const word1 = directory[2 * slot + 1]
    const kind = (['dead', 'block', 'alias', 'zero'] as const)[word1 >>> 30]
    if (kind === 'alias') {
      return { kind, segment: word0, slot: word1 & 0x3fff, bytes: 0, read: nothing }
    }
    if (kind !== 'block') return { kind, segment, slot, bytes: 0, read: nothing }
    const storedBytes = word1 & 0x1ffff
    const blockCount = ((word1 >>> 17) & 0xf) + 1
    const index = word0 >>> 28
    const read = async (): Promise<Uint8Array> => {
      const stored = await this.#files.read(path, word0 & 0x3ffffff, storedBytes)
      const raw = tryInflate(((word0 >>> 26) & 3) as Codec, stored, blockCount * BLOCK)
      if (raw === null) throw new Error(`a frame of segment ${segment} does not decode`)
      return raw.subarray(index * BLOCK, (index + 1) * BLOCK)
    }
    return { kind, segment, slot, bytes: partOf(storedBytes, blockCount, index), read }
  }

  /** Two words a slot; null for a segment that is not settled. */
  #directory(segment: number): Promise<Uint32Array | null> {
    let directory = this.#directories.get(segment)
    directory ??= this.#readDirectory(segment)
    this.#directories.set(segment, directory)
    return directory
  }

  async #readDirectory(segment: number): Promise<Uint32Array | null> {
    const path = `${POOL}/segments/${segmentFileName(segment)}`
    const page = await this.#files.read(path, 16383 * BLOCK, BLOCK)
    const { poolId } = this.#superblock
    const footer = tryDecodeSegmentFooter(page, 0, poolId, segment, this.#world.checksum)
    if (footer?.settled === undefined) return null
    const { settled } = footer
    const places = new Uint32Array(2 * SLOT_COUNT)
    for (const [index, storedBytes] of settled.directoryBytes.entries()) {
      if (storedBytes === 0) continue
      const stored = await this.#files.read(path, directoryPageOffset(settled, index), storedBytes)
      const raw = tryInflate(settled.directoryCodec, stored, 2 * BLOCK)
      if (raw === null) throw new Error(`a directory page of segment ${segment} does not decode`)
      places.set(words(raw).subarray(1024), 1024 * index)
    }
    return places
  }

  async #readSuperblock(): Promise<Superblock> {
    const bytes = await this.#files.read(`${POOL}/superblock`, 0, 2 * BLOCK)
    let newest: Superblock | null = null
    for (const page of [bytes.slice(0, BLOCK), bytes.slice(BLOCK)]) {
      const verdict = decodeSuperblock(page, this.#world.checksum)
      if (verdict.kind !== 'valid') continue
      if (newest === null || verdict.superblock.generation > newest.generation) {
        newest = verdict.superblock
      }
    }
    if (newest === null) throw new Error('no superblock')
    return newest
  }

  async #readCatalogue(): Promise<PartAddress[]> {
    const parts: { address: PartAddress; lines: unknown[] }[] = []
    let next: PartAddress = this.#superblock.catalogue
    while (next.segment !== 0) {
      const address = next
      const blocks: Uint8Array[] = []
      for (let i = 0; i < address.blockCount; i += 1) {
        blocks.push(await (await this.#end(address.segment, address.slot + i)).read())
      }
      const part = decodePart(Buffer.concat(blocks))
      parts.unshift({ address, lines: part.lines })
      next = part.previous
    }
    const disks: Map<number, DiskState> = new Map()
    for (const value of parts.flatMap(({ lines }) => lines)) {
      const line = verifyLine(value)
      if ('removed' in line) for (const id of line.removed) disks.delete(id)
      else disks.set(line.disk.id, line.disk)
    }
    this.disks = [...disks.values()]
    return parts.map(({ address }) => address)
  }
}

function emptyReached(): Reached {
  return {
    mapped: new Map(),
    mappedCount: 0,
    zeroCount: 0,
    mappedZeroCount: 0,
    asData: new Set(),
    asNode: new Set(),
  }
}

/** Whole bytes, the first are one more. */
function partOf(total: number, count: number, index: number): number {
  return Math.floor(total / count) + (index < total % count ? 1 : 0)
}
