/**
 * A client of the soak, in a process of its own: keeps a disk under load and knows what it must
 * hold. Told what to do by its parent, one request at a time.
 */
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { Prng } from '../../src/base/prng.ts'
import { NbdClient } from '../../test/support/nbd-client.ts'
import { BLOCK_BYTES, BlockModel } from './block-model.ts'
import type { Promised } from './block-model.ts'

/** Where a disk is to be had. */
export type Place =
  { kind: 'nbd'; socketPath: string; name: string } | { kind: 'file'; path: string }

export type ClientRequest =
  | { verb: 'begin'; disk: number; blockCount: number; promised: Promised; seed: number }
  | { verb: 'open'; place: Place }
  /** Ends the load; resolves when nothing is in flight and everything is flushed. */
  | { verb: 'pause' }
  | { verb: 'run' }
  /** Lets go of the disk, in whatever state. */
  | { verb: 'close' }
  /** Reads every block. */
  | { verb: 'verify' }
  /** Remembers what the disk holds now under a name. */
  | { verb: 'keep'; name: string }
  | { verb: 'revert'; name: string }
  | { verb: 'forget'; name: string }
  /** Reads another disk, which must hold what was kept. */
  | { verb: 'compare'; name: string; place: Place }
  | { verb: 'count' }

const QUEUE_DEPTH = 4
const RUN_BLOCK_COUNT_MAX = 16
const PAUSE_MS_MAX = 60
const READ_BLOCK_COUNT = 128

interface Disk {
  read(offsetBytes: number, lengthBytes: number): Promise<Buffer>
  write(offsetBytes: number, bytes: Buffer): Promise<void>
  flush(): Promise<void>
  close(): Promise<void>
}

async function openDisk(place: Place): Promise<Disk> {
  if (place.kind === 'file') return new FileDisk(await open(place.path, 'r+'))
  const client = await NbdClient.connect(place.socketPath, place.name)
  return {
    read: (offsetBytes, lengthBytes) => client.read(offsetBytes, lengthBytes),
    write: (offsetBytes, bytes) => client.write(offsetBytes, bytes),
    flush: () => client.flush(),
    close: () => Promise.resolve(client.close()),
  }
}

class FileDisk implements Disk {
  readonly #file: FileHandle

  constructor(file: FileHandle) {
    this.#file = file
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    const bytes = Buffer.alloc(lengthBytes)
    const { bytesRead } = await this.#file.read(bytes, 0, lengthBytes, offsetBytes)
    if (bytesRead !== lengthBytes) throw new Error(`read ${bytesRead} of ${lengthBytes} bytes`)
    return bytes
  }

  async write(offsetBytes: number, bytes: Buffer): Promise<void> {
    await this.#file.write(bytes, 0, bytes.length, offsetBytes)
  }

  flush(): Promise<void> {
    return this.#file.sync()
  }

  /** What it cannot give back any more is lost with its server. */
  close(): Promise<void> {
    return this.#file.close().catch(() => undefined)
  }
}

class Client {
  #model: BlockModel = new BlockModel(0, 0, 'answered')
  #random: Prng = new Prng(0)
  #disk: Disk | null = null
  #isRunning = false
  #workers: Promise<unknown> = Promise.resolve()
  readonly #kept: Map<string, Uint32Array> = new Map()

  async answer(request: ClientRequest): Promise<unknown> {
    if (request.verb === 'begin') {
      this.#model = new BlockModel(request.disk, request.blockCount, request.promised)
      this.#random = new Prng(request.seed)
    } else if (request.verb === 'open') {
      this.#disk = await openDisk(request.place)
    } else if (request.verb === 'run') {
      this.#run()
    } else if (request.verb === 'pause') {
      await this.#pause()
    } else if (request.verb === 'close') {
      await this.#close()
    } else if (request.verb === 'verify') {
      await this.#readAll(this.#open(), (first, bytes) => this.#model.verify(first, bytes))
    } else if (request.verb === 'count') {
      return this.#model.writeCount
    } else {
      await this.#answerKept(request)
    }
    return null
  }

  async #answerKept(
    request: Extract<ClientRequest, { verb: 'keep' | 'revert' | 'forget' | 'compare' }>,
  ): Promise<void> {
    const { verb, name } = request
    if (verb === 'keep') this.#kept.set(name, this.#model.contents())
    else if (verb === 'forget') this.#kept.delete(name)
    else if (verb === 'revert') this.#model.setContents(this.#must(name))
    else await this.#compare(this.#must(name), request.place)
  }

  async #compare(kept: Uint32Array, place: Place): Promise<void> {
    const disk = await openDisk(place)
    try {
      await this.#readAll(disk, (first, bytes) => {
        for (let i = 0; i * BLOCK_BYTES < bytes.length; i += 1) {
          const block = bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES)
          const stamp = this.#model.stampOf(first + i, block)
          if (stamp === kept[first + i]) continue
          throw new Error(`block ${first + i} holds ${stamp ?? 'rubbish'}, not ${kept[first + i]}`)
        }
      })
    } finally {
      await disk.close()
    }
  }

  #run(): void {
    this.#isRunning = true
    this.#workers = Promise.allSettled(Array.from({ length: QUEUE_DEPTH }, () => this.#work()))
  }

  async #pause(): Promise<void> {
    this.#isRunning = false
    await this.#workers
    const answered = this.#model.beginFlush()
    await this.#open().flush()
    answered()
  }

  async #close(): Promise<void> {
    this.#isRunning = false
    await this.#disk?.close()
    await this.#workers
    this.#disk = null
  }

  /** Until it is told to stop, or the disk fails. */
  async #work(): Promise<void> {
    while (this.#isRunning) {
      await delay(this.#random.below(PAUSE_MS_MAX))
      const first = this.#random.below(this.#model.blockCount)
      const count = this.#model.free(first, this.#random.between(1, RUN_BLOCK_COUNT_MAX))
      if (count === 0 || !this.#isRunning) continue
      const { bytes, answered } = this.#model.begin(first, count)
      await this.#open().write(first * BLOCK_BYTES, bytes)
      answered()
      if (this.#random.below(20) !== 0) continue
      const flushed = this.#model.beginFlush()
      await this.#open().flush()
      flushed()
    }
  }

  async #readAll(disk: Disk, see: (first: number, bytes: Buffer) => void): Promise<void> {
    for (let first = 0; first < this.#model.blockCount; first += READ_BLOCK_COUNT) {
      const count = Math.min(READ_BLOCK_COUNT, this.#model.blockCount - first)
      see(first, await disk.read(first * BLOCK_BYTES, count * BLOCK_BYTES))
    }
  }

  #open(): Disk {
    if (this.#disk === null) throw new Error('the disk is open')
    return this.#disk
  }

  #must(name: string): Uint32Array {
    const kept = this.#kept.get(name)
    if (kept === undefined) throw new Error(`nothing is kept as ${name}`)
    return kept
  }
}

const client = new Client()
process.on('message', ({ id, request }: { id: number; request: ClientRequest }) => {
  client.answer(request).then(
    (value) => process.send?.({ id, value }),
    (error: unknown) => process.send?.({ id, error: (error as Error).message }),
  )
})
process.on('disconnect', () => process.exit(0))
