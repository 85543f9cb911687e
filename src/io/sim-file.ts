/**
 * The data of one simulated file, seen twice: the *volatile* view is what reads return (the page
 * cache), the *durable* view is what is left when the power fails.
 *
 * Pages are immutable once written: a write makes new ones and records a pending change. The
 * durable view is kept as the difference to the volatile one, page by page, so a file without
 * unsynced changes costs nothing extra and a sync costs only what was written since the last.
 *
 * The assumption about a real disk: a sector of 512 bytes is written whole or not at all;
 * everything else (order, pages of one write, sectors of one page) is at the mercy of the seed.
 * Size changes keep their order among themselves, as a journalled filesystem keeps them.
 */
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Prng } from '../base/prng.ts'

export const SIM_PAGE_BYTES = 4096
export const SIM_SECTOR_BYTES = 512
const SECTORS_PER_PAGE = SIM_PAGE_BYTES / SIM_SECTOR_BYTES
const SECTORS_ALL = (1 << SECTORS_PER_PAGE) - 1
const ZERO_PAGE = new Uint8Array(SIM_PAGE_BYTES)

/** Room on the simulated disk, shared by its files. */
export interface SimSpace {
  usedPages: number
  capacityPages: number
}

interface PageChange {
  kind: 'page'
  sequence: number
  pageIndex: number
  /** The whole page as the cache held it after the write. */
  bytes: Uint8Array
  /** One bit for each sector that the write touched. */
  sectors: number
}

interface PunchChange {
  kind: 'punch'
  sequence: number
  firstPage: number
  endPage: number
}

interface SizeChange {
  kind: 'size'
  sequence: number
  sizeBytes: number
}

type SimChange = PageChange | PunchChange | SizeChange

/** A page whose content a sync will answer for, and what the disk will make of it. */
export interface SimDoom {
  pageIndex: number
  right: Uint8Array
  wrong: Uint8Array
  sequence: number
}

/** How much of what was not synced survives. */
export interface SimLossPolicy {
  /** What is kept or lost as one: pages, or the sectors of a page (torn writes). */
  grain: 'page' | 'sector'
  /** Chance that a piece reached the disk. */
  keepChance: number
  /** Everything up to a random change survives and nothing after it. */
  inOrder: boolean
}

/** Keeps only the sectors that the policy lets survive; null when none does. */
function surviving(change: PageChange, policy: SimLossPolicy, prng: Prng): PageChange | null {
  if (policy.grain !== 'sector') return prng.chance(policy.keepChance) ? change : null
  let sectors = 0
  for (let bit = 1; bit < SECTORS_ALL; bit <<= 1) {
    if ((change.sectors & bit) !== 0 && prng.chance(policy.keepChance)) sectors |= bit
  }
  return sectors === 0 ? null : { ...change, sectors }
}

/** `under` with the sectors of `change` laid over it. */
function mergeSectors(under: Uint8Array | null, change: PageChange): Uint8Array {
  if (change.sectors === SECTORS_ALL) return change.bytes
  const merged = new Uint8Array(SIM_PAGE_BYTES)
  if (under !== null) merged.set(under)
  for (let sector = 0; sector < SECTORS_PER_PAGE; sector += 1) {
    if ((change.sectors & (1 << sector)) === 0) continue
    const start = sector * SIM_SECTOR_BYTES
    merged.set(change.bytes.subarray(start, start + SIM_SECTOR_BYTES), start)
  }
  return merged
}

function withZeroTail(page: Uint8Array, keptBytes: number): Uint8Array {
  const cut = new Uint8Array(SIM_PAGE_BYTES)
  cut.set(page.subarray(0, keptBytes))
  return cut
}

