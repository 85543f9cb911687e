/**
 * One data step: writes, trims, zeroes, flushes and reads in flight together, never two changes
 * on one sector. Keeps the step's outcome in the model as answers arrive.
 */
import { Errno } from '../../src/base/errors.ts'
import type { Prng } from '../../src/base/prng.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { WRITE_FUA, ZERO_NO_HOLE } from '../../src/export/target.ts'
import type { TargetCompletion } from '../../src/export/target.ts'
import { RECORD_BLOCK_COUNT_MAX } from '../../src/format/record.ts'
import type { Arena } from '../../src/io/arena.ts'
import type { Contents } from './contents.ts'
import { UNANSWERED } from './guest.ts'
import type { Guest } from './guest.ts'
import { isSameBlock } from './model.ts'
import type { Geometry, History, ModelVolume, Step, Window } from './model.ts'
import { SECTORS_PER_BLOCK, SECTOR_BYTES, readStamp, writeStamp } from './stamps.ts'

export type ChangeKind = 'write' | 'trim' | 'zero'
export type DataKind = ChangeKind | 'read' | 'flush'

/** Of one request that fills. */
export const FILL_BLOCK_COUNT = 256

interface BlockRange {
  firstBlock: number
  blockCount: number
}

export interface Place extends BlockRange {
  volume: string
}

/** Where the last request was drawn, in this step or an earlier one. */
export interface Near {
  last: Place | null
}

export interface DataContext {
  prng: Prng
  arena: Arena
  history: History
  /** A client of a volume. */
  guest(volume: string): Guest
  /** The longest trim that every door takes. */
  rangeBytesMax: number
  /** Chance that a request goes to a block that another one is about to change. */
  crowdChance: number
  /** Something is damaged: a read may give an error. */
  mayFailToRead(): boolean
  contents: Contents
  /** Chance that a request goes where the one before it went, or right behind. */
  followChance: number
  near: Near
  /** A flush, or a request with FUA, was answered. */
  promised(): void
  log: (line: string) => void
}

interface SectorRange {
  firstSector: number
  sectorCount: number
}

/** One request in flight; its tag is its place in the step. */
interface Request {
  kind: DataKind
  volume: string
  /** Sectors of the model it covers; a trim may cover those of several windows. */
  ranges: SectorRange[]
  isFua: boolean
  /** Arena piece, or -1. */
  arenaOffset: number
  lengthBytes: number
  /** Requests before this count (by completion) were answered when this was issued. */
  answeredBefore: number
  result: number | null
}

/** A violation found while the pool runs. */
export class SimViolation extends Error {
  override readonly name = 'SimViolation'
}

export class DataStep implements TargetCompletion {
  readonly step: Step
  readonly #context: DataContext
  readonly #requests: Request[] = []
  /** Changing requests in the order they were answered. */
  readonly #answered: Request[] = []
  /** `volume` → model block → the requests that change it. */
  readonly #busy = new Map<string, Map<number, Request[]>>()
  readonly #after: Map<string, ModelVolume>
  #pendingCount = 0
  #onIdle: (() => void) | null = null
  /** The first bad answer other than "no space". */
  failure = 0
  noSpaceCount = 0
  requestCount = 0
  writtenBytes = 0
  refusedReadCount = 0
  /** Changes whose client died before they were answered. */
  readonly #unanswered: Request[] = []
  unansweredCount = 0
  violation: SimViolation | null = null

  constructor(context: DataContext) {
    this.#context = context
    this.#after = new Map(context.history.latest)
    this.step = context.history.begin('data', 'data', this.#after)
  }

  get pendingCount(): number {
    return this.#pendingCount
  }

  /** Resolves when every request has been answered. */
  whenIdle(): Promise<void> {
    if (this.#pendingCount === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#onIdle = resolve
    })
  }

  /** Issues one random request of `kind`, or none when the draw hits a busy sector. */
  issue(kind: DataKind, volume: string): void {
    this.#issue(kind === 'flush' ? this.#flushRequest(volume) : this.#draw(kind, volume))
  }

  /** Issues a change of these blocks, as far as the window has them, or of a part of the first. */
  issueAt(kind: ChangeKind, place: Place, isFua: boolean, isPart = false): void {
    const volume = this.#after.get(place.volume)
    if (volume === undefined) return
    const { name, geometry } = volume
    let request = this.#placeAt(kind, name, geometry, place)
    if (request !== null && isPart) {
      const block = request.ranges[0].firstSector / SECTORS_PER_BLOCK
      if (request.arenaOffset >= 0) {
        this.#context.arena.free(request.arenaOffset, request.lengthBytes)
      }
      request = this.#drawWithin(kind, name, geometry, block)
    }
    this.#issue(request === null ? null : { ...request, isFua })
  }

