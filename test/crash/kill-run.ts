/** A pool on its way through the kill points: what is done before each, what must be there. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { HttpService } from '../../src/api/http-service.ts'
import { Prng } from '../../src/base/prng.ts'
import type { IoKind } from '../../src/daemon/host.ts'
import { controlSocketPath } from '../../src/daemon/open-service.ts'
import { FLAG_FUA, NbdClient } from '../support/nbd-client.ts'
import { KILL_POINTS } from './kill-points.ts'
import type { KillPoint, Phase } from './kill-points.ts'
import { BLOCK_BYTES, StampedDisk } from './stamped-disk.ts'

const SERVER = fileURLToPath(new URL('./kill-server.js', import.meta.url))
const BLOCK_COUNT = 512
const QUEUE_DEPTH = 8
const LOAD_MS = 120
/** How long a server is given to start, to arm, or to die where it should. */
const PATIENCE_MS = 60_000
const IMAGE_BYTES = 4 << 20

/** A server, and what it said before it died. */
class KilledServer {
  readonly exited: Promise<void>
  readonly #child: ChildProcess
  #said = ''

  constructor(poolPath: string, ioKind: IoKind, point: number) {
    const args = [SERVER, poolPath, ioKind, String(point)]
    this.#child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    // Bytes on their way to a process that dies are no failure.
    this.#child.stdin?.on('error', () => undefined)
    this.#child.stdout?.on('data', (bytes: Buffer) => (this.#said += bytes.toString()))
    this.exited = new Promise((resolve) => this.#child.on('close', () => resolve()))
  }

  get isHit(): boolean {
    return this.#said.includes('hit ')
  }

  say(line: string): void {
    this.#child.stdin?.write(`${line}\n`)
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }

  /** False: it died before it said so. */
  async says(word: string): Promise<boolean> {
    const deadlineMs = performance.now() + PATIENCE_MS
    let isOver = false
    void this.exited.then(() => (isOver = true))
    while (!this.#said.includes(word)) {
      if (isOver) return false
      if (performance.now() > deadlineMs) throw new Error(`the server does not say "${word}"`)
      await delay(2)
    }
    return true
  }
}

export class KillRun {
  readonly poolPath: string
  verifiedCount = 0
  readonly #ioKind: IoKind
  readonly #imagePath: string
  readonly #service: HttpService
  readonly #disks: StampedDisk[]
  readonly #random: Prng = new Prng(1)
  /** Names that must be there, and those that may. */
  readonly #promised: Set<string> = new Set()
  readonly #possible: Set<string> = new Set()
  /** Sizes that "sized" may have. */
  #sizes: number[] = []
  #server: KilledServer | null = null
  #nameCount = 0

  constructor(poolPath: string, ioKind: IoKind, imagePath: string) {
    this.poolPath = poolPath
    this.#ioKind = ioKind
    this.#imagePath = imagePath
    this.#service = new HttpService(controlSocketPath(poolPath))
    this.#disks = ['one', 'two'].map((name) => new StampedDisk(name, BLOCK_COUNT))
  }

  static image(): Buffer {
    const bytes = Buffer.alloc(IMAGE_BYTES)
    new Prng(7).fill(bytes)
    return bytes
  }

  get writeCount(): number {
    return this.#disks.reduce((sum, disk) => sum + disk.writeCount, 0)
  }

  /** Brings the server to the point and sees it die there; false: it was not reached. */
  async reach(point: KillPoint): Promise<boolean> {
    if (point.during === 'open') return this.#reachAtOpen(point)
    const server = await this.#start(point)
    if (!(await server.says('ready'))) return server.isHit
    await this.#prepare(point.during)
    const load = await this.#load(point.during === 'load' ? Infinity : LOAD_MS)
    if (point.during !== 'load') await load.ended
    server.say('arm')
    await server.says('armed')
    await this.#act(point.during, server)
    // Closing takes a moment; a load goes on until there is nobody to write to.
    const isPatient = point.during === 'close' || point.during === 'load'
    const patience = delay(isPatient ? PATIENCE_MS : 500, undefined, { ref: false })
    await Promise.race([server.exited, patience])
    server.kill()
    await server.exited
    await load.ended
    return server.isHit
  }

