/**
 * Volumes, snapshots and clones with power failures in between, as properties that shrink. The
 * model is the plainest one: a Buffer a disk. Commands run one after the other, writes begin and
 * end at any byte. After a power failure the pool must show a state between the last flush and
 * the last command: all commands before some point, of the next one any of its blocks (or, of one
 * that changes names, all or nothing), none of those after it.
 */
import fc from 'fast-check'
import t from 'tap'
import { Prng } from '../../src/base/prng.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import { poolMaker } from './pool-maker.ts'
import { targetResult } from './pool-under-test.ts'
import type { PoolMaker, SimPool } from './pool-under-test.ts'

const BLOCK = 4096
const DISK_BYTES = 12 * BLOCK
const arenaMemory = Buffer.allocUnsafeSlow(8 * 1024 * 1024)

type Command =
  | { kind: 'write'; volume: number; offset: number; length: number; value: number }
  | { kind: 'trim'; volume: number; offset: number; length: number }
  | { kind: 'flush' | 'powerFailure' | 'checkpoint' }
  | { kind: 'snapshot' | 'clone' | 'restore' | 'remove'; volume: number; other: number }

/** `v0` … or `v0@s1` … → bytes. */
type State = Map<string, Buffer>

const volume = fc.nat(2)
const range = {
  volume,
  offset: fc.nat(DISK_BYTES - 1),
  length: fc.oneof(fc.integer({ min: 1, max: 3 * BLOCK }), fc.constant(2 * BLOCK)),
}
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      ...range,
      kind: fc.constant('write' as const),
      value: fc.integer({ min: 1, max: 255 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ ...range, kind: fc.constant('trim' as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('flush' as const, 'powerFailure' as const, 'checkpoint' as const),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      volume,
      other: fc.nat(2),
      kind: fc.constantFrom(
        'snapshot' as const,
        'clone' as const,
        'restore' as const,
        'remove' as const,
      ),
    }),
  },
)

class Subject {
  readonly #maker: PoolMaker
  #io: SimIo
  #pool: SimPool | null = null
  /** States since the last one that is durable, each one command after the one before. */
  states: State[] = [new Map<string, Buffer>()]

  constructor(maker: PoolMaker, seed: number) {
    this.#maker = maker
    this.#io = new SimIo({ seed, arenaMemory })
  }

  async start(): Promise<void> {
    this.#pool = await this.#drive(this.#maker.create(this.#io))
    await this.#drive(this.#pool.create({ name: 'v0', sizeBytes: DISK_BYTES }))
    this.states = [new Map([['v0', Buffer.alloc(DISK_BYTES)]])]
  }

  async run(command: Command): Promise<void> {
    const pool = this.#pool as SimPool
    const state = new Map(this.states.at(-1))
    if (command.kind === 'powerFailure') return this.#fail()
    if (command.kind === 'checkpoint') {
      await this.#drive(pool.checkpoint())
      this.states = [state]
    } else if (command.kind === 'flush') {
      const [name] = state.keys()
      if (name === undefined || name.includes('@')) return
      await this.#request(name, (target, done) => target.flush(done, 0))
      this.states = [state]
    } else if (command.kind === 'write' || command.kind === 'trim') {
      await this.#change(command, state)
    } else if ('other' in command && (await this.#changeNames(command, state))) {
      this.states = [state]
    }
  }

  /** Reads every disk and finds a place for it among the states since the last flush. */
  async verify(isExact: boolean): Promise<void> {
    const found = await this.#readAll()
    const last = this.states.length - 1
    for (let index = last; index >= (isExact ? last : 0); index -= 1) {
      const [before, after] = [
        this.states[isExact ? index : Math.max(0, index - 1)],
        this.states[index],
      ]
      if (!isBetween(before, after, found)) continue
      this.states = [...this.states.slice(0, index), found]
      return
    }
    throw new Error(`no state fits: ${[...found.keys()].join()}`)
  }

  async #fail(): Promise<void> {
    this.#io.crash({ kind: 'power' })
    this.#io = this.#io.reboot()
    this.#pool = await this.#drive(this.#maker.open(this.#io))
    await this.verify(false)
  }

