/** Whoever runs the pool of a trace: one control operation after the other, beside the guests. */
import type { Prng } from '../../src/base/prng.ts'
import { OperatingError } from '../../src/base/errors.ts'
import { BLOCK_BYTES, COMMON_CONTENT_COUNT, readDisk, writeContent } from './block-contents.ts'
import type { Ledger, Names, Step } from './ledger.ts'
import type { LifeParts } from './traced-guest.ts'
import { TracedGuest } from './traced-guest.ts'

const VOLUME_COUNT_MAX = 5
const SNAPSHOT_COUNT_MAX = 8
const BLOCK_COUNTS = [64, 200, 512]
const IMPORT_PIECE_BLOCK_COUNT = 64

type MutableNames = Map<string, { disk: number; blockCount: number }>

export class TracedOperator {
  readonly guests: Map<string, TracedGuest> = new Map()
  readonly #parts: LifeParts
  readonly #ledger: Ledger
  readonly #prng: Prng
  readonly #failed: (error: unknown) => void
  #nameCount = 0
  readonly #tag: string

  /** `tag`: makes names that no earlier life has used. */
  constructor(parts: LifeParts, tag: string, failed: (error: unknown) => void) {
    this.#parts = parts
    this.#ledger = parts.ledger
    this.#prng = parts.prng
    this.#failed = failed
    this.#tag = tag
    for (const name of this.#volumes()) this.#startGuest(name)
  }

  /** Performs one operation, chosen by the seed. */
  async act(): Promise<void> {
    const volumes = this.#volumes()
    const snapshots = [...this.#ledger.names.keys()].filter((name) => name.includes('@'))
    if (volumes.length < 2) return this.#create()
    const isCrowded = volumes.length >= VOLUME_COUNT_MAX
    const canSnapshot = snapshots.length < SNAPSHOT_COUNT_MAX
    const has = snapshots.length > 0
    const operations: [number, () => Promise<void>][] = [
      [isCrowded ? 0 : 2, () => this.#create()],
      [canSnapshot ? 5 : 0, () => this.#snapshot(volumes)],
      [has && !isCrowded ? 2 : 0, () => this.#clone(this.#prng.pick(snapshots))],
      [has ? 3 : 0, () => this.#restore(this.#prng.pick(snapshots))],
      [has ? 2 : 0, () => this.#remove(this.#prng.pick(snapshots))],
      [isCrowded ? 4 : 1, () => this.#remove(this.#prng.pick(volumes))],
      [2, () => this.#resize(this.#prng.pick(volumes))],
      [1, () => this.#rename(this.#prng.pick(volumes))],
      [isCrowded ? 0 : 3, () => this.#import()],
      [2, () => this.#parts.pool.checkpoint()],
    ]
    const chosen = operations[this.#prng.weighted(operations.map(([weight]) => weight))]
    await chosen[1]()
  }

  async stop(): Promise<void> {
    await Promise.all([...this.guests.values()].map((guest) => guest.stop()))
  }

  async #create(): Promise<void> {
    const name = this.#newName()
    const blockCount = this.#prng.pick(BLOCK_COUNTS)
    const disk = this.#ledger.addDisk(new Uint32Array(blockCount))
    await this.#step(
      `create ${name}`,
      (names) => names.set(name, { disk, blockCount }),
      () => this.#parts.pool.create({ name, sizeBytes: blockCount * BLOCK_BYTES }),
    )
    this.#startGuest(name)
  }

  /** Of one or two volumes in one step, while their guests write. */
  async #snapshot(volumes: string[]): Promise<void> {
    const chosen = [...volumes]
    this.#prng.shuffle(chosen)
    chosen.length = this.#prng.between(1, 2)
    const names = chosen.map((volume) => `${volume}@${this.#newName()}`)
    const disks = names.map(() => this.#ledger.addDisk(null))
    const sources = chosen.map((volume) => this.#must(volume))
    const step = await this.#step(
      `snapshot ${names.join(' ')}`,
      (after) => {
        for (const [i, name] of names.entries()) {
          after.set(name, { disk: disks[i], blockCount: sources[i].blockCount })
        }
      },
      () => this.#parts.pool.snapshot(names),
    )
    const seen = []
    for (const [i, name] of names.entries()) {
      const found = await this.#read(name)
      this.#ledger.disks[disks[i]].base = found
      seen.push({ disk: sources[i].disk, found })
    }
    const fault = this.#ledger.findMomentFault(seen, step.sentAt, step.answeredAt)
    if (fault !== null) throw new Error(`${step.title} shows no moment: ${fault}`)
  }

  async #clone(source: string): Promise<void> {
    const name = this.#newName()
    const { disk, blockCount } = this.#must(source)
    const copy = this.#ledger.addDisk((this.#ledger.disks[disk].base as Uint32Array).slice())
    await this.#step(
      `clone ${source} ${name}`,
      (names) => names.set(name, { disk: copy, blockCount }),
      () => this.#parts.pool.clone(source, [name]),
    )
    this.#startGuest(name)
  }

  async #restore(snapshot: string): Promise<void> {
    const [volume] = snapshot.split('@')
    const { disk, blockCount } = this.#must(snapshot)
    const base = this.#ledger.disks[disk].base as Uint32Array
    const before = this.#must(volume)
    await this.#stopGuest(volume)
    const contents = new Uint32Array(Math.max(blockCount, before.blockCount))
    contents.set(base)
    await this.#step(
      `restore ${snapshot}`,
      (names) => names.set(volume, { disk: before.disk, blockCount }),
      () => this.#parts.pool.restore(snapshot),
      { disk: before.disk, firstBlock: 0, contents },
    )
    this.#startGuest(volume)
  }

  async #remove(name: string): Promise<void> {
    const isVolume = !name.includes('@')
    if (isVolume) await this.#stopGuest(name)
    await this.#step(
      `remove ${name}`,
      (names) => {
        for (const one of [...names.keys()]) {
          if (one === name || one.startsWith(`${name}@`)) names.delete(one)
        }
      },
      () => this.#parts.pool.remove({ names: [name], recursive: isVolume, dryRun: false }),
    )
  }

  async #resize(name: string): Promise<void> {
    const { disk, blockCount } = this.#must(name)
    const next = this.#prng.pick(BLOCK_COUNTS)
    await this.#stopGuest(name)
    const lostCount = Math.max(0, blockCount - next)
    await this.#step(
      `resize ${name} to ${next} blocks`,
      (names) => names.set(name, { disk, blockCount: next }),
      () => this.#parts.pool.resize(name, next * BLOCK_BYTES, true),
      { disk, firstBlock: next, contents: new Uint32Array(lostCount) },
    )
    this.#startGuest(name)
  }

  async #rename(from: string): Promise<void> {
    const to = this.#newName()
    await this.#stopGuest(from)
    await this.#step(
      `rename ${from} ${to}`,
      (names) => {
        for (const [name, entry] of [...names]) {
          if (name !== from && !name.startsWith(`${from}@`)) continue
          names.delete(name)
          names.set(`${to}${name.slice(from.length)}`, entry)
        }
      },
      () => this.#parts.pool.rename(from, to),
    )
    this.#startGuest(to)
  }

  async #import(): Promise<void> {
    const name = this.#newName()
    const blockCount = 4 * IMPORT_PIECE_BLOCK_COUNT
    const base = new Uint32Array(blockCount)
    const bulk = await this.#parts.pool.beginImport({ name, sizeBytes: blockCount * BLOCK_BYTES })
    const bytes = new Uint8Array(IMPORT_PIECE_BLOCK_COUNT * BLOCK_BYTES)
    for (let first = 0; first < blockCount; first += IMPORT_PIECE_BLOCK_COUNT) {
      for (let i = 0; i < IMPORT_PIECE_BLOCK_COUNT; i += 1) {
        base[first + i] = this.#importedContent()
        writeContent(bytes, i * BLOCK_BYTES, base[first + i])
      }
      await bulk.write(first * BLOCK_BYTES, bytes)
      await new Promise((resolve) => setTimeout(resolve, this.#prng.below(10)))
    }
    if (this.#prng.chance(0.25)) return bulk.abort()
    const disk = this.#ledger.addDisk(base)
    await this.#step(
      `import ${name}`,
      (names) => names.set(name, { disk, blockCount }),
      () => bulk.commit(),
    )
    this.#startGuest(name)
  }

  #importedContent(): number {
    const kind = this.#prng.weighted([3, 4, 2])
    if (kind === 0) return 0
    return kind === 1 ? this.#parts.nextContent() : 1 + this.#prng.below(COMMON_CONTENT_COUNT)
  }

  /** Runs a control operation, noted before and after; `contents`: what a volume then holds. */
  async #step(
    title: string,
    change: (names: MutableNames) => unknown,
    run: () => Promise<unknown>,
    written?: { disk: number; firstBlock: number; contents: Uint32Array },
  ): Promise<Step> {
    const { mark } = this.#parts
    const after: MutableNames = new Map(this.#ledger.names)
    change(after)
    const step: Step = { title, sentAt: mark(), answeredAt: Infinity, after }
    const index = this.#ledger.steps.push(step) - 1
    if (written !== undefined) this.#note(step, index, written)
    await run()
    step.answeredAt = mark()
    return step
  }

  #note(
    { sentAt }: Step,
    step: number,
    { disk, firstBlock, contents }: { disk: number; firstBlock: number; contents: Uint32Array },
  ): void {
    for (const [i, content] of contents.entries()) {
      const change = { content, sentAt, answeredAt: Infinity, isDurable: false, step }
      this.#ledger.change(disk, firstBlock + i, change)
    }
  }

