/** A pool in a simulated world, for tests that look at one property at a time. */
import type { Checksum } from '../../../src/base/checksum.ts'
import { MIB } from '../../../src/base/units.ts'
import type { ExportTarget, TargetCompletion } from '../../../src/export/target.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import type { SimIoOptions } from '../../../src/io/sim-io.ts'
import { Pool } from '../../../src/pool/pool.ts'
import type { OpenPoolOptions } from '../../../src/pool/pool.ts'

export const POOL = '/pool'
export const BLOCK = 4096

/** The value that all bytes of an answer have, or 'mixed'; the errno of a read that failed. */
export function fillOf(answer: Uint8Array | number): number | string {
  if (typeof answer === 'number') return answer
  return Buffer.alloc(answer.length, answer[0]).equals(answer) ? answer[0] : 'mixed'
}

export class SimWorld {
  io: SimIo
  readonly checksum: Checksum
  /** Damage that reads met: `segment:slot fact`. */
  readonly damage: string[] = []
  #pool: Pool | null = null

  private constructor(io: SimIo, checksum: Checksum) {
    this.io = io
    this.checksum = checksum
  }

  static async create(options: SimIoOptions, capacityBytes = 0): Promise<SimWorld> {
    const world = new SimWorld(new SimIo(options), await openChecksum())
    await world.run(Pool.create(world.io, world.checksum, POOL, { capacityBytes }))
    await world.open()
    return world
  }

  /** A world without a pool. */
  static async empty(options: SimIoOptions): Promise<SimWorld> {
    return new SimWorld(new SimIo(options), await openChecksum())
  }

  get pool(): Pool {
    if (this.#pool === null) throw new Error('the pool is not open')
    return this.#pool
  }

  /** Pumps the world until `outcome` settles. */
  async run<T>(outcome: Promise<T>): Promise<T> {
    return (await this.io.runUntil(outcome)) as T
  }

  async open(options: OpenPoolOptions = {}): Promise<void> {
    const onDamage = (segment: number, slot: number, fact: string): void => {
      this.damage.push(`${segment}:${slot} ${fact}`)
    }
    const all = { onDamage, ...options }
    this.#pool = await this.run(Pool.open(this.io, this.checksum, POOL, all))
  }

  async close(): Promise<void> {
    await this.run(this.pool.close())
    this.#pool = null
  }

  async reopen(): Promise<void> {
    await this.close()
    await this.open()
  }

  /** Power goes, or only the process; the pool is opened again on what is left. */
  async crash(kind: 'power' | 'process' = 'power'): Promise<void> {
    this.io.crash({ kind })
    this.io = this.io.reboot()
    await this.open()
  }

  /** A volume of one MiB, of which an import has written the beginning. */
  async importVolume(name: string, bytes: Uint8Array): Promise<void> {
    const bulk = await this.run(this.pool.beginImport({ name, sizeBytes: MIB }))
    await this.run(bulk.write(0, bytes))
    await this.run(bulk.commit())
  }

  disk(name: string): SimClient {
    const target = this.pool.openTarget(name, 'a test')
    if (target === null) throw new Error(`no disk ${name}`)
    return new SimClient(this, target)
  }
}

/** One client of a disk; every call is answered before the next. */
export class SimClient {
  readonly target: ExportTarget
  readonly #world: SimWorld

  constructor(world: SimWorld, target: ExportTarget) {
    this.#world = world
    this.target = target
  }

  async #result(start: (completion: TargetCompletion) => void): Promise<number> {
    return this.#world.run(
      new Promise<number>((resolve) => {
        start({ targetComplete: (_tag, result) => resolve(result) })
      }),
    )
  }

  async write(offsetBytes: number, bytes: Uint8Array, flags = 0): Promise<number> {
    const { arena } = this.#world.io
    const at = arena.allocate(bytes.length)
    arena.memory.set(bytes, at)
    const result = await this.#result((completion) => {
      this.target.write(offsetBytes, bytes.length, at, flags, completion, 0)
    })
    arena.free(at, bytes.length)
    return result
  }

  /** A pattern of one byte value. */
  fill(offsetBytes: number, lengthBytes: number, value: number): Promise<number> {
    return this.write(offsetBytes, new Uint8Array(lengthBytes).fill(value))
  }

  /** The bytes, or a negative errno. */
  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array | number> {
    const { arena } = this.#world.io
    const at = arena.allocate(lengthBytes)
    arena.memory.fill(0xee, at, at + lengthBytes)
    const result = await this.#result((completion) => {
      this.target.read(offsetBytes, lengthBytes, at, completion, 0)
    })
    const bytes = new Uint8Array(arena.memory.subarray(at, at + lengthBytes))
    arena.free(at, lengthBytes)
    return result < 0 ? result : bytes
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<number> {
    return this.#result((completion) => {
      this.target.trim(offsetBytes, lengthBytes, 0, completion, 0)
    })
  }

  zero(offsetBytes: number, lengthBytes: number, flags = 0): Promise<number> {
    return this.#result((completion) => {
      this.target.zero(offsetBytes, lengthBytes, flags, completion, 0)
    })
  }

  flush(): Promise<number> {
    return this.#result((completion) => {
      this.target.flush(completion, 0)
    })
  }

  /** Extents of a context as [length, flags] pairs. */
  async extents(
    offsetBytes: number,
    lengthBytes: number,
    snapshot: string | null = null,
  ): Promise<[number, number][]> {
    const out = { lengths: new Float64Array(64), flags: new Uint32Array(64), count: 0 }
    await this.#result((completion) => {
      const context =
        snapshot === null
          ? ({ kind: 'allocation' } as const)
          : ({ kind: 'changed-since', snapshot } as const)
      this.target.extents(offsetBytes, lengthBytes, context, out, completion, 0)
    })
    const pairs: [number, number][] = []
    for (let i = 0; i < out.count; i += 1) pairs.push([out.lengths[i], out.flags[i]])
    return pairs
  }

  close(): void {
    this.target.close()
  }
}
