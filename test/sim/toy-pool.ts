/**
 * A toy that keeps a pool's promises in the plainest way: everything in memory, and for every
 * flush and catalogue operation all of it written to a new file that replaces the old. It proves
 * the harness: a sound toy must pass, and a toy with a planted mistake must be caught.
 */
import { deserialize, serialize } from 'node:v8'
import { Errno, OperatingError } from '../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { WRITE_FUA } from '../../src/export/target.ts'
import type { ExportTarget, TargetCompletion } from '../../src/export/target.ts'
import type { Io } from '../../src/io/io.ts'
import { ioResult } from '../../src/io/io.ts'
import type { VolumeInfo } from '../../src/pool/types.ts'
import type { PoolMaker, SimPool } from './pool-under-test.ts'

export type ToyMistake =
  'none' | 'flush-does-nothing' | 'no-folder-sync' | 'shared-snapshot' | 'torn'

interface ToyDisk {
  sizeBytes: number
  blocks: Map<number, Uint8Array>
  holds: string[]
  snapshots: Map<string, ToyDisk>
}

type ToyState = Map<string, ToyDisk>

function copyOf(disk: ToyDisk): ToyDisk {
  const { sizeBytes } = disk
  return { sizeBytes, blocks: new Map(disk.blocks), holds: [], snapshots: new Map() }
}

function refuse(code: 'exists' | 'busy', name: string): OperatingError {
  return new OperatingError(code, name)
}

class ToyTarget implements ExportTarget {
  readonly name: string
  readonly readOnly = false
  readonly blockSizes = { minimum: 1, preferred: 4096, maximum: 1 << 20 }
  readonly #pool: ToyPool
  readonly #disk: ToyDisk

  constructor(pool: ToyPool, name: string, disk: ToyDisk) {
    this.#pool = pool
    this.name = name
    this.#disk = disk
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes
  }

  read(
    offset: number,
    length: number,
    at: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#pool.later(() => {
      this.#each(offset, length, (block, from, to, done) => {
        const bytes = this.#disk.blocks.get(block) ?? new Uint8Array(BLOCK_SIZE_BYTES)
        this.#pool.io.arena.memory.set(bytes.subarray(from, to), at + done)
      })
      completion.targetComplete(tag, 0)
    })
  }

  write(
    offset: number,
    length: number,
    at: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#pool.later(() => {
      const memory = this.#pool.io.arena.memory
      this.#each(offset, length, (block, from, to, done) => {
        const bytes = Uint8Array.from(
          this.#disk.blocks.get(block) ?? new Uint8Array(BLOCK_SIZE_BYTES),
        )
        bytes.set(memory.subarray(at + done, at + done + to - from), from)
        this.#disk.blocks.set(block, bytes)
      })
      this.#pool.finish(flags, completion, tag)
    })
  }

  zero(
    offset: number,
    length: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#pool.later(() => {
      for (const [block, before] of this.#disk.blocks) {
        const start = Math.max(0, offset - block * BLOCK_SIZE_BYTES)
        const end = Math.min(BLOCK_SIZE_BYTES, offset + length - block * BLOCK_SIZE_BYTES)
        if (start < end) this.#disk.blocks.set(block, Uint8Array.from(before).fill(0, start, end))
      }
      this.#pool.finish(flags, completion, tag)
    })
  }

  trim(
    offset: number,
    length: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.zero(offset, length, flags, completion, tag)
  }

  flush(completion: TargetCompletion, tag: number): void {
    this.#pool.later(() => this.#pool.finish(WRITE_FUA, completion, tag))
  }

  extents(...[, , , , completion, tag]: Parameters<ExportTarget['extents']>): void {
    this.#pool.later(() => completion.targetComplete(tag, -Errno.EOPNOTSUPP))
  }

  snapshots(): readonly string[] {
    return [...this.#disk.snapshots.keys()]
  }

  close(): void {
    this.#pool.later(() => undefined)
  }

  #each(
    offset: number,
    length: number,
    visit: (block: number, from: number, to: number, done: number) => void,
  ): void {
    for (let done = 0; done < length;) {
      const from = (offset + done) % BLOCK_SIZE_BYTES
      const to = Math.min(BLOCK_SIZE_BYTES, from + length - done)
      visit((offset + done - from) / BLOCK_SIZE_BYTES, from, to, done)
      done += to - from
    }
  }
}

class ToyPool {
  readonly io: Io
  readonly #mistake: ToyMistake
  #state: ToyState
  #saving: Promise<void> = Promise.resolve()
  #saveCount = 0

  constructor(io: Io, state: ToyState, mistake: ToyMistake) {
    this.io = io
    this.#state = state
    this.#mistake = mistake
  }

  later(action: () => void): void {
    this.io.setTimer(0.1, action)
  }

  finish(flags: number, completion: TargetCompletion, tag: number): void {
    if ((flags & WRITE_FUA) === 0 || this.#mistake === 'flush-does-nothing') {
      completion.targetComplete(tag, 0)
      return
    }
    const answer = (result: number): void =>
      this.later(() => completion.targetComplete(tag, result))
    this.save().then(
      () => answer(0),
      () => answer(-Errno.EIO),
    )
  }

  save(): Promise<void> {
    this.#saving = this.#saving.then(() => this.#saveNow())
    return this.#saving
  }

