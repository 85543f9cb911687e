/**
 * The soak: a real server on a real folder with clients on every kind of export, control operations
 * and background work beside them, and its death every few minutes; at the end every block, every
 * count and everything that could be left over is looked at.
 */
import { randomFillSync } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HttpService } from '../../src/api/http-service.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import { FINGERPRINT_FILE } from '../../src/format/fingerprints.ts'
import { SCRUB_FILE } from '../../src/format/scrub-state.ts'
import { SEGMENT_FOLDER } from '../../src/format/segment.ts'
import { SUPERBLOCK_FILE } from '../../src/format/superblock.ts'
import { RESERVE_FOLDER } from '../../src/pool/reserve.ts'
import { NbdClient } from '../../test/support/nbd-client.ts'
import { ServedPool, mustVarve } from '../../test/support/varve-process.ts'
import { BLOCK_BYTES } from './block-model.ts'
import { ClientProcess } from './client-process.ts'
import type { Place } from './client.ts'
import { clearBelow, leftBelow } from './host-leftovers.ts'
import { Meter, leaksOf } from './meter.ts'
import type { MeterReport } from './meter.ts'

/** What a closed pool's folder may hold. */
const POOL_NAMES: readonly string[] = [
  SUPERBLOCK_FILE,
  SEGMENT_FOLDER,
  RESERVE_FOLDER,
  FINGERPRINT_FILE,
  SCRUB_FILE,
  'lock',
]
const BLOCK_COUNT = 4096
const SNAPSHOTS_PER_DISK_MAX = 4
const IMPORT_BYTES: number = 32 * MIB
/** What a pool without disks may take: a checkpoint's segments. */
const EMPTY_POOL_BYTES_MAX: number = 4 * MIB
const KILL_INTERVAL_MS_MAX = 180_000

type DiskKind = 'nbd' | 'file' | 'device'

interface SoakDisk {
  name: string
  kind: DiskKind
  client: ClientProcess
  snapshots: string[]
}

export interface SoakRequest {
  minutes: number
  seed: number
  say: (line: string) => void
}

export interface SoakReport {
  lengthMs: number
  disks: string[]
  killCount: number
  stopCount: number
  operations: Record<string, number>
  writtenBlocks: number
  physicalBytes: number
  emptyBytes: number
  meter: MeterReport
  /** What is wrong at the end, a sentence each. */
  complaints: string[]
}

/** Rejects with the first thing that is wrong while it runs. */
export async function runSoak(request: SoakRequest): Promise<SoakReport> {
  const root = await mkdtemp(join(tmpdir(), 'varve-soak-'))
  const soak = new Soak(root, request)
  try {
    await soak.begin()
    await soak.work()
    return await soak.judge()
  } finally {
    await soak.end()
    await clearBelow(root)
    await rm(root, { recursive: true, force: true })
  }
}

/** Which exports this host has. */
function kindsHere(): DiskKind[] {
  const isRoot = process.getuid?.() === 0
  if (!isRoot || !existsSync('/dev/fuse')) return ['nbd', 'nbd', 'nbd']
  const hasLoop = existsSync('/dev/loop-control')
  return ['nbd', 'nbd', 'file', 'file', ...(hasLoop ? (['device'] as const) : [])]
}

class Soak {
  readonly #request: SoakRequest
  readonly #root: string
  readonly #pool: string
  readonly #fuse: string
  readonly #service: HttpService
  readonly #random: Prng
  readonly #meter: Meter = new Meter()
  readonly #disks: SoakDisk[] = []
  readonly #kinds: DiskKind[] = kindsHere()
  readonly #operations: Record<string, number> = {}
  readonly #startMs: number = performance.now()
  #server: ServedPool | null = null
  #background: Promise<unknown> = Promise.resolve()
  #isBackgroundBusy = false
  #killCount = 0
  #stopCount = 0
  #nameCount = 0
  #hasScrub = false

  constructor(root: string, request: SoakRequest) {
    this.#root = root
    this.#request = request
    this.#pool = join(root, 'pool')
    this.#fuse = join(root, 'fuse')
    this.#service = new HttpService(join(this.#pool, 'control.sock'))
    this.#random = new Prng(request.seed)
  }