  #issue(request: Request | null): void {
    if (request === null) return
    const { kind } = request
    request.answeredBefore = this.#answered.length
    this.#requests.push(request)
    this.#pendingCount += 1
    this.#start(request, this.#requests.length - 1)
    if (kind !== 'read' && kind !== 'flush') this.#mark(request)
  }

  /** Overwrites the first megabyte, which the volume has: fills segments. */
  issueFill(volume: string): void {
    const { geometry } = this.#after.get(volume) as ModelVolume
    const sectorCount = FILL_BLOCK_COUNT * SECTORS_PER_BLOCK
    this.#issue(this.#place('write', volume, geometry.windows[0], 0, sectorCount))
  }

  targetComplete(tag: number, result: number): void {
    const request = this.#requests[tag]
    if (request.result !== null) this.#complain(`request ${tag} was answered twice`)
    request.result = result
    this.#pendingCount -= 1
    this.#context.log(`  ${tag} ${request.kind} = ${result}`)
    if (result === UNANSWERED) this.#noteUnanswered(request)
    else if (request.kind === 'read') this.#judgeRead(request, tag)
    else if (request.kind === 'flush') this.#noteFlush(request)
    else this.#noteChange(request)
    if (request.arenaOffset >= 0) {
      this.#context.arena.free(request.arenaOffset, request.lengthBytes)
    }
    if (this.#pendingCount === 0) this.#onIdle?.()
  }

  /** Volumes with changes of which it is open whether they have happened. */
  get unansweredVolumes(): string[] {
    return [...new Set(this.#unanswered.map(({ volume }) => volume))]
  }

  /** What a volume shows now that nobody works on unanswered requests any more. */
  resolve(volume: string, found: Uint32Array): void {
    for (const { ranges } of this.#unanswered.filter((request) => request.volume === volume)) {
      for (const range of ranges) {
        for (const block of modelBlocksOf(range)) this.#resolveBlock(volume, range, block, found)
      }
    }
  }

  #resolveBlock(volume: string, range: SectorRange, block: number, found: Uint32Array): void {
    const before = (this.step.before.get(volume) as ModelVolume).sectors
    const sectors = this.#mutable(volume)
    if (isSameBlock(sectors, found, block)) return
    const isShared = this.step.shared.get(volume)?.has(block) === true
    let isLegal = isShared || isSameBlock(before, found, block)
    // Of a block that others change, too, its own sectors.
    const start = block * SECTORS_PER_BLOCK
    const from = isShared ? Math.max(start, range.firstSector) : start
    const end = start + SECTORS_PER_BLOCK
    const to = isShared ? Math.min(end, range.firstSector + range.sectorCount) : end
    for (let at = from; at < to; at += 1) {
      isLegal &&= !isShared || found[at] === before[at] || found[at] === sectors[at]
      sectors[at] = found[at]
    }
    if (isLegal) return
    this.#complain(`unanswered change of ${volume} model block ${block}: neither old nor new`)
  }

  #noteUnanswered(request: Request): void {
    this.unansweredCount += 1
    if (request.kind !== 'read' && request.kind !== 'flush') this.#unanswered.push(request)
  }

  /** Nothing was changed by this step. */
  get isEmpty(): boolean {
    return this.#busy.size === 0
  }

  #flushRequest(volume: string): Request {
    return {
      kind: 'flush',
      volume,
      ranges: [],
      isFua: false,
      arenaOffset: -1,
      lengthBytes: 0,
      answeredBefore: 0,
      result: null,
    }
  }

  #draw(kind: DataKind, volume: string): Request | null {
    const { prng, near } = this.#context
    const { geometry, sizeBytes } = this.#after.get(volume) as ModelVolume
    if (kind === 'trim' && prng.chance(0.1)) return this.#placeWide(volume, geometry, sizeBytes)
    const crowded = prng.chance(this.#context.crowdChance) ? this.#pickBusy(volume) : -1
    if (crowded >= 0) return this.#drawWithin(kind, volume, geometry, crowded)
    if (near.last !== null && prng.chance(this.#context.followChance)) {
      return this.#drawNear(kind, volume, geometry, near.last)
    }
    const window = prng.pick(geometry.windows)
    const lengthMax = Math.min(window.blockCount, prng.pick([1, 2, 8, 64, 256]))
    // As clients do, of some lengths more often than of others.
    const blockCount = prng.chance(0.5) ? lengthMax : prng.between(1, lengthMax)
    const firstBlock = prng.below(window.blockCount - blockCount + 1)
    let firstSector = firstBlock * SECTORS_PER_BLOCK
    let sectorCount = blockCount * SECTORS_PER_BLOCK
    if (prng.chance(0.25)) {
      const cut = prng.below(sectorCount)
      firstSector += cut
      sectorCount = prng.between(1, sectorCount - cut)
    }
    if (!this.#isWithin(volume, window, firstSector, sectorCount)) return null
    this.#context.near.last = { volume, firstBlock: window.startBlock + firstBlock, blockCount }
    return this.#place(kind, volume, window, firstSector, sectorCount)
  }

  /** The same blocks once more, or as many behind them: of this disk or another. */
  #drawNear(
    kind: DataKind,
    volume: string,
    geometry: Geometry,
    { firstBlock, blockCount }: BlockRange,
  ): Request | null {
    const first = this.#context.prng.chance(0.5) ? firstBlock : firstBlock + blockCount
    return this.#placeAt(kind, volume, geometry, { firstBlock: first, blockCount })
  }

  /** As many of the blocks as the window has in which they begin; null where it is none. */
  #placeAt(
    kind: DataKind,
    volume: string,
    { windows }: Geometry,
    { firstBlock: first, blockCount }: BlockRange,
  ): Request | null {
    const window = windows.find(
      ({ startBlock, blockCount: count }) => first >= startBlock && first < startBlock + count,
    )
    if (window === undefined) return null
    const within = first - window.startBlock
    const firstSector = within * SECTORS_PER_BLOCK
    const sectorCount = Math.min(blockCount, window.blockCount - within) * SECTORS_PER_BLOCK
    if (!this.#isWithin(volume, window, firstSector, sectorCount)) return null
    this.#context.near.last = { volume, firstBlock: first, blockCount }
    return this.#place(kind, volume, window, firstSector, sectorCount)
  }

  /** A model block of the volume that is about to be changed, or -1. */
  #pickBusy(volume: string): number {
    const busy = this.#busy.get(volume)
    return busy === undefined || busy.size === 0 ? -1 : this.#context.prng.pick([...busy.keys()])
  }

  /** A request for some sectors of one block. */
  #drawWithin(
    kind: DataKind,
    volume: string,
    { windows }: Geometry,
    modelBlock: number,
  ): Request | null {
    const { prng } = this.#context
    const sector = modelBlock * SECTORS_PER_BLOCK
    const window = windows.findLast((one) => one.sectorIndex <= sector) as Window
    const within = prng.below(SECTORS_PER_BLOCK)
    const sectorCount = prng.between(1, SECTORS_PER_BLOCK - within)
    const firstSector = sector - window.sectorIndex + within
    if (!this.#isWithin(volume, window, firstSector, sectorCount)) return null
    return this.#place(kind, volume, window, firstSector, sectorCount)
  }

  #isWithin(volume: string, window: Window, firstSector: number, sectorCount: number): boolean {
    const { sizeBytes } = this.#after.get(volume) as ModelVolume
    const endBytes =
      window.startBlock * BLOCK_SIZE_BYTES + (firstSector + sectorCount) * SECTOR_BYTES
    return endBytes <= sizeBytes
  }

  #place(
    kind: DataKind,
    volume: string,
    window: Window,
    firstSector: number,
    sectorCount: number,
  ): Request | null {
    const { prng, arena } = this.#context
    const range = { firstSector: window.sectorIndex + firstSector, sectorCount }
    if (kind !== 'read' && this.#isBusy(volume, [range])) return null
    const lengthBytes = sectorCount * SECTOR_BYTES
    const needsMemory = kind === 'write' || kind === 'read'
    const arenaOffset = needsMemory ? arena.allocate(lengthBytes) : -1
    if (needsMemory && arenaOffset < 0) return null
    const isFua = kind !== 'read' && prng.chance(0.15)
    const ranges = [range]
    return {
      kind,
      volume,
      ranges,
      isFua,
      arenaOffset,
      lengthBytes,
      answeredBefore: 0,
      result: null,
    }
  }

  /** A trim from one window into another, over all that lies between. */
  #placeWide(volume: string, geometry: Geometry, sizeBytes: number): Request | null {
    const ranges = geometry.windows
      .filter((window) => (window.startBlock + window.blockCount) * BLOCK_SIZE_BYTES <= sizeBytes)
      .map((window) => ({
        firstSector: window.sectorIndex,
        sectorCount: window.blockCount * SECTORS_PER_BLOCK,
      }))
    if (ranges.length === 0 || this.#isBusy(volume, ranges)) return null
    const last = geometry.windows[ranges.length - 1]
    const lengthBytes = (last.startBlock + last.blockCount) * BLOCK_SIZE_BYTES
    if (lengthBytes > this.#context.rangeBytesMax) return null
    return {
      kind: 'trim',
      volume,
      ranges,
      isFua: false,
      arenaOffset: -1,
      lengthBytes,
      answeredBefore: 0,
      result: null,
    }
  }

  #isBusy(volume: string, ranges: readonly SectorRange[]): boolean {
    const busy = this.#busy.get(volume)
    if (busy === undefined) return false
    const meets = (range: SectorRange, block: number): boolean =>
      busy.get(block)?.some((other) => other.ranges.some((one) => overlap(one, range))) === true
    return ranges.some((range) => [...modelBlocksOf(range)].some((block) => meets(range, block)))
  }

  /** Hands the request to the target; a wide trim starts at 0, others where their range lies. */
  #start(request: Request, tag: number): void {
    const { prng, log } = this.#context
    const target = this.#context.guest(request.volume)
    this.requestCount += 1
    if (request.kind === 'write') this.writtenBytes += request.lengthBytes
    const offsetBytes = this.#offsetOf(request)
    const { lengthBytes, arenaOffset } = request
    const flags = request.isFua ? WRITE_FUA : 0
    log(`  ${tag} ${request.kind} ${request.volume} ${offsetBytes}+${lengthBytes} flags=${flags}`)
    switch (request.kind) {
      case 'write':
        this.#fillWrite(request)
        target.write(offsetBytes, lengthBytes, arenaOffset, flags, this, tag)
        return
      case 'trim':
        target.trim(offsetBytes, lengthBytes, flags, this, tag)
        return
      case 'zero': {
        const hole = prng.chance(0.5) ? ZERO_NO_HOLE : 0
        target.zero(offsetBytes, lengthBytes, flags | hole, this, tag)
        return
      }
      case 'read':
        this.#context.arena.memory.fill(0xee, arenaOffset, arenaOffset + lengthBytes)
        target.read(offsetBytes, lengthBytes, arenaOffset, this, tag)
        return
      case 'flush':
        target.flush(this, tag)
    }
  }

  #offsetOf(request: Request): number {
    if (request.ranges.length !== 1) return 0
    const { windows } = (this.#after.get(request.volume) as ModelVolume).geometry
    const { firstSector } = request.ranges[0]
    const window = windows.findLast((one) => one.sectorIndex <= firstSector) as Window
    const within = (firstSector - window.sectorIndex) * SECTOR_BYTES
    return window.startBlock * BLOCK_SIZE_BYTES + within
  }

  #fillWrite(request: Request): void {
    const { arena, contents } = this.#context
    const { firstSector, sectorCount } = request.ranges[0]
    const within = firstSector % SECTORS_PER_BLOCK
    const stamps = contents.draw(Math.ceil((within + sectorCount) / SECTORS_PER_BLOCK))
    for (let index = 0; index < sectorCount; index += 1) {
      const at = request.arenaOffset + index * SECTOR_BYTES
      writeStamp(arena.memory, at, stamps[within + index])
    }
  }

  /** Puts a change into the step's outcome and makes its blocks busy. */
  #mark(request: Request): void {
    const sectors = this.#mutable(request.volume)
    let busy = this.#busy.get(request.volume)
    if (busy === undefined) this.#busy.set(request.volume, (busy = new Map<number, Request[]>()))
    for (const range of request.ranges) {
      for (const block of modelBlocksOf(range)) this.#markBlock(request, busy, block)
      for (let index = 0; index < range.sectorCount; index += 1) {
        const at = request.arenaOffset + index * SECTOR_BYTES
        const stamp = request.kind === 'write' ? readStamp(this.#context.arena.memory, at) : 0
        sectors[range.firstSector + index] = stamp
      }
    }
  }

  #markBlock(request: Request, busy: Map<number, Request[]>, block: number): void {
    const there = busy.get(block)
    if (there === undefined) {
      busy.set(block, [request])
      return
    }
    there.push(request)
    const { shared } = this.step
    const blocks = shared.get(request.volume)
    if (blocks === undefined) shared.set(request.volume, new Set([block]))
    else blocks.add(block)
  }

  #mutable(volume: string): Uint32Array {
    const after = this.#after.get(volume) as ModelVolume
    const before = this.step.before.get(volume) as ModelVolume
    if (after.sectors !== before.sectors) return after.sectors
    const sectors = Uint32Array.from(before.sectors)
    this.#after.set(volume, { ...after, sectors })
    return sectors
  }

  #noteChange(request: Request): void {
    if (request.result === 0) {
      this.#answered.push(request)
      if (!request.isFua) return
      this.#require(request)
      this.#context.promised()
    } else if (request.result === -Errno.ENOSPC) {
      this.noSpaceCount += 1
      if (isLong(request)) this.#noteUnanswered(request)
      else this.#undo(request)
    } else {
      this.failure ||= request.result as number
    }
  }

  /** Refused for want of space means that nothing of it was done, unless it takes two records. */
  #undo(request: Request): void {
    const sectors = this.#mutable(request.volume)
    const before = (this.step.before.get(request.volume) as ModelVolume).sectors
    for (const { firstSector, sectorCount } of request.ranges) {
      sectors.set(before.subarray(firstSector, firstSector + sectorCount), firstSector)
    }
  }

  #noteFlush(request: Request): void {
    if (request.result !== 0) {
      if (request.result === -Errno.ENOSPC) this.noSpaceCount += 1
      else this.failure ||= request.result as number
      return
    }
    this.#context.history.requireBefore(this.step)
    for (const earlier of this.#answered.slice(0, request.answeredBefore)) this.#require(earlier)
    this.#context.promised()
  }

  #require(request: Request): void {
    this.#context.history.requireBefore(this.step)
    const { required } = this.step
    let flags = required.get(request.volume)
    if (flags === undefined) {
      flags = new Uint8Array(this.#mutable(request.volume).length)
      required.set(request.volume, flags)
    }
    for (const { firstSector, sectorCount } of request.ranges) {
      flags.fill(1, firstSector, firstSector + sectorCount)
    }
  }

  /** A read shows each block as before or as after the step; answered changes it must show. */
  #judgeRead(request: Request, tag: number): void {
    if (request.result === -Errno.EIO && this.#context.mayFailToRead()) {
      this.refusedReadCount += 1
      return
    }
    if (request.result !== 0) {
      this.#complain(`read ${tag} gave ${request.result}`)
      return
    }
    const { memory } = this.#context.arena
    const before = (this.step.before.get(request.volume) as ModelVolume).sectors
    const after = (this.#after.get(request.volume) as ModelVolume).sectors
    const busy = this.#busy.get(request.volume)
    const seen = new Set(this.#answered.slice(0, request.answeredBefore))
    const { firstSector, sectorCount } = request.ranges[0]
    for (let index = 0; index < sectorCount; index += 1) {
      const sector = firstSector + index
      const stamp = readStamp(memory, request.arenaOffset + index * SECTOR_BYTES)
      if (stamp === after[sector]) continue
      const changes = busy?.get(Math.floor(sector / SECTORS_PER_BLOCK))
      const change = changes?.find(({ ranges }) => ranges.some((range) => covers(range, sector)))
      if (change !== undefined && !seen.has(change) && stamp === before[sector]) continue
      this.#complain(
        `read ${tag} of ${request.volume} model sector ${sector}: ` +
          `found ${stamp}, expected ${after[sector]} (before the step ${before[sector]})`,
      )
      return
    }
  }

  #complain(fact: string): void {
    this.violation ??= new SimViolation(fact)
  }
}

function covers({ firstSector, sectorCount }: SectorRange, sector: number): boolean {
  return sector >= firstSector && sector < firstSector + sectorCount
}

/** Longer than a record may be: its parts find room, or not, one by one. */
function isLong({ kind, lengthBytes }: Request): boolean {
  return kind === 'write' && lengthBytes > RECORD_BLOCK_COUNT_MAX * BLOCK_SIZE_BYTES
}

function overlap(left: SectorRange, right: SectorRange): boolean {
  const end = left.firstSector + left.sectorCount
  return right.firstSector < end && left.firstSector < right.firstSector + right.sectorCount
}

function* modelBlocksOf(range: SectorRange): Generator<number> {
  const end = Math.ceil((range.firstSector + range.sectorCount) / SECTORS_PER_BLOCK)
  for (let block = Math.floor(range.firstSector / SECTORS_PER_BLOCK); block < end; block += 1) {
    yield block
  }
}