  async #saveNow(): Promise<void> {
    const { io } = this
    this.#saveCount += 1
    const bytes = serialize(this.#state)
    const file = await io.open(`/pool/new${this.#saveCount}`, 'create')
    const at = io.arena.allocate(65536)
    for (let done = 0; done < bytes.length; done += 65536) {
      const part = bytes.subarray(done, done + 65536)
      io.arena.memory.set(part, at)
      const result = io.writeSync(file, done, { pairs: Uint32Array.of(at, part.length), count: 1 })
      if (result < 0) throw new OperatingError('io', 'write')
    }
    io.arena.free(at, 65536)
    if (this.#mistake !== 'torn') await ioResult((done) => io.sync(file, done, 0))
    await io.close(file)
    await io.rename(`/pool/new${this.#saveCount}`, '/pool/state')
    if (this.#mistake !== 'no-folder-sync') await io.syncDirectory('/pool')
  }

  openTarget(name: string): ExportTarget | null {
    const disk = this.#find(name)
    return disk === undefined ? null : new ToyTarget(this, name, disk)
  }

  async volumes(): Promise<VolumeInfo[]> {
    await this.#saving
    return [...this.#state].map(([name, disk]) => ({
      ...describe(name, disk),
      id: 1,
      origin: null,
      labels: {},
      clients: [],
      snapshots: [...disk.snapshots].map(([snapshot, one]) => ({
        ...describe(`${name}@${snapshot}`, one),
        volume: name,
        snapshot,
      })),
    }))
  }

  /** Applies `change` and makes it durable. */
  async apply(change: (state: ToyState) => void): Promise<void> {
    change(this.#state)
    await this.save()
  }

  snapshotOf(disk: ToyDisk): ToyDisk {
    return this.#mistake === 'shared-snapshot' ? { ...disk, snapshots: new Map() } : copyOf(disk)
  }

  find(name: string): ToyDisk {
    return this.#find(name) as ToyDisk
  }

  #find(name: string): ToyDisk | undefined {
    const [volume, snapshot] = name.split('@')
    const disk = this.#state.get(volume)
    return snapshot === undefined ? disk : disk?.snapshots.get(snapshot)
  }
}

function describe(
  name: string,
  { sizeBytes, holds }: ToyDisk,
): Pick<VolumeInfo, 'name' | 'sizeBytes' | 'mappedBytes' | 'createdMs' | 'modifiedMs' | 'holds'> {
  return { name, sizeBytes, mappedBytes: 0, createdMs: 0, modifiedMs: 0, holds }
}

function emptyDisk(sizeBytes: number): ToyDisk {
  return { sizeBytes, blocks: new Map(), holds: [], snapshots: new Map() }
}

/** The operations that the harness asks for; the rest of a pool's is out of a toy's reach. */
function operationsOf(toy: ToyPool): Partial<SimPool> {
  const free = (state: ToyState, names: string[]): void => {
    for (const name of names) if (state.has(name)) throw refuse('exists', name)
  }
  return {
    openTarget: (name) => toy.openTarget(name),
    volumes: () => toy.volumes(),
    checkpoint: () => toy.save(),
    close: () => toy.save(),
    create: async ({ name, sizeBytes }) => {
      await toy.apply((state) => {
        free(state, [name])
        state.set(name, emptyDisk(sizeBytes))
      })
      return (await toy.volumes())[0]
    },
    snapshot: async (names) => {
      await toy.apply(() => {
        const pairs = names.map((name) => name.split('@'))
        for (const [volume, snapshot] of pairs) {
          if (toy.find(volume).snapshots.has(snapshot)) throw refuse('exists', snapshot)
        }
        for (const [volume, snapshot] of pairs) {
          toy.find(volume).snapshots.set(snapshot, toy.snapshotOf(toy.find(volume)))
        }
      })
      return []
    },
    clone: async (source, names) => {
      await toy.apply((state) => {
        free(state, names)
        for (const name of names) state.set(name, copyOf(toy.find(source)))
      })
      return []
    },
  }
}

/** The toy's makers, for kinds of steps `create`, `snapshot`, `clone` and those on data. */
export function toyMaker(mistake: ToyMistake): PoolMaker {
  const make = (io: Io, state: ToyState): SimPool =>
    operationsOf(new ToyPool(io, state, mistake)) as SimPool
  return {
    damage: [],
    create: async (io) => {
      await io.createDirectory('/pool')
      await io.syncDirectory('/')
      const toy = new ToyPool(io, new Map(), 'none')
      await toy.save()
      return make(io, new Map())
    },
    open: async (io) => {
      for (const name of await io.list('/pool')) {
        if (name !== 'state') await io.remove(`/pool/${name}`)
      }
      const file = await io.open('/pool/state', 'read')
      const { sizeBytes } = await io.stat(file)
      const bytes = Buffer.alloc(sizeBytes)
      const at = io.arena.allocate(65536)
      for (let done = 0; done < sizeBytes; done += 65536) {
        const count = await ioResult((completion) => io.read(file, done, at, 65536, completion, 0))
        io.arena.memory.copy(bytes, done, at, at + count)
      }
      io.arena.free(at, 65536)
      return make(io, deserialize(bytes) as ToyState)
    },
    check: () => Promise.resolve([]),
  }
}
