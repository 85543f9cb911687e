import t from 'tap'
import type { Test } from 'tap'
import { Prng } from '../../../src/base/prng.ts'
import { MIB } from '../../../src/base/units.ts'
import type { Usage, UsageReport } from '../../../src/pool/types.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import { BLOCK, SimWorld } from './sim-pool.ts'
import { UsageOracle } from './usage-oracle.ts'

t.setTimeout(300_000)

const FIGURES = [
  'logicalBytes',
  'mappedBytes',
  'referencedBytes',
  'storedBytes',
  'exclusiveBytes',
  'sharedBytes',
  'amortisedBytes',
  'metadataBytes',
  'thinBytes',
  'zeroBytes',
  'cloneBytes',
  'dedupBytes',
  'compressionBytes',
] as const

function figures(usage: Usage): Record<string, number> {
  return Object.fromEntries(FIGURES.map((key) => [key, usage[key]]))
}

/** One of few blocks, so that many are equal; half of each compresses. 0: zeros. */
function blockOf(content: number): Uint8Array {
  const block = new Uint8Array(BLOCK)
  if (content === 0) return block
  new Prng(content).fill(block.subarray(0, BLOCK / 2))
  return block.fill(content & 0xff, BLOCK / 2)
}

async function openWorld(seed: number): Promise<SimWorld> {
  const world = await SimWorld.create({ seed })
  await world.close()
  await world.open({ codecs: deflateCodecs })
  return world
}

const DISK_COUNT_MAX = 14
const SIZE_BLOCKS_MAX = 1300
const TENANTS = ['red', 'blue']

/** Does things to a pool at random. */
class Life {
  readonly world: SimWorld
  readonly prng: Prng
  readonly volumes: Map<string, string[]> = new Map()
  readonly steps: string[] = []
  #nextName = 1

  constructor(world: SimWorld, seed: number) {
    this.world = world
    this.prng = new Prng(seed)
  }

  get diskNames(): string[] {
    return [...this.volumes].flatMap(([name, snapshots]) => [
      ...snapshots.map((snapshot) => `${name}@${snapshot}`),
      name,
    ])
  }