  async #read(name: string): Promise<Uint32Array> {
    const target = this.#parts.pool.openTarget(name, 'operator')
    if (target === null) throw new Error(`${name} is there`)
    const found = await readDisk(this.#parts.io, target)
    target.close()
    return found
  }

  #startGuest(name: string): void {
    const { disk, blockCount } = this.#must(name)
    const guest = new TracedGuest(this.#parts, name, disk, blockCount)
    this.guests.set(name, guest)
    guest.start(this.#failed)
  }

  async #stopGuest(name: string): Promise<void> {
    await this.guests.get(name)?.stop()
    this.guests.delete(name)
  }

  #volumes(): string[] {
    return [...this.#ledger.names.keys()].filter((name) => !name.includes('@'))
  }

  #must(name: string): Names extends ReadonlyMap<string, infer Entry> ? Entry : never {
    const entry = this.#ledger.names.get(name)
    if (entry === undefined) throw new Error(`there is no ${name}`)
    return entry
  }

  #newName(): string {
    this.#nameCount += 1
    return `${this.#tag}${this.#nameCount}`
  }
}

/** Settling and reclaiming by turns until told to stop. */
export async function keepUp(parts: LifeParts, isOver: () => boolean): Promise<void> {
  const { pool, prng } = parts
  while (!isOver()) {
    await new Promise((resolve) => setTimeout(resolve, 5 + prng.below(60)))
    if (isOver()) return
    try {
      if (prng.chance(0.4)) await pool.reclaim()
      else await pool.settle(prng.pick(['off', 'lz4', 'zstd']))
    } catch (error) {
      if (!(error instanceof OperatingError) || error.code !== 'canceled') throw error
    }
  }
}