  async begin(): Promise<void> {
    await mkdir(this.#fuse)
    await mustVarve(this.#pool, 'init')
    this.#hasScrub = /^ +scrub\b/m.test(await mustVarve(this.#pool, '--help'))
    await this.#serve()
    for (const [index, kind] of this.#kinds.entries()) {
      const name = `${kind}${index}`
      const sizeBytes = BLOCK_COUNT * BLOCK_BYTES
      await this.#service.create({ name, sizeBytes, labels: {} })
      const client = new ClientProcess(name)
      const promised = kind === 'device' ? 'flushed' : 'answered'
      const seed = this.#request.seed + index
      await client.ask({ verb: 'begin', disk: index + 1, blockCount: BLOCK_COUNT, promised, seed })
      this.#disks.push({ name, kind, client, snapshots: [] })
    }
    for (const disk of this.#disks) await this.#start(disk)
  }

  async work(): Promise<void> {
    const lengthMs = this.#request.minutes * 60_000
    const killIntervalMs = Math.min(KILL_INTERVAL_MS_MAX, lengthMs / 4)
    let nextKillMs = killIntervalMs
    let nextSayMs = 0
    while (this.#elapsedMs() < lengthMs) {
      if (this.#elapsedMs() > nextKillMs) {
        await this.#restart()
        nextKillMs += killIntervalMs
      }
      await this.#act()
      if (this.#elapsedMs() > nextSayMs) {
        this.#sayProgress(lengthMs)
        nextSayMs = this.#elapsedMs() + Math.min(60_000, lengthMs / 5)
      }
      await delay(this.#random.below(700))
    }
  }

  async judge(): Promise<SoakReport> {
    const complaints: string[] = []
    await this.#background
    let writtenBlocks = 0
    for (const { client } of this.#disks) {
      await client.ask({ verb: 'pause' })
      writtenBlocks += (await client.ask({ verb: 'count' })) as number
      await client.ask({ verb: 'verify' })
    }
    for (const disk of this.#disks) {
      for (const snapshot of disk.snapshots) await this.#compare(disk, snapshot, snapshot)
      await this.#stop(disk)
    }
    const physicalBytes = await this.#judgeAccounts(complaints)
    const emptyBytes = await this.#judgeEmpty(complaints)
    const meter = this.#meter.report()
    complaints.push(...leaksOf(meter))
    for (const left of await leftBelow(this.#root)) complaints.push(`left on the host: ${left}`)
    return {
      lengthMs: this.#elapsedMs(),
      disks: this.#disks.map(({ name }) => name),
      killCount: this.#killCount,
      stopCount: this.#stopCount,
      operations: this.#operations,
      writtenBlocks,
      physicalBytes,
      emptyBytes,
      meter,
      complaints,
    }
  }

  async end(): Promise<void> {
    this.#meter.stop()
    for (const { client } of this.#disks) await client.end()
    await this.#server?.kill()
    await this.#background.catch(() => undefined)
  }

  #elapsedMs(): number {
    return performance.now() - this.#startMs
  }

  async #serve(): Promise<void> {
    const fuse = this.#kinds.includes('file') ? ['--fuse', this.#fuse] : []
    this.#server = await ServedPool.start(this.#pool, ...fuse)
    this.#meter.watch(this.#server.pid)
  }

  /** The server dies, or is told to end; what it had answered for must be there afterwards. */
  async #restart(): Promise<void> {
    const isKill = this.#random.chance(0.7)
    if (isKill) {
      this.#killCount += 1
      await this.#server?.kill()
      await Promise.all(this.#disks.map(({ client }) => client.ask({ verb: 'close' })))
      await this.#background
      await clearBelow(this.#root)
    } else {
      this.#stopCount += 1
      for (const disk of this.#disks) await this.#stop(disk)
      const code = await this.#server?.stop()
      await this.#background
      if (code !== 0) throw new Error(`the server ends with ${code}`)
    }
    await mustVarve(this.#pool, 'check')
    await this.#serve()
    for (const disk of this.#disks) await this.#start(disk)
  }

  /** Opens the disk, reads all of it and goes on writing. */
  async #start(disk: SoakDisk): Promise<void> {
    const { client } = disk
    await client.ask({ verb: 'open', place: await this.#placeOf(disk) })
    await client.ask({ verb: 'verify' })
    await client.ask({ verb: 'run' })
  }

  async #stop({ name, kind, client }: SoakDisk): Promise<void> {
    await client.ask({ verb: 'pause' })
    await client.ask({ verb: 'close' })
    if (kind === 'device') await this.#service.detach(name)
    await this.#unused(name)
  }

  async #placeOf({ name, kind }: SoakDisk): Promise<Place> {
    if (kind === 'nbd') return this.#nbd(name)
    if (kind === 'file') return { kind: 'file', path: join(this.#fuse, 'volumes', name) }
    const request = { name, readOnly: false, via: 'loop', sectorSizeBytes: 512 } as const
    return { kind: 'file', path: (await this.#service.attach(request)).device }
  }

  #nbd(name: string): Place {
    return { kind: 'nbd', socketPath: join(this.#pool, 'nbd.sock'), name }
  }

  async #unused(name: string): Promise<void> {
    const [volume] = name.split('@')
    while ((await this.#service.volume(volume)).clients.length > 0) await delay(5)
  }

  async #act(): Promise<void> {
    const disk = this.#random.pick(this.#disks)
    const { snapshots } = disk
    const has = snapshots.length > 0
    const isFull = snapshots.length >= SNAPSHOTS_PER_DISK_MAX
    const operations: [string, number, () => Promise<unknown>][] = [
      ['snapshot', isFull ? 0 : 6, () => this.#snapshot(disk)],
      ['compare', has ? 3 : 0, () => this.#compareAny(disk)],
      ['clone', has ? 3 : 0, () => this.#clone(disk)],
      ['restore', has ? 2 : 0, () => this.#restore(disk)],
      ['remove', isFull ? 6 : has ? 1 : 0, () => this.#remove(disk)],
      ['import', 2, () => this.#import()],
      [
        'settle',
        2,
        () => this.#inBackground(() => this.#service.settle({ compression: 'lz4' }, {})),
      ],
      ['reclaim', 2, () => this.#inBackground(() => this.#service.reclaim({}))],
      [
        'scrub',
        this.#hasScrub ? 1 : 0,
        () => this.#inBackground(() => mustVarve(this.#pool, 'scrub')),
      ],
      ['usage', 1, () => this.#service.usage({ by: 'volume' }, {})],
    ]
    const [name, , run] = operations[this.#random.weighted(operations.map(([, weight]) => weight))]
    await run()
    this.#operations[name] = (this.#operations[name] ?? 0) + 1
  }

  async #snapshot({ name, client, snapshots }: SoakDisk): Promise<void> {
    const snapshot = `${name}@${this.#newName()}`
    await client.ask({ verb: 'pause' })
    await this.#service.snapshot([snapshot])
    await client.ask({ verb: 'keep', name: snapshot })
    await client.ask({ verb: 'run' })
    snapshots.push(snapshot)
  }

  #compareAny(disk: SoakDisk): Promise<void> {
    const snapshot = this.#random.pick(disk.snapshots)
    return this.#compare(disk, snapshot, snapshot)
  }

  /** `name`: of a disk that must hold what the snapshot does. */
  async #compare({ client }: SoakDisk, snapshot: string, name: string): Promise<void> {
    await client.ask({ verb: 'compare', name: snapshot, place: this.#nbd(name) })
  }

  async #clone(disk: SoakDisk): Promise<void> {
    const snapshot = this.#random.pick(disk.snapshots)
    const clone = this.#newName()
    await this.#service.clone(snapshot, [clone])
    await this.#compare(disk, snapshot, clone)
    await this.#drop(clone)
  }

  async #restore(disk: SoakDisk): Promise<void> {
    const snapshot = this.#random.pick(disk.snapshots)
    await this.#stop(disk)
    await this.#service.restore(snapshot)
    await disk.client.ask({ verb: 'revert', name: snapshot })
    await this.#start(disk)
  }

  async #remove({ client, snapshots }: SoakDisk): Promise<void> {
    const snapshot = this.#random.pick(snapshots)
    await this.#service.remove({ names: [snapshot], recursive: false, dryRun: false })
    await client.ask({ verb: 'forget', name: snapshot })
    snapshots.splice(snapshots.indexOf(snapshot), 1)
  }

  /** Half of it is random, half repeats; it is read back and removed. */
  async #import(): Promise<void> {
    const path = join(this.#root, 'image.raw')
    const bytes = Buffer.alloc(IMPORT_BYTES)
    randomFillSync(bytes, 0, IMPORT_BYTES / 4)
    bytes.copy(bytes, IMPORT_BYTES / 2, 0, IMPORT_BYTES / 4)
    await writeFile(path, bytes)
    const name = this.#newName()
    await this.#service.importImage({ name, path, sizeBytes: null, labels: {} }, {})
    const client = await NbdClient.connect(join(this.#pool, 'nbd.sock'), name)
    for (let at = 0; at < IMPORT_BYTES; at += MIB) {
      const found = await client.read(at, MIB)
      if (!found.equals(bytes.subarray(at, at + MIB))) throw new Error(`an import differs at ${at}`)
    }
    client.close()
    await this.#drop(name)
  }

  async #drop(name: string): Promise<void> {
    await this.#unused(name)
    await this.#service.remove({ names: [name], recursive: true, dryRun: false })
  }

  /** One at a time, beside everything else; ends with the server. */
  async #inBackground(run: () => Promise<unknown>): Promise<void> {
    if (this.#isBackgroundBusy) return
    this.#isBackgroundBusy = true
    const deaths = this.#killCount + this.#stopCount
    this.#background = run()
      .catch((error: unknown) => {
        // Its server is gone: that is told by the counts a moment later.
        if (this.#killCount + this.#stopCount === deaths) throw error
      })
      .finally(() => (this.#isBackgroundBusy = false))
    this.#background.catch(() => undefined)
  }

  /** Returns what the segments take. */
  async #judgeAccounts(complaints: string[]): Promise<number> {
    await this.#service.reclaim({})
    const { rows, pool } = await this.#service.usage({ by: 'volume' }, {})
    const { amortisedBytes, internalBytes, overheadBytes, physicalBytes } = pool
    const sum = rows.reduce((total, row) => total + row.amortisedBytes, 0)
    // Each row is rounded.
    if (Math.abs(sum - amortisedBytes) > rows.length) {
      complaints.push(`volumes take ${sum} bytes, the pool says ${amortisedBytes}`)
    }
    if (Math.abs(amortisedBytes + internalBytes + overheadBytes - physicalBytes) > 1) {
      complaints.push(`${JSON.stringify(pool)} does not add up`)
    }
    const onDiskBytes = await this.#segmentBytes()
    if (onDiskBytes !== physicalBytes) {
      complaints.push(`segments take ${onDiskBytes} bytes on disk, usage says ${physicalBytes}`)
    }
    return physicalBytes
  }

  /** Removes all disks; returns what the segments then take. */
  async #judgeEmpty(complaints: string[]): Promise<number> {
    const names = this.#disks.map(({ name }) => name)
    await this.#service.remove({ names, recursive: true, dryRun: false })
    await this.#service.reclaim({})
    await this.#service.reclaim({})
    this.#meter.stop()
    const code = await this.#server?.stop()
    this.#server = null
    if (code !== 0) complaints.push(`the server ends with ${code}`)
    await mustVarve(this.#pool, 'check')
    const emptyBytes = await this.#segmentBytes()
    if (emptyBytes > EMPTY_POOL_BYTES_MAX) complaints.push(`empty, it takes ${emptyBytes} bytes`)
    for (const name of await readdir(this.#pool)) {
      if (!POOL_NAMES.includes(name)) complaints.push(`left in the pool: ${name}`)
    }
    const lock = await readFile(join(this.#pool, 'lock'), 'utf8')
    if (lock !== '') complaints.push(`the lock says ${lock}`)
    return emptyBytes
  }

  async #segmentBytes(): Promise<number> {
    const folder = join(this.#pool, 'segments')
    let bytes = 0
    for (const name of await readdir(folder)) bytes += (await stat(join(folder, name))).blocks * 512
    return bytes
  }

  #newName(): string {
    this.#nameCount += 1
    return `s${this.#nameCount}`
  }

  #sayProgress(lengthMs: number): void {
    const minutes = (ms: number): string => (ms / 60_000).toFixed(1)
    const { rssMaxBytes, fdMax } = this.#meter.report()
    const operations = Object.values(this.#operations).reduce((sum, count) => sum + count, 0)
    this.#request.say(
      `${minutes(this.#elapsedMs())} of ${minutes(lengthMs)} minutes: ${operations} operations, ` +
        `${this.#killCount} kills, ${this.#stopCount} stops, at most ` +
        `${Math.round(rssMaxBytes / MIB)} MiB and ${fdMax} descriptors`,
    )
  }
}