  async step(): Promise<void> {
    const { prng } = this
    if (this.volumes.size === 0) return this.#create()
    const isFull = this.diskNames.length >= DISK_COUNT_MAX
    const steps: [number, string, (name: string) => Promise<void>][] = [
      [40, 'write', (name) => this.#write(name)],
      [8, 'trim', (name) => this.#unmap(name, 'trim')],
      [8, 'zero', (name) => this.#unmap(name, 'zero')],
      [6, 'copy', (name) => this.#copy(name)],
      [isFull ? 0 : 6, 'snapshot', (name) => this.#snapshot(name)],
      [isFull ? 0 : 6, 'clone', (name) => this.#clone(name)],
      [isFull ? 0 : 3, 'create', () => this.#create()],
      [isFull ? 0 : 4, 'import', () => this.#import()],
      [isFull ? 8 : 2, 'remove', () => this.remove(this.subset(3))],
      [2, 'restore', (name) => this.#restore(name)],
      [3, 'resize', (name) => this.#resize(name)],
      [2, 'settle', () => this.#settle()],
      [1, 'reclaim', () => this.#reclaim()],
      [1, 'reopen', () => this.#reopen()],
    ]
    const [, what, run] = steps[prng.weighted(steps.map(([weight]) => weight))]
    const name = prng.pick([...this.volumes.keys()])
    this.steps.push(`${what} ${name}`)
    await run(name)
  }

  /** Some disks; with a volume, all of its snapshots, as only so it can be removed. */
  subset(countMax: number): string[] {
    const names = [...this.diskNames]
    this.prng.shuffle(names)
    const chosen = names.slice(0, this.prng.between(1, Math.min(countMax, names.length)))
    return this.diskNames.filter((name) => {
      return chosen.includes(name) || chosen.includes(name.split('@')[0])
    })
  }

  async remove(names: string[]): Promise<void> {
    await this.world.run(this.world.pool.remove({ names, recursive: true, dryRun: false }))
    for (const name of names) {
      const [volume, snapshot] = name.split('@')
      if (snapshot === undefined) this.volumes.delete(volume)
    }
    for (const [volume, snapshots] of this.volumes) {
      const kept = snapshots.filter((snapshot) => !names.includes(`${volume}@${snapshot}`))
      this.volumes.set(volume, kept)
    }
  }

  #newName(): string {
    this.#nextName += 1
    return `v${this.#nextName}`
  }

  #labels(): Record<string, string> {
    return this.prng.chance(0.3) ? {} : { tenant: this.prng.pick(TENANTS) }
  }

  /** In sectors: the last block may be there in part. */
  #sizeBytes(): number {
    return this.prng.between(8, (SIZE_BLOCKS_MAX * BLOCK) / 512) * 512
  }

  #content(): number {
    return this.prng.chance(0.1) ? 0 : this.prng.between(1, this.prng.pick([12, 400]))
  }

  /** Up to `countMax` blocks, some of them a run of what another run is, too. */
  #blocks(countMax: number): Uint8Array {
    const count = this.prng.between(1, countMax)
    const first = this.#content()
    const isRun = this.prng.chance(0.5)
    const blocks = Array.from({ length: count }, (_, i) =>
      blockOf(isRun ? first + i : this.#content()),
    )
    return Buffer.concat(blocks)
  }

  async #create(): Promise<void> {
    const name = this.#newName()
    const request = { name, sizeBytes: this.#sizeBytes(), labels: this.#labels() }
    await this.world.run(this.world.pool.create(request))
    this.volumes.set(name, [])
  }

  async #import(): Promise<void> {
    const { world, prng } = this
    const name = this.#newName()
    const sizeBytes = SIZE_BLOCKS_MAX * BLOCK
    const request = { name, sizeBytes, labels: this.#labels() }
    const bulk = await world.run(world.pool.beginImport(request))
    for (let block = prng.below(600); block < SIZE_BLOCKS_MAX - 600; block += prng.below(600)) {
      const bytes = this.#blocks(prng.pick([20, 600]))
      await world.run(bulk.write(block * BLOCK, bytes))
      block += bytes.length / BLOCK
    }
    await world.run(bulk.commit())
    this.volumes.set(name, [])
  }

  async #write(name: string): Promise<void> {
    const disk = this.world.disk(name)
    const blockCount = Math.floor(disk.target.sizeBytes / BLOCK)
    const bytes = this.#blocks(this.prng.pick([1, 8, 60]))
    const lengthBytes = Math.min(bytes.length, blockCount * BLOCK)
    const at = this.prng.below(blockCount - lengthBytes / BLOCK + 1)
    if (lengthBytes > 0) await disk.write(at * BLOCK, bytes.subarray(0, lengthBytes))
    disk.close()
  }

  async #unmap(name: string, how: 'trim' | 'zero'): Promise<void> {
    const disk = this.world.disk(name)
    const { sizeBytes } = disk.target
    const at = this.prng.below(Math.ceil(sizeBytes / BLOCK)) * BLOCK
    const countMax = this.prng.pick([4, 700])
    const lengthBytes = Math.min(sizeBytes - at, this.prng.between(1, countMax) * BLOCK)
    await disk[how](at, lengthBytes)
    disk.close()
  }

  async #copy(name: string): Promise<void> {
    const { files } = this.world.pool
    const from = files.tryVolume(this.prng.pick([...this.volumes.keys()]))
    const to = files.tryVolume(name)
    if (from === null || to === null || from.id === to.id) return
    const blockCount = Math.floor(Math.min(from.sizeBytes, to.sizeBytes) / BLOCK)
    const count = this.prng.between(0, Math.min(40, blockCount))
    const request = {
      fromId: from.id,
      fromBytes: this.prng.between(0, blockCount - count) * BLOCK,
      toId: to.id,
      toBytes: this.prng.between(0, blockCount - count) * BLOCK,
      lengthBytes: count * BLOCK,
    }
    await this.world.run(files.copyRange(request))
  }

  async #snapshot(name: string): Promise<void> {
    const snapshot = this.#newName()
    await this.world.run(this.world.pool.snapshot([`${name}@${snapshot}`]))
    this.volumes.get(name)?.push(snapshot)
  }

  async #clone(_name: string): Promise<void> {
    const names = this.prng.chance(0.5) ? [this.#newName()] : [this.#newName(), this.#newName()]
    await this.world.run(this.world.pool.clone(this.prng.pick(this.diskNames), names))
    for (const name of names) this.volumes.set(name, [])
  }

  async #restore(name: string): Promise<void> {
    const snapshots = this.volumes.get(name) ?? []
    if (snapshots.length === 0) return
    await this.world.run(this.world.pool.restore(`${name}@${this.prng.pick(snapshots)}`))
  }

  async #resize(name: string): Promise<void> {
    await this.world.run(this.world.pool.resize(name, this.#sizeBytes(), true))
  }

  async #settle(): Promise<void> {
    const compression = this.prng.pick(['off', 'lz4', 'zstd'] as const)
    await this.world.run(this.world.pool.settle(compression))
  }

  async #reclaim(): Promise<void> {
    await this.world.run(this.world.pool.reclaim())
  }

  async #reopen(): Promise<void> {
    await this.world.close()
    await this.world.open({ codecs: deflateCodecs })
  }
}

/** Of each row that the report has, the same from the oracle. */
function expectedRows(
  oracle: UsageOracle,
  keyOf: (name: string, labels: Record<string, string>) => string | null,
): Map<string | null, Set<number>> {
  const rows: Map<string | null, Set<number>> = new Map()
  for (const disk of oracle.disks) {
    const volume = oracle.disks.find(({ id }) => id === disk.volumeId)
    const key = keyOf(oracle.nameOf(disk), volume?.labels ?? {})
    rows.set(key, (rows.get(key) ?? new Set()).add(disk.id))
  }
  return rows
}

function verifyReport(
  t: Test,
  report: UsageReport,
  oracle: UsageOracle,
  rows: Map<string | null, Set<number>>,
): void {
  t.same(new Set(report.rows.map(({ name }) => name)), new Set(rows.keys()))
  for (const row of report.rows) {
    const expected = oracle.usage(rows.get(row.name) ?? new Set())
    t.same(figures(row), figures(expected), `${report.by} ${row.name}`)
  }
  const { pool } = report
  t.same(figures(pool), figures(oracle.usage(new Set(oracle.disks.map(({ id }) => id)))), 'pool')
  t.equal(pool.internalBytes, oracle.internalBytes(), 'internal')
  const sum = report.rows.reduce((total, row) => total + row.amortisedBytes, 0)
  t.equal(sum + pool.internalBytes + pool.overheadBytes, pool.physicalBytes, 'adds up')
  t.ok(pool.overheadBytes > 0)
}

function verifySavings(t: Test, name: string | null, usage: Usage): void {
  const negative = FIGURES.filter((key) => usage[key] < 0)
  t.same(negative, [], `nothing of ${name} is negative`)
  const { thinBytes, zeroBytes, cloneBytes, dedupBytes, compressionBytes } = usage
  const savedBytes = thinBytes + zeroBytes + cloneBytes + dedupBytes + compressionBytes
  const keptBytes = usage.amortisedBytes - usage.metadataBytes
  const sizeBytes = Math.ceil(usage.logicalBytes / BLOCK) * BLOCK
  t.equal(savedBytes + keptBytes, sizeBytes, `what ${name} saves adds up`)
}

async function verifyAll(t: Test, life: Life): Promise<UsageOracle> {
  const { world } = life
  await world.run(world.pool.checkpoint())
  const oracle = await UsageOracle.read(world)
  const count = (by: string): Promise<UsageReport> => world.run(world.pool.usage(by))
  const disks = expectedRows(oracle, (name) => name)
  verifyReport(t, await count('disk'), oracle, disks)
  verifyReport(
    t,
    await count('volume'),
    oracle,
    expectedRows(oracle, (name) => name.split('@')[0]),
  )
  const tenants = expectedRows(oracle, (_name, labels) => labels.tenant ?? null)
  verifyReport(t, await count('label:tenant'), oracle, tenants)
  for (const [name, ids] of disks) verifySavings(t, name, oracle.usage(ids))
  return oracle
}

/** What a dry run says of disks at random, against the oracle; what a removal does, too. */
async function verifyRemovals(t: Test, life: Life, oracle: UsageOracle): Promise<void> {
  const { world } = life
  const dryRun = async (names: string[]): Promise<number | null> => {
    const request = { names, recursive: true, dryRun: true }
    return (await world.run(world.pool.remove(request))).freedBytes
  }
  for (let i = 0; i < 3 && life.volumes.size > 0; i += 1) {
    const names = life.subset(5)
    const chosen = oracle.disks.filter((disk) => names.includes(oracle.nameOf(disk)))
    const ids = new Set(chosen.map(({ id }) => id))
    t.equal(await dryRun(names), oracle.exclusiveBytes(ids), `dry run of ${names.join(' ')}`)
  }
  if (life.volumes.size === 0) return
  const names = life.subset(2)
  const freedBytes = await dryRun(names)
  await life.remove(names)
  await world.run(world.pool.checkpoint())
  const after = await UsageOracle.read(world)
  t.equal(oracle.liveBytes - after.liveBytes, freedBytes, 'what was said is what went')
}

const SAVINGS = ['zeroBytes', 'cloneBytes', 'dedupBytes', 'compressionBytes'] as const

for (const seed of [1, 2]) {
  const title = `figures and dry runs are those of a brute-force count, seed ${seed}`
  void t.test(title, async (t) => {
    const world = await openWorld(seed)
    const life = new Life(world, seed)
    const met: Set<string> = new Set()
    for (let round = 0; round < 7 && t.counts.fail === 0; round += 1) {
      for (let i = 0; i < 100; i += 1) await life.step()
      const oracle = await verifyAll(t, life)
      const usage = oracle.usage(new Set(oracle.disks.map(({ id }) => id)))
      for (const key of SAVINGS) if (usage[key] > 0) met.add(key)
      await verifyRemovals(t, life, oracle)
    }
    t.equal(met.size, SAVINGS.length, 'all kinds of savings were met')
    if (t.counts.fail > 0) t.comment(life.steps.join(', '))
    await world.close()
  })
}

async function exclusiveBytes(world: SimWorld, name: string): Promise<number> {
  const report = await world.run(world.pool.usage('disk'))
  return report.rows.find((row) => row.name === name)?.exclusiveBytes ?? -1
}

void t.test('what a removal frees comes back from the disk when it is settled', async (t) => {
  const world = await openWorld(11)
  const { pool } = world
  for (const name of ['a', 'b']) {
    await world.run(pool.create({ name, sizeBytes: 64 * MIB }))
    const disk = world.disk(name)
    // A third of each is in the other, too.
    for (let block = 0; block < 3000; block += 50) {
      const isShared = block % 150 === 0
      const first = isShared ? 10_000 + block : block + (name === 'a' ? 20_000 : 30_000)
      const run = Array.from({ length: 50 }, (_, i) => blockOf(first + i))
      await disk.write(block * BLOCK, Buffer.concat(run))
    }
    disk.close()
  }
  await world.run(pool.settle('off'))
  const request = { names: ['a'], recursive: false, dryRun: true }
  const { freedBytes } = await world.run(pool.remove(request))
  // Two thirds of its blocks, its six leaves and the three nodes above them.
  t.equal(freedBytes, (2000 + 6 + 3) * BLOCK)
  const before = await world.run(pool.info())
  await world.run(pool.remove({ ...request, dryRun: false }))
  await world.run(pool.settle('off'))
  await world.run(pool.settle('off'))
  const after = await world.run(pool.info())
  const cameBackBytes = before.physicalBytes - after.physicalBytes
  t.ok(Math.abs(cameBackBytes - (freedBytes ?? 0)) < 0.05 * (freedBytes ?? 0), 'nearly all of it')
  await world.close()
})

void t.test('what an unfinished import refers to is not freed by a removal', async (t) => {
  const world = await openWorld(12)
  const { pool } = world
  const bytes = Buffer.concat(Array.from({ length: 600 }, (_, i) => blockOf(i + 1)))
  const first = await world.run(pool.beginImport({ name: 'a', sizeBytes: 4 * MIB }))
  await world.run(first.write(0, bytes))
  await world.run(first.commit())
  const alone = await exclusiveBytes(world, 'a')
  t.ok(alone >= bytes.length)
  const second = await world.run(pool.beginImport({ name: 'b', sizeBytes: 4 * MIB }))
  await world.run(second.write(0, bytes.subarray(0, 500 * BLOCK)))
  t.equal(await exclusiveBytes(world, 'a'), alone - 500 * BLOCK)
  const { internalBytes } = (await world.run(pool.usage('volume'))).pool
  t.ok(internalBytes >= (500 * BLOCK) / 2, 'half of what both have is the import’s')
  await world.run(second.abort())
  t.equal(await exclusiveBytes(world, 'a'), alone)
  await world.close()
})

void t.test('clones of one state cost one walk, whatever their number', async (t) => {
  const world = await openWorld(13)
  const { pool } = world
  const bytes = Buffer.concat(Array.from({ length: 2000 }, (_, i) => blockOf(1 + ((i * 7) % 1999))))
  const bulk = await world.run(pool.beginImport({ name: 'a', sizeBytes: 8 * MIB }))
  await world.run(bulk.write(0, bytes))
  await world.run(bulk.commit())
  await world.run(pool.snapshot(['a@s']))
  const clones = Array.from({ length: 500 }, (_, i) => `c${i}`)
  await world.run(pool.clone('a@s', clones))
  await world.run(pool.checkpoint())
  let readCount = 0
  const read = world.io.read.bind(world.io)
  world.io.read = (...args) => {
    readCount += 1
    read(...args)
  }
  const { rows, pool: whole } = await world.run(pool.usage('disk'))
  t.ok(readCount < 40, `${readCount} reads`)
  t.equal(rows.length, 502)
  t.equal(whole.exclusiveBytes, whole.storedBytes)
  for (const row of rows) t.equal(row.exclusiveBytes, 0)
  const amortised = rows.map((row) => row.amortisedBytes)
  t.ok(Math.max(...amortised) - Math.min(...amortised) <= 10, 'each has its part')
  await world.close()
})

void t.test('guests go on while a count runs, and it is of the state it began with', async (t) => {
  const world = await openWorld(14)
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  const disk = world.disk('a')
  for (let i = 0; i < 16; i += 1) await disk.fill(i * MIB, MIB, 1 + i)
  await world.run(pool.snapshot(['a@s']))
  const quiet = await world.run(pool.usage('volume'))
  const phases: string[] = []
  const counting = pool.usage('volume', undefined, ({ phase }) => phases.push(phase))
  const reclaiming = pool.reclaim()
  for (let i = 0; i < 16; i += 1) t.equal(await disk.fill(i * MIB, MIB, 101 + i), 0)
  await world.run(pool.remove({ names: ['a@s'], recursive: false, dryRun: false }))
  const report = await world.run(counting)
  await world.run(reclaiming)
  const [row] = report.rows
  t.ok(row.exclusiveBytes >= quiet.rows[0].exclusiveBytes)
  t.same([...new Set(phases)], ['checkpoint', 'maps', 'segments'])
  const after = await world.run(pool.usage('volume'))
  t.equal(after.rows[0].exclusiveBytes, quiet.rows[0].exclusiveBytes)
  disk.close()
  await world.close()
})

void t.test('a count can be canceled, and says what it cannot count by', async (t) => {
  const world = await openWorld(15)
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: 64 * MIB, labels: { tenant: 'red' } }))
  await world.run(pool.create({ name: 'b', sizeBytes: MIB + 512 }))
  const disk = world.disk('a')
  for (let i = 0; i < 16; i += 1) await disk.fill(i * MIB, MIB, 1 + i)
  disk.close()
  for (const at of ['checkpoint', 'maps', 'segments']) {
    const controller = new AbortController()
    const counting = pool.usage('disk', controller.signal, ({ phase }) => {
      if (phase === at) controller.abort()
    })
    await t.rejects(world.run(counting), { code: 'canceled' }, at)
  }
  for (const by of ['', 'tenant', 'label:']) {
    await t.rejects(world.run(pool.usage(by)), { code: 'usage' }, by)
  }
  const { rows } = await world.run(pool.usage('label:tenant'))
  t.same(
    rows.map(({ name, volumeCount }) => [name, volumeCount]),
    [
      ['red', 1],
      [null, 1],
    ],
  )
  t.equal(rows[1].thinBytes, MIB + BLOCK, 'the last block is there in part')
  const closing = pool.usage('disk')
  const ended = t.rejects(closing, { code: 'canceled' }, 'closing gives it up')
  await world.close()
  await ended
})