  /** Opens the pool and reads everything back. */
  async verify(): Promise<void> {
    const server = this.#server ?? this.#spawn(-1)
    if (!(await server.says('ready'))) throw new Error('the pool does not open')
    this.#server = server
    const known = await this.#service.volumes()
    const names = known.flatMap(({ name, snapshots }) => [
      name,
      ...snapshots.map((one) => one.name),
    ])
    for (const name of this.#promised) {
      if (!names.includes(name)) throw new Error(`${name} was answered for and is gone`)
    }
    for (const name of names) {
      const isKnown = this.#promised.has(name) || this.#possible.has(name)
      if (!isKnown) throw new Error(`${name} was never made, or removed`)
      this.#promised.add(name)
    }
    this.#possible.clear()
    const size = known.find(({ name }) => name === 'sized')?.sizeBytes
    if (size !== undefined && this.#sizes.length > 0 && !this.#sizes.includes(size)) {
      throw new Error(`"sized" has ${size} bytes, expected one of ${this.#sizes.join(', ')}`)
    }
    if (size !== undefined) this.#sizes = [size]
    for (const disk of this.#disks) {
      if (this.#promised.has(disk.name)) disk.verify(await this.#read(disk.name, BLOCK_COUNT))
    }
    for (const name of names) await this.#verifyFixed(name)
    this.verifiedCount += 1
  }

  async end(): Promise<void> {
    this.#server?.say('close')
    await this.#server?.exited
    this.#server = null
  }

  /** An image is there whole, and what was restored is what it was. */
  async #verifyFixed(name: string): Promise<void> {
    if (name.startsWith('image')) {
      const bytes = await this.#read(name, IMAGE_BYTES / BLOCK_BYTES)
      if (!bytes.equals(KillRun.image())) throw new Error(`${name} is not what was imported`)
    }
    if (name === 'restored') {
      const bytes = await this.#read(name, 1)
      const isUniform = bytes.equals(Buffer.alloc(BLOCK_BYTES, bytes[0]))
      if (!isUniform || bytes[0] > 2) throw new Error('"restored" is neither old nor new')
    }
  }

  async #reachAtOpen(point: KillPoint): Promise<boolean> {
    const server = this.#spawn(KILL_POINTS.indexOf(point))
    await server.says('ready')
    server.kill()
    await server.exited
    return server.isHit
  }