/** One simulated file's content; knows no name. */
export class SimFileData {
  #space: SimSpace
  readonly #pages = new Map<number, Uint8Array>()
  /** The durable page wherever it differs from the volatile one; null is a hole. */
  readonly #durable = new Map<number, Uint8Array | null>()
  /** What damaged pages should be, null a hole. */
  readonly #truth = new Map<number, Uint8Array | null>()
  /** Damage under what was written or dropped since the last sync: a crash may bring it back. */
  readonly #buried = new Map<number, { damaged: Uint8Array; truth: Uint8Array | null }>()
  /** Pages that the next sync will answer for, and the disk will not keep. */
  #doomed: SimDoom[] = []
  #sizeBytes = 0
  #durableSizeBytes = 0
  /** A failed sync left the file shorter on the disk than in the cache. */
  #isSizeLost = false
  #pending: SimChange[] = []
  #sequenceNext = 1
  /** Reserved pages, grown on demand; a reservation is durable at once, as a journal's is. */
  #reserved: Uint8Array = new Uint8Array(0)
  #reservedEmptyCount = 0

  constructor(space: SimSpace) {
    this.#space = space
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  get allocatedBytes(): number {
    return (this.#pages.size + this.#reservedEmptyCount) * SIM_PAGE_BYTES
  }

  /** Changes that no sync has covered yet. */
  get pendingCount(): number {
    return this.#pending.length
  }

  /** The last change so far; hand it to {@link commit} to make all up to here durable. */
  get sequenceLast(): number {
    return this.#sequenceNext - 1
  }

  /** Reads up to the end of the file; returns the bytes read. */
  read(offsetBytes: number, target: Uint8Array): number {
    const lengthBytes = Math.max(0, Math.min(target.length, this.#sizeBytes - offsetBytes))
    let done = 0
    while (done < lengthBytes) {
      const within = (offsetBytes + done) % SIM_PAGE_BYTES
      const count = Math.min(SIM_PAGE_BYTES - within, lengthBytes - done)
      const page = this.#pages.get((offsetBytes + done - within) / SIM_PAGE_BYTES) ?? ZERO_PAGE
      target.set(page.subarray(within, within + count), done)
      done += count
    }
    return lengthBytes
  }

  /** Writes all of `bytes`, or as many whole pages as there is room for and -ENOSPC. */
  write(offsetBytes: number, bytes: Uint8Array): number {
    let done = 0
    while (done < bytes.length) {
      const within = (offsetBytes + done) % SIM_PAGE_BYTES
      const count = Math.min(SIM_PAGE_BYTES - within, bytes.length - done)
      const pageIndex = (offsetBytes + done - within) / SIM_PAGE_BYTES
      if (!this.#writePage(pageIndex, within, bytes.subarray(done, done + count))) {
        return -Errno.ENOSPC
      }
      done += count
    }
    return done
  }

  /** Sets the size; what is cut off is gone, what is added reads as zeros. */
  truncate(sizeBytes: number): void {
    this.#pending.push({ kind: 'size', sequence: this.#takeSequence(), sizeBytes })
    if (sizeBytes < this.#sizeBytes) {
      for (const pageIndex of this.#pages.keys()) {
        const keptBytes = sizeBytes - pageIndex * SIM_PAGE_BYTES
        if (keptBytes >= SIM_PAGE_BYTES) continue
        this.#remember(pageIndex)
        if (keptBytes <= 0) this.#dropPage(pageIndex)
        else
          this.#pages.set(
            pageIndex,
            withZeroTail(this.#pages.get(pageIndex) as Uint8Array, keptBytes),
          )
      }
      this.#unreserve(Math.ceil(sizeBytes / SIM_PAGE_BYTES), this.#reserved.length)
    }
    this.#sizeBytes = sizeBytes
  }

  /** Gives whole pages back and zeroes the ends. */
  punch(offsetBytes: number, lengthBytes: number): void {
    const firstPage = Math.ceil(offsetBytes / SIM_PAGE_BYTES)
    const endPage = Math.floor((offsetBytes + lengthBytes) / SIM_PAGE_BYTES)
    const endBytes = offsetBytes + lengthBytes
    if (firstPage > endPage) return this.#zeroPart(offsetBytes, endBytes)
    this.#zeroPart(offsetBytes, firstPage * SIM_PAGE_BYTES)
    this.#zeroPart(endPage * SIM_PAGE_BYTES, endBytes)
    if (firstPage === endPage) return
    this.#pending.push({ kind: 'punch', sequence: this.#takeSequence(), firstPage, endPage })
    for (const pageIndex of this.#presentIn(this.#pages, firstPage, endPage)) {
      this.#remember(pageIndex)
      this.#dropPage(pageIndex)
    }
    this.#unreserve(firstPage, endPage)
  }

  /** Reserves whole pages without changing the size; false when there is no room. */
  allocate(offsetBytes: number, lengthBytes: number): boolean {
    const firstPage = Math.floor(offsetBytes / SIM_PAGE_BYTES)
    const endPage = Math.ceil((offsetBytes + lengthBytes) / SIM_PAGE_BYTES)
    const wanted: number[] = []
    for (let pageIndex = firstPage; pageIndex < endPage; pageIndex += 1) {
      if (!this.#pages.has(pageIndex) && this.#reserved[pageIndex] !== 1) wanted.push(pageIndex)
    }
    if (this.#space.usedPages + wanted.length > this.#space.capacityPages) return false
    if (endPage > this.#reserved.length) {
      const grown = new Uint8Array(Math.max(endPage, this.#reserved.length * 2))
      grown.set(this.#reserved)
      this.#reserved = grown
    }
    for (const pageIndex of wanted) this.#reserved[pageIndex] = 1
    this.#reservedEmptyCount += wanted.length
    this.#space.usedPages += wanted.length
    return true
  }

  /** Makes every change up to `sequence` durable; returns the doomed pages that it answered for. */
  commit(sequence: number): SimDoom[] {
    const kept = this.#pending.findIndex((change) => change.sequence > sequence)
    const done = kept === -1 ? this.#pending : this.#pending.slice(0, kept)
    this.#pending = kept === -1 ? [] : this.#pending.slice(kept)
    this.#makeDurable(done)
    for (const pageIndex of this.#buried.keys()) {
      if (!this.#durable.has(pageIndex)) this.#buried.delete(pageIndex)
    }
    if (this.#doomed.length === 0) return []
    const struck = this.#doomed.filter((doom) => doom.sequence <= sequence)
    this.#doomed = this.#doomed.filter((doom) => doom.sequence > sequence)
    // What has been written anew since, or given back, was not lost.
    return struck.filter(({ pageIndex, right }) => this.#pages.get(pageIndex) === right)
  }

  /** The page as running code sees it; null is a hole. */
  page(pageIndex: number): Uint8Array | null {
    return this.#pages.get(pageIndex) ?? null
  }

  get pageIndexes(): Iterable<number> {
    return this.#pages.keys()
  }

  /** The next sync that covers what the page holds now will make it `wrong` instead. */
  doom(pageIndex: number, wrong: Uint8Array): void {
    const right = this.#pages.get(pageIndex)
    if (right === undefined) return
    this.#doomed.push({ pageIndex, right, wrong, sequence: this.sequenceLast })
  }

  /** Puts `bytes` in a page's place on the disk, as nobody asked; false where that cannot be. */
  damage(pageIndex: number, bytes: Uint8Array): boolean {
    const isInside = (pageIndex + 1) * SIM_PAGE_BYTES <= this.#sizeBytes
    // What is still to be written will be written over it.
    if (!isInside || this.#durable.has(pageIndex)) return false
    const before = this.#pages.get(pageIndex) ?? null
    if (before === null && this.#space.usedPages >= this.#space.capacityPages) return false
    if (!this.#truth.has(pageIndex)) this.#truth.set(pageIndex, before)
    this.#putPage(pageIndex, bytes)
    // Damage upon damage may happen to mend it.
    const truth = this.#truth.get(pageIndex) ?? ZERO_PAGE
    if (Buffer.compare(truth, bytes) === 0) this.#truth.delete(pageIndex)
    return true
  }

  /** Puts back what damage has changed; returns the number of pages. */
  heal(): number {
    const pageCount = this.#truth.size
    const truths = [...this.#truth]
    this.#truth.clear()
    for (const [pageIndex, page] of truths) {
      if (page === null) this.#dropPage(pageIndex)
      else this.#putPage(pageIndex, page)
    }
    return pageCount
  }

  /** Pages that are not what they should be. */
  get damagedPages(): number[] {
    return [...this.#truth.keys()]
  }

  hasDamage(offsetBytes: number, lengthBytes: number): boolean {
    for (const pageIndex of this.#truth.keys()) {
      const start = pageIndex * SIM_PAGE_BYTES
      if (start < offsetBytes + lengthBytes && start + SIM_PAGE_BYTES > offsetBytes) return true
    }
    return false
  }

  /**
   * What Linux does when a sync fails: part of the changes reached the disk, the rest is marked
   * clean all the same. Reads go on showing it, no later sync writes it, a crash reveals it.
   */
  failCommit(policy: SimLossPolicy, prng: Prng): void {
    const survivors = this.#survivors(policy, prng)
    this.#pending = []
    this.#doomed = []
    this.#makeDurable(survivors)
    this.#isSizeLost = this.#durableSizeBytes < this.#sizeBytes
  }

  /** The power fails: the volatile view becomes the durable one plus what the seed lets survive. */
  crash(policy: SimLossPolicy, prng: Prng): void {
    this.failCommit(policy, prng)
    for (const [pageIndex, page] of this.#durable) {
      if (page === null) this.#dropPage(pageIndex)
      else this.#putPage(pageIndex, page)
    }
    this.#durable.clear()
    this.#sizeBytes = this.#durableSizeBytes
    for (const [pageIndex, page] of this.#pages) {
      const keptBytes = this.#sizeBytes - pageIndex * SIM_PAGE_BYTES
      if (keptBytes <= 0) this.#dropPage(pageIndex)
      else if (keptBytes < SIM_PAGE_BYTES) this.#pages.set(pageIndex, withZeroTail(page, keptBytes))
    }
    if (this.#buried.size > 0) this.#unbury()
  }

  /** Turns over one bit in both views, as a decaying disk does. */
  flipBit(offsetBytes: number, bit: number): void {
    const pageIndex = Math.floor(offsetBytes / SIM_PAGE_BYTES)
    const flipped = new Set<Map<number, Uint8Array | null>>([this.#pages, this.#durable])
    for (const view of flipped) {
      const page = view.get(pageIndex)
      if (page === undefined || page === null) continue
      const damaged = Uint8Array.from(page)
      damaged[offsetBytes % SIM_PAGE_BYTES] ^= 1 << bit
      view.set(pageIndex, damaged)
    }
  }

  /** Counts its pages in another space: a removed file's take no room, but may come back. */
  moveTo(space: SimSpace): void {
    const pageCount = this.#pages.size + this.#reservedEmptyCount
    this.#space.usedPages -= pageCount
    space.usedPages += pageCount
    this.#space = space
  }

  #takeSequence(): number {
    this.#sequenceNext += 1
    return this.#sequenceNext - 1
  }

  #writePage(pageIndex: number, within: number, part: Uint8Array): boolean {
    const under = this.#pages.get(pageIndex)
    const isNew = under === undefined && this.#reserved[pageIndex] !== 1
    if (isNew && this.#space.usedPages >= this.#space.capacityPages) return false
    const bytes = new Uint8Array(SIM_PAGE_BYTES)
    if (under !== undefined && part.length < SIM_PAGE_BYTES) bytes.set(under)
    bytes.set(part, within)
    if (this.#truth.size > 0) this.#writeTruth(pageIndex, within, part, bytes)
    const firstSector = Math.floor(within / SIM_SECTOR_BYTES)
    const endSector = Math.ceil((within + part.length) / SIM_SECTOR_BYTES)
    const sectors = (1 << endSector) - (1 << firstSector)
    this.#remember(pageIndex)
    this.#putPage(pageIndex, bytes)
    this.#pending.push({ kind: 'page', sequence: this.#takeSequence(), pageIndex, bytes, sectors })
    const endBytes = pageIndex * SIM_PAGE_BYTES + within + part.length
    if (endBytes > this.#sizeBytes || this.#isBehindLostSize(endBytes)) {
      this.#sizeBytes = Math.max(this.#sizeBytes, endBytes)
      this.#pending.push({ kind: 'size', sequence: this.#takeSequence(), sizeBytes: endBytes })
    }
    return true
  }

  /** A write mends a damaged page, now `page`, as far as it reaches. */
  #writeTruth(pageIndex: number, within: number, part: Uint8Array, page: Uint8Array): void {
    const truth = this.#truth.get(pageIndex)
    if (truth === undefined) return
    this.#bury(pageIndex)
    const right = new Uint8Array(SIM_PAGE_BYTES)
    if (truth !== null) right.set(truth)
    right.set(part, within)
    if (Buffer.compare(right, page) !== 0) this.#truth.set(pageIndex, right)
  }

  #bury(pageIndex: number): void {
    const truth = this.#truth.get(pageIndex)
    const damaged = this.#pages.get(pageIndex)
    if (truth === undefined) return
    this.#truth.delete(pageIndex)
    if (damaged !== undefined && !this.#buried.has(pageIndex)) {
      this.#buried.set(pageIndex, { damaged, truth })
    }
  }

  /** After a crash: damage whose overwriting was lost is there again, sector by sector. */
  #unbury(): void {
    for (const [pageIndex, { damaged, truth }] of this.#buried) {
      const page = this.#pages.get(pageIndex)
      if (page === undefined) continue
      const right = Uint8Array.from(page)
      for (let at = 0; at < SIM_PAGE_BYTES; at += SIM_SECTOR_BYTES) {
        const end = at + SIM_SECTOR_BYTES
        if (Buffer.compare(page.subarray(at, end), damaged.subarray(at, end)) !== 0) continue
        right.set((truth ?? ZERO_PAGE).subarray(at, end), at)
      }
      if (Buffer.compare(page, right) !== 0) this.#truth.set(pageIndex, right)
    }
    this.#buried.clear()
  }

  /** Writing such a page again brings its length to the disk, too, as writeback does on Linux. */
  #isBehindLostSize(endBytes: number): boolean {
    if (!this.#isSizeLost) return false
    const last = this.#pending.findLast((change) => change.kind === 'size')
    return endBytes > (last?.sizeBytes ?? this.#durableSizeBytes)
  }

  #zeroPart(startBytes: number, endBytes: number): void {
    const limitBytes = Math.min(endBytes, this.#sizeBytes)
    if (startBytes >= limitBytes) return
    const pageIndex = Math.floor(startBytes / SIM_PAGE_BYTES)
    if (!this.#pages.has(pageIndex)) return
    const within = startBytes - pageIndex * SIM_PAGE_BYTES
    this.#writePage(pageIndex, within, ZERO_PAGE.subarray(0, limitBytes - startBytes))
  }

  #remember(pageIndex: number): void {
    if (this.#durable.has(pageIndex)) return
    this.#durable.set(pageIndex, this.#pages.get(pageIndex) ?? null)
  }

  #putPage(pageIndex: number, bytes: Uint8Array): void {
    if (!this.#pages.has(pageIndex)) {
      if (this.#reserved[pageIndex] === 1) this.#reservedEmptyCount -= 1
      else this.#space.usedPages += 1
    }
    this.#pages.set(pageIndex, bytes)
  }

  #dropPage(pageIndex: number): void {
    this.#bury(pageIndex)
    if (!this.#pages.delete(pageIndex)) return
    if (this.#reserved[pageIndex] === 1) this.#reservedEmptyCount += 1
    else this.#space.usedPages -= 1
  }

  #unreserve(firstPage: number, endPage: number): void {
    for (let index = firstPage; index < Math.min(endPage, this.#reserved.length); index += 1) {
      if (this.#reserved[index] !== 1) continue
      this.#reserved[index] = 0
      if (this.#pages.has(index)) continue
      this.#reservedEmptyCount -= 1
      this.#space.usedPages -= 1
    }
  }

  /** Keys of `view` in a range, by whichever walk is shorter. */
  #presentIn(view: Map<number, unknown>, firstPage: number, endPage: number): number[] {
    const found: number[] = []
    if (endPage - firstPage > view.size) {
      for (const key of view.keys()) if (key >= firstPage && key < endPage) found.push(key)
      return found
    }
    for (let key = firstPage; key < endPage; key += 1) if (view.has(key)) found.push(key)
    return found
  }

  #survivors(policy: SimLossPolicy, prng: Prng): SimChange[] {
    const changes = this.#pending
    const cut = policy.inOrder ? prng.below(changes.length + 1) : changes.length
    // Sizes survive as a prefix of their own: a later size implies every earlier one.
    const sizeCut = policy.inOrder ? cut : prng.below(changes.length + 1)
    const kept: SimChange[] = []
    for (let index = 0; index < changes.length; index += 1) {
      const change = changes[index]
      if (change.kind === 'size') {
        if (index < sizeCut || policy.keepChance === 1) kept.push(change)
        continue
      }
      const isAtCut = policy.inOrder && index === cut && policy.grain === 'sector'
      if (policy.inOrder && !isAtCut) {
        if (index < cut) kept.push(change)
      } else if (change.kind === 'punch') {
        if (prng.chance(policy.keepChance)) kept.push(change)
      } else {
        const survivor = surviving(change, policy, prng)
        if (survivor !== null) kept.push(survivor)
      }
    }
    return kept
  }

  /** Applies `changes` in order to the durable view; pages that then agree are forgotten. */
  #makeDurable(changes: readonly SimChange[]): void {
    for (const change of changes) {
      if (change.kind === 'page') {
        const { pageIndex } = change
        this.#setDurable(pageIndex, mergeSectors(this.#durablePage(pageIndex), change))
      } else if (change.kind === 'punch') {
        const { firstPage, endPage } = change
        const inPages = this.#presentIn(this.#pages, firstPage, endPage)
        const inDurable = this.#presentIn(this.#durable, firstPage, endPage)
        for (const pageIndex of inPages) this.#setDurable(pageIndex, null)
        for (const pageIndex of inDurable) this.#setDurable(pageIndex, null)
      } else {
        this.#setDurableSize(change.sizeBytes)
      }
    }
  }

  #durablePage(pageIndex: number): Uint8Array | null {
    const page = this.#durable.get(pageIndex)
    return page === undefined ? (this.#pages.get(pageIndex) ?? null) : page
  }

  #setDurable(pageIndex: number, page: Uint8Array | null): void {
    const shown = this.#pages.get(pageIndex) ?? null
    const isSame =
      page === shown || (page !== null && shown !== null && !Buffer.compare(page, shown))
    if (isSame) this.#durable.delete(pageIndex)
    else this.#durable.set(pageIndex, page)
  }

  #setDurableSize(sizeBytes: number): void {
    if (sizeBytes < this.#durableSizeBytes) {
      const everywhere = new Set([...this.#pages.keys(), ...this.#durable.keys()])
      for (const pageIndex of everywhere) {
        const keptBytes = sizeBytes - pageIndex * SIM_PAGE_BYTES
        const page = this.#durablePage(pageIndex)
        if (keptBytes >= SIM_PAGE_BYTES || page === null) continue
        this.#setDurable(pageIndex, keptBytes <= 0 ? null : withZeroTail(page, keptBytes))
      }
    }
    this.#durableSizeBytes = sizeBytes
    assert(this.#durableSizeBytes >= 0, 'a durable size is never negative')
  }
}