  async #change(
    command: Extract<Command, { kind: 'write' | 'trim' }>,
    state: State,
  ): Promise<void> {
    const name = `v${command.volume}`
    const before = state.get(name)
    if (before === undefined) return
    const { offset } = command
    const length = Math.min(command.length, DISK_BYTES - offset)
    const value = command.kind === 'write' ? command.value : 0
    const { arena } = this.#io
    const at = arena.allocate(length)
    arena.memory.fill(value, at, at + length)
    await this.#request(name, (target, done) => {
      if (command.kind === 'write') target.write(offset, length, at, 0, done, 0)
      else target.trim(offset, length, 0, done, 0)
    })
    arena.free(at, length)
    state.set(name, Buffer.from(before).fill(value, offset, offset + length))
    this.states.push(state)
  }

  /** A command on names; false when there is nothing to do it to. */
  async #changeNames(command: Extract<Command, { other: number }>, state: State): Promise<boolean> {
    const pool = this.#pool as SimPool
    const name = `v${command.volume}`
    const snapshot = `${name}@s${command.other}`
    const other = `v${command.other}`
    const [bytes, snapshotBytes] = [state.get(name), state.get(snapshot)]
    if (command.kind === 'snapshot') {
      if (bytes === undefined || snapshotBytes !== undefined) return false
      await this.#drive(pool.snapshot([snapshot]))
      state.set(snapshot, bytes)
    } else if (command.kind === 'clone') {
      const source = snapshotBytes === undefined ? name : snapshot
      if (bytes === undefined || state.has(other)) return false
      await this.#drive(pool.clone(source, [other]))
      state.set(other, snapshotBytes ?? bytes)
    } else if (command.kind === 'restore') {
      if (snapshotBytes === undefined) return false
      await this.#drive(pool.restore(snapshot))
      state.set(name, snapshotBytes)
    } else {
      const doomed = snapshotBytes === undefined ? name : snapshot
      if (!state.has(doomed)) return false
      await this.#drive(pool.remove({ names: [doomed], recursive: true, dryRun: false }))
      for (const one of [...state.keys()]) {
        if (one === doomed || one.startsWith(`${doomed}@`)) state.delete(one)
      }
    }
    return true
  }

  async #readAll(): Promise<State> {
    const found: State = new Map()
    const { arena } = this.#io
    for (const info of await this.#drive((this.#pool as SimPool).volumes())) {
      for (const name of [info.name, ...info.snapshots.map((one) => one.name)]) {
        const at = arena.allocate(DISK_BYTES)
        await this.#request(name, (target, done) => target.read(0, DISK_BYTES, at, done, 0))
        found.set(name, Buffer.from(arena.memory.subarray(at, at + DISK_BYTES)))
        arena.free(at, DISK_BYTES)
      }
    }
    return found
  }

  async #request(
    name: string,
    start: (
      target: NonNullable<ReturnType<SimPool['openTarget']>>,
      done: Parameters<Parameters<typeof targetResult>[0]>[0],
    ) => void,
  ): Promise<void> {
    const target = (this.#pool as SimPool).openTarget(name, 'guest')
    if (target === null) throw new Error(`${name} cannot be opened`)
    const result = await this.#drive(targetResult((done) => start(target, done)))
    target.close()
    if (result !== 0) throw new Error(`${name}: ${result}`)
  }

  async #drive<T>(outcome: Promise<T>): Promise<T> {
    return (await this.#io.runUntil(outcome)) as T
  }
}

/** Names and snapshots as in `after`, every block as in `before` or in `after`. */
function isBetween(before: State, after: State, found: State): boolean {
  if ([...after.keys()].sort().join() !== [...found.keys()].sort().join()) return false
  for (const [name, bytes] of found) {
    const [old, fresh] = [before.get(name) as Buffer, after.get(name) as Buffer]
    for (let at = 0; at < DISK_BYTES; at += BLOCK) {
      const block = bytes.subarray(at, at + BLOCK)
      if (block.equals(fresh.subarray(at, at + BLOCK))) continue
      if (old === undefined || !block.equals(old.subarray(at, at + BLOCK))) return false
    }
  }
  return true
}

await t.test(
  'any commands and power failures leave a state between flush and last command',
  async () => {
    const maker = await poolMaker(new Prng(1))
    await fc.assert(
      fc.asyncProperty(
        fc.nat(2 ** 31),
        fc.array(command, { maxLength: 40 }),
        async (seed, commands) => {
          const subject = new Subject(maker, seed)
          await subject.start()
          for (const one of commands) await subject.run(one)
          await subject.verify(true)
        },
      ),
      { numRuns: 100, seed: 1 },
    )
  },
)