  async #start(point: KillPoint): Promise<KilledServer> {
    const server = this.#spawn(KILL_POINTS.indexOf(point))
    this.#server = server
    await this.verify()
    this.#server = null
    return server
  }

  #spawn(point: number): KilledServer {
    return new KilledServer(this.poolPath, this.#ioKind, point)
  }

  /** What the phase needs, done and answered before the point is armed. */
  async #prepare(phase: Phase): Promise<void> {
    for (const { name } of this.#disks) await this.#mustExist(name, BLOCK_COUNT)
    if (phase === 'resize') await this.#mustExist('sized', BLOCK_COUNT)
    if (phase === 'clone' && !this.#promised.has('one@base')) {
      await this.#service.snapshot(['one@base'])
      this.#promised.add('one@base')
    }
    if (phase === 'restore') await this.#prepareRestore()
    if (phase === 'remove') await this.#mustExist(this.#newName('gone'), BLOCK_COUNT)
    if (phase === 'reclaim') await this.#prepareReclaim()
    // Fingerprints are kept by a process that has used them.
    if (phase === 'close') await this.#service.settle({ compression: 'lz4' }, {})
  }

  async #prepareRestore(): Promise<void> {
    await this.#mustExist('restored', BLOCK_COUNT)
    const client = await NbdClient.connect(join(this.poolPath, 'nbd.sock'), 'restored')
    if (!this.#promised.has('restored@old')) {
      await client.write(0, Buffer.alloc(BLOCK_BYTES, 1), FLAG_FUA)
      await this.#service.snapshot(['restored@old'])
      this.#promised.add('restored@old')
    }
    await client.write(0, Buffer.alloc(BLOCK_BYTES, 2), FLAG_FUA)
    client.close()
    await this.#unused('restored')
  }

  /** A segment of which nothing is live, and a raw one that is dead in part. */
  async #prepareReclaim(): Promise<void> {
    const name = this.#newName('dead')
    await this.#import(name)
    await this.#service.remove({ names: [name], recursive: true, dryRun: false })
    this.#promised.delete(name)
    const half = this.#newName('half')
    await this.#mustExist(half, 2 * BLOCK_COUNT)
    const client = await NbdClient.connect(join(this.poolPath, 'nbd.sock'), half)
    const bytes = KillRun.image()
    for (let block = 0; block < 256; block += 64) {
      const from = block * BLOCK_BYTES
      await client.write(from, bytes.subarray(from, from + 64 * BLOCK_BYTES))
    }
    await client.trim(0, 192 * BLOCK_BYTES)
    await client.flush()
    client.close()
  }

  async #act(phase: Phase, server: KilledServer): Promise<void> {
    const acting = this.#begin(phase, server)
    // It ends with the server; that is what is wanted.
    await Promise.race([acting.catch(() => undefined), server.exited])
  }

  async #begin(phase: Phase, server: KilledServer): Promise<unknown> {
    const service = this.#service
    if (phase === 'close') server.say('close')
    if (phase === 'snapshot') {
      return this.#make(this.#newName('one@s'), (name) => service.snapshot([name]))
    }
    if (phase === 'clone') {
      return this.#make(this.#newName('c'), (name) => service.clone('one@base', [name]))
    }
    if (phase === 'restore') return service.restore('restored@old')
    if (phase === 'resize') return this.#resize()
    if (phase === 'remove') return this.#remove()
    if (phase === 'import') return this.#make(this.#newName('image'), (name) => this.#import(name))
    if (phase === 'abort') return this.#abort()
    if (phase === 'settle') return service.settle({ compression: 'lz4' }, {})
    return phase === 'reclaim' ? service.reclaim({}) : undefined
  }

  /** It may be there from now on, and must when it is answered. */
  async #make(name: string, make: (name: string) => Promise<unknown>): Promise<void> {
    this.#possible.add(name)
    await make(name)
    this.#promised.add(name)
  }

  async #resize(): Promise<void> {
    const [size] = this.#sizes
    const next = size === BLOCK_COUNT * BLOCK_BYTES ? size / 2 : BLOCK_COUNT * BLOCK_BYTES
    this.#sizes = [size, next]
    await this.#service.resize({ name: 'sized', sizeBytes: next, allowShrink: true })
    this.#sizes = [next]
  }

  async #remove(): Promise<void> {
    const names = [...this.#promised].filter((name) => name.startsWith('gone'))
    for (const name of names) {
      this.#promised.delete(name)
      this.#possible.add(name)
    }
    await this.#service.remove({ names, recursive: true, dryRun: false })
    for (const name of names) this.#possible.delete(name)
  }

  async #import(name: string): Promise<void> {
    const request = { name, path: this.#imagePath, sizeBytes: null, labels: {} }
    await this.#service.importImage(request, {})
    this.#promised.add(name)
  }

  /** An import that its client gives up when half of it is there. */
  async #abort(): Promise<void> {
    const controller = new AbortController()
    const image = KillRun.image()
    const input = (async function* (): AsyncGenerator<Uint8Array> {
      yield image.subarray(0, IMAGE_BYTES / 2)
      await delay(100)
      controller.abort()
      await delay(PATIENCE_MS, undefined, { ref: false })
    })()
    const request = { name: this.#newName('never'), path: null, sizeBytes: IMAGE_BYTES, labels: {} }
    const call = { signal: controller.signal, input }
    await this.#service.importImage(request, call).catch(() => undefined)
    await delay(300)
  }

  async #mustExist(name: string, blockCount: number): Promise<void> {
    if (this.#promised.has(name)) return
    await this.#service.create({ name, sizeBytes: blockCount * BLOCK_BYTES, labels: {} })
    this.#promised.add(name)
    if (name === 'sized') this.#sizes = [blockCount * BLOCK_BYTES]
  }

  /** Resolves when the server has noticed that the client has gone. */
  async #unused(name: string): Promise<void> {
    while ((await this.#service.volume(name)).clients.length > 0) await delay(2)
  }

  async #load(lengthMs: number): Promise<{ ended: Promise<unknown> }> {
    const untilMs = performance.now() + lengthMs
    const loads: Promise<unknown>[] = []
    for (const disk of this.#disks) {
      const client = await NbdClient.connect(join(this.poolPath, 'nbd.sock'), disk.name)
      const workers = Array.from({ length: QUEUE_DEPTH }, () => this.#work(client, disk, untilMs))
      loads.push(Promise.allSettled(workers).then(() => client.close()))
    }
    return { ended: Promise.all(loads) }
  }

  async #work(client: NbdClient, disk: StampedDisk, untilMs: number): Promise<void> {
    while (performance.now() < untilMs) {
      const block = this.#random.below(disk.blockCount)
      const write = disk.begin(block)
      if (write === null) continue
      const flags = this.#random.below(10) === 0 ? FLAG_FUA : 0
      await client.write(block * BLOCK_BYTES, write.bytes, flags)
      write.answered()
      if (this.#random.below(10) !== 0) continue
      const answered = disk.beginFlush()
      await client.flush()
      answered()
    }
  }

  async #read(name: string, blockCount: number): Promise<Buffer> {
    const client = await NbdClient.connect(join(this.poolPath, 'nbd.sock'), name)
    const parts: Buffer[] = []
    for (let block = 0; block < blockCount; block += 64) {
      const count = Math.min(64, blockCount - block)
      parts.push(await client.read(block * BLOCK_BYTES, count * BLOCK_BYTES))
    }
    client.close()
    await this.#unused(name.split('@')[0])
    return Buffer.concat(parts)
  }

  #newName(prefix: string): string {
    this.#nameCount += 1
    return `${prefix}${this.#nameCount}`
  }
}
