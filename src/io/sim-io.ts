/**
 * The simulated world: disk, sockets, clock and entropy from one seed, deterministic to the byte.
 * Nothing happens by itself; a test moves the world on with {@link SimIo.step} or waits for an
 * outcome with {@link SimIo.runUntil}. Every completion comes after a random virtual delay, so
 * operations in flight together finish in any order.
 *
 * After {@link SimIo.crash} this world is dead: nothing it was asked for will ever complete.
 * {@link SimIo.reboot} starts a new one on what the disk kept.
 */
import type { Arena } from './arena.ts'
import { BuddyArena } from './buddy-arena.ts'
import { assert } from '../base/assert.ts'
import { Errno, OperatingError } from '../base/errors.ts'
import { Prng } from '../base/prng.ts'
import type {
  Io,
  IoCompletion,
  IoFile,
  IoFileStat,
  IoListener,
  IoLock,
  IoSocket,
  IoSpace,
  IoVector,
  OpenMode,
  SocketAddress,
  TurnHook,
} from './io.ts'
import type { MessageDevice, MessageOwner } from './messages.ts'
import { SimClock } from './sim-clock.ts'
import { SimDisk } from './sim-disk.ts'
import type { FileNode, SimCrashOptions, SimFault } from './sim-disk.ts'
import { simMessagePair } from './sim-messages.ts'
import type { SimMessagePeer } from './sim-messages.ts'
import { simSocketPair } from './sim-socket.ts'
import type { SimPeer } from './sim-socket.ts'
import { TurnHooks } from './turn-hooks.ts'

export interface SimIoOptions {
  seed: number
  /** Memory of the arena, to be used again from one world to the next; default 8 MiB of its own. */
  arenaMemory?: Buffer
  /** Room on the simulated disk; default 1 TiB. */
  capacityBytes?: number
  /** Chance that a receive gets only a part of what is there; default 0.5. */
  splitChance?: number
  /** The canary: syncs answer 0 and make nothing durable. */
  brokenSync?: boolean
  /** Hears of every write and sync that was carried out, when it was. */
  touched?: (operation: 'write' | 'sync', path: string, offsetBytes: number) => void
  /** Takes a line for every operation; default none. Faults and crashes are kept in any case. */
  trace?: (line: string) => void
}

/** The world has come to rest, or to its time limit, and what was waited for did not happen. */
export class SimStuckError extends Error {
  override readonly name = 'SimStuckError'
}

const ARENA_BYTES = 8 * 1024 * 1024
const WALL_CLOCK_START_MS = 1_700_000_000_000
const RUN_LIMIT_MS = 24 * 3600 * 1000
const RUN_TURN_COUNT_MAX = 200_000
/** What a turn of a real loop takes: were it nothing, who waits by pausing would stop the clock. */
const PAUSE_MS = 0.005
/** Work outside the simulation (a worker thread) is given this much real time before a deadlock. */
const OUTSIDE_GRACE_MS = 250

interface OpenFile extends IoFile {
  readonly path: string
  readonly node: FileNode
  readonly mode: OpenMode
  isOpen: boolean
}

/** Lets every promise that can settle do so: ticks run only once the microtask queue is empty. */
function drainMicrotasks(): Promise<void> {
  return new Promise((resolve) => {
    process.nextTick(resolve)
  })
}

export class SimIo implements Io {
  readonly kind = 'sim'
  readonly arena: Arena
  readonly disk: SimDisk
  readonly clock: SimClock
  /** Faults that struck and crashes, oldest first; shared with the worlds before and after. */
  readonly events: string[]
  #options: SimIoOptions
  #prng: Prng
  readonly #listeners = new Map<string, (socket: IoSocket) => void>()
  readonly #hooks = new TurnHooks()
  #isDead = false
  #inFlightCount = 0
  #slowness = 1
  #lateReadCount = 0
  #lateReadMs = 0
  #portNext = 10000

  /** `before`: another world on the same disk; its arena memory is not taken over. */
  constructor(options: SimIoOptions, before: SimIo | null = null) {
    this.#options = options
    this.arena = new BuddyArena(options.arenaMemory ?? Buffer.allocUnsafeSlow(ARENA_BYTES))
    this.events = before?.events ?? []
    this.#prng = before === null ? new Prng(options.seed) : before.#prng.fork()
    this.clock = new SimClock(before === null ? 0 : before.clock.nowMs + 1000)
    this.disk =
      before?.disk ??
      new SimDisk(this.#prng.fork(), options.capacityBytes ?? 2 ** 40, (line) =>
        this.events.push(line),
      )
  }

  get isDead(): boolean {
    return this.#isDead
  }

  get inFlightCount(): number {
    return this.#inFlightCount
  }

  // Moving the world.

  /** Runs one turn: some completions, then the turn-end hooks. False: there is nothing to do. */
  step(): boolean {
    if (this.#isDead) return false
    const nextMs = this.clock.nextTimeMs()
    if (nextMs === null && this.#hooks.isEmpty) return false
    const hasHooks = !this.#hooks.isEmpty
    // A hook starts a turn at once; otherwise time moves on. A turn gathers what is nearly due.
    const untilMs = (hasHooks ? this.clock.nowMs : (nextMs as number)) + this.#drawTurnMs()
    let isDue = !hasHooks || this.#prng.chance(0.5)
    while (isDue && !this.#isDead) {
      const event = this.clock.tryTake(untilMs)
      if (event === null) break
      event.run()
      isDue = this.#prng.chance(0.9)
    }
    this.#hooks.run(() => !this.#isDead)
    return true
  }

  /**
   * Runs turns until `outcome` settles and returns it. `beforeTurn` is called before each turn
   * (to crash the world, say); when it returns false the wait ends with `undefined`.
   * Throws {@link SimStuckError} when nothing is left to happen.
   */
  async runUntil<T>(outcome: Promise<T>, beforeTurn?: () => boolean): Promise<T | undefined> {
    let isSettled = false
    const settle = (): void => {
      isSettled = true
    }
    outcome.then(settle, settle)
    const limitMs = this.clock.nowMs + RUN_LIMIT_MS
    let idleSinceMs = 0
    let turnCount = 0
    for (;;) {
      await drainMicrotasks()
      if (isSettled) return outcome
      if (beforeTurn !== undefined && !beforeTurn()) return undefined
      if (this.clock.nowMs > limitMs) throw new SimStuckError('a day has passed in vain')
      if (this.step()) {
        idleSinceMs = 0
        turnCount += 1
        if (turnCount > RUN_TURN_COUNT_MAX) throw new SimStuckError('it goes round in circles')
        continue
      }
      idleSinceMs ||= performance.now()
      if (performance.now() - idleSinceMs > OUTSIDE_GRACE_MS) {
        throw new SimStuckError('nothing is left to happen and the outcome is still open')
      }
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }

  /** Lets `durationMs` of virtual time pass. */
  async runFor(durationMs: number): Promise<void> {
    await this.runUntil(new Promise<void>((resolve) => this.setTimer(durationMs, resolve)))
  }

  /** Ends this world; see the head of the file. Idempotent. */
  crash(options: SimCrashOptions): void {
    if (this.#isDead) return
    this.#isDead = true
    this.disk.crash(options)
  }

  /** A new world on the surviving disk. Crash first. */
  reboot(changes: Partial<SimIoOptions> = {}): SimIo {
    assert(this.#isDead, 'a world is rebooted after it ended')
    return new SimIo({ ...this.#options, arenaMemory: this.arena.memory, ...changes }, this)
  }

  /** What a second process on the same disk has: another arena, clock and loop of its own. */
  another(): SimIo {
    const { arenaMemory: _, ...options } = this.#options
    return new SimIo(options, this)
  }

  addFault(fault: SimFault): void {
    this.disk.addFault(fault)
  }

  /** From now on, also after reboots, syncs answer 0 and make nothing durable. */
  breakSyncs(): void {
    this.#options = { ...this.#options, brokenSync: true }
  }

  /** Everything drawn from now on depends on `seed` alone: delays, losses, splits. */
  reseed(seed: number): void {
    this.#prng = new Prng(seed)
    this.disk.reseed(this.#prng.fork())
  }

  /** Multiplies every delay of the disk from now on. */
  setSlowness(factor: number): void {
    assert(factor > 0, 'slowness is a factor')
    this.#slowness = factor
    this.events.push(`the disk is ${factor} times slower`)
  }

  /** The next `count` reads of files come so much later than they would. */
  delayReads(count: number, delayMs: number): void {
    this.#lateReadCount = count
    this.#lateReadMs = delayMs
  }

  /** Connects a test's client to a listener; rejects when nobody listens there. */
  connect(address: SocketAddress): SimPeer {
    const accept = this.#listeners.get(addressKey(address))
    if (accept === undefined) throw this.#refusal(Errno.ENOENT, addressKey(address))
    const [socket, peer] = simSocketPair(
      {
        arena: this.arena,
        below: (limit) => this.#prng.below(limit),
        splitChance: this.#options.splitChance ?? 0.5,
        later: (action) => this.#schedule(0.05, action),
      },
      address.kind === 'unix' ? 'unix' : `127.0.0.1:${this.#portNext++}`,
    )
    this.#schedule(0.05, () => accept(socket))
    return peer
  }

  // Hot path: files.

  read(
    file: IoFile,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void {
    const { node, path } = this.#mustOpen(file)
    this.#inFlightCount += 1
    const lateMs = this.#lateReadCount > 0 ? this.#lateReadMs : 0
    if (this.#lateReadCount > 0) this.#lateReadCount -= 1
    const carryOut = (): void => {
      this.#inFlightCount -= 1
      const errno = this.disk.strike('read-error', path, offsetBytes, lengthBytes)
      const target = this.arena.memory.subarray(arenaOffset, arenaOffset + lengthBytes)
      const result = errno === 0 ? node.data.read(offsetBytes, target) : -errno
      if (node.data.hasDamage(offsetBytes, lengthBytes)) this.disk.noteDamagedRead()
      this.#trace('read', path, offsetBytes, lengthBytes, result)
      completion.ioComplete(tag, result)
    }
    this.#schedule(0.2, carryOut, lateMs)
  }

  writeSync(file: IoFile, offsetBytes: number, vector: IoVector): number {
    // A dead world's microtasks may still run; what they do reaches no disk.
    if (this.#isDead) return -Errno.EIO
    const { node, path, mode } = this.#mustOpen(file)
    if (mode === 'read') return -Errno.EBADF
    let done = 0
    for (let index = 0; index < vector.count; index += 1) {
      const from = vector.pairs[2 * index]
      const bytes = this.arena.memory.subarray(from, from + vector.pairs[2 * index + 1])
      const result = this.disk.write(node, path, offsetBytes + done, bytes)
      if (result < 0) {
        this.#trace('write', path, offsetBytes, done, result)
        return result
      }
      done += result
    }
    this.#trace('write', path, offsetBytes, done, done)
    this.#options.touched?.('write', path, offsetBytes)
    return done
  }

  sync(file: IoFile, completion: IoCompletion, tag: number): void {
    const { node, path } = this.#mustOpen(file)
    const sequence = node.data.sequenceLast
    this.#inFlightCount += 1
    this.#schedule(3, () => {
      this.#inFlightCount -= 1
      const isLie = this.#options.brokenSync === true
      const result = isLie ? 0 : this.disk.sync(node, path, sequence)
      this.#trace('sync', path, sequence, 0, result)
      this.#options.touched?.('sync', path, 0)
      completion.ioComplete(tag, result)
    })
  }

  atTurnEnd(hook: TurnHook): void {
    this.#hooks.add(hook)
  }

  // Control path: files.

  open(path: string, mode: OpenMode): Promise<IoFile> {
    return this.#control('open', path, () => {
      const file: OpenFile = { path, node: this.disk.openFile(path, mode), mode, isOpen: true }
      return file
    })
  }

  close(file: IoFile): Promise<void> {
    const open = this.#mustOpen(file)
    return this.#control('close', file.path, () => {
      open.isOpen = false
    })
  }

  stat(file: IoFile): Promise<IoFileStat> {
    const { data } = this.#mustOpen(file).node
    return this.#control('stat', file.path, () => ({
      sizeBytes: data.sizeBytes,
      allocatedBytes: data.allocatedBytes,
    }))
  }

  truncate(file: IoFile, sizeBytes: number): Promise<void> {
    const { data } = this.#mustOpen(file).node
    return this.#control('truncate', file.path, () => data.truncate(sizeBytes))
  }

  punch(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void> {
    const { data } = this.#mustOpen(file).node
    return this.#control('punch', `${file.path} ${offsetBytes}+${lengthBytes}`, () =>
      data.punch(offsetBytes, lengthBytes),
    )
  }

  allocate(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void> {
    const { data } = this.#mustOpen(file).node
    return this.#control('allocate', file.path, () => {
      if (!data.allocate(offsetBytes, lengthBytes)) throw this.#refusal(Errno.ENOSPC, file.path)
    })
  }

  list(path: string): Promise<string[]> {
    return this.#control('list', path, () => this.disk.list(path))
  }

  createDirectory(path: string): Promise<void> {
    return this.#control('createDirectory', path, () => this.disk.createDirectory(path))
  }

  rename(from: string, to: string): Promise<void> {
    return this.#control('rename', `${from} ${to}`, () => this.disk.rename(from, to))
  }

  remove(path: string): Promise<void> {
    return this.#control('remove', path, () => this.disk.remove(path))
  }

  syncDirectory(path: string): Promise<void> {
    return this.#control('syncDirectory', path, () => {
      const errno = this.disk.strike('sync-error', path)
      if (errno !== 0) throw this.#refusal(errno, path)
      if (this.#options.brokenSync === true) this.disk.mustExist(path)
      else this.disk.syncDirectory(path)
    })
  }

  space(path: string): Promise<IoSpace> {
    return this.#control('space', path, () => ({
      totalBytes: this.disk.capacityBytes,
      freeBytes: Math.max(0, this.disk.capacityBytes - this.disk.usedBytes),
    }))
  }

  lock(path: string, holder: string): Promise<IoLock> {
    return this.#control('lock', path, () => {
      const heldBy = this.disk.tryLock(path, holder)
      if (heldBy !== null) {
        throw new OperatingError('busy', `${path} is locked by ${heldBy}`, {
          details: { holder: heldBy },
          hint: 'end the holder first',
        })
      }
      return {
        release: () => this.#control('unlock', path, () => this.disk.unlock(path)),
      }
    })
  }

  // Sockets.

  listen(address: SocketAddress, accept: (socket: IoSocket) => void): Promise<IoListener> {
    return this.#control('listen', addressKey(address), () => {
      const isAnyPort = address.kind === 'tcp' && address.port === 0
      const bound = isAnyPort ? { ...address, port: this.#portNext++ } : address
      const key = addressKey(bound)
      if (this.#listeners.has(key)) {
        throw new OperatingError('busy', `somebody listens at ${key}`, { errno: Errno.EBUSY })
      }
      this.#listeners.set(key, accept)
      return {
        address: bound,
        close: () =>
          this.#control('unlisten', key, () => {
            this.#listeners.delete(key)
          }),
      }
    })
  }

  // Time and entropy.

  openMessages(): MessageDevice | null {
    return null
  }

  /** A device of messages, and the end that a test's kernel holds. */
  openKernel(owner: MessageOwner): [MessageDevice, SimMessagePeer] {
    const later = (action: () => void): void => this.#schedule(0.05, action)
    return simMessagePair({ arena: this.arena, later }, owner)
  }

  nowMs(): number {
    return this.clock.nowMs
  }

  wallClockMs(): number {
    return WALL_CLOCK_START_MS + Math.floor(this.clock.nowMs)
  }

  setTimer(delayMs: number, callback: () => void): () => void {
    const event = this.clock.schedule(delayMs, callback)
    return () => {
      event.canceled = true
    }
  }

  pause(): Promise<void> {
    return new Promise((resolve) => this.setTimer(PAUSE_MS, resolve))
  }

  randomBytes(lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes)
    this.#prng.fill(bytes)
    return bytes
  }

  shutdown(): Promise<void> {
    assert(this.#isDead || this.#inFlightCount === 0, 'nothing is in flight at shutdown')
    this.#isDead = true
    return Promise.resolve()
  }

  /** Now and then a turn gathers several milliseconds, as a loop does that was held up. */
  #drawTurnMs(): number {
    return this.#prng.chance(0.1) ? 5 * this.#prng.nextFloat() : 0.05 * this.#prng.nextFloat()
  }

  #schedule(scaleMs: number, action: () => void, lateMs = 0): void {
    const delayMs = -Math.log(1 - this.#prng.nextFloat()) * scaleMs * this.#slowness
    this.clock.schedule(delayMs + lateMs, action)
  }

  /** Carries out `action` in a later turn and settles with what it returns or throws. */
  #control<T>(operation: string, subject: string, action: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#schedule(0.3, () => {
        try {
          const result = action()
          this.#trace(operation, subject, 0, 0, 0)
          resolve(result)
        } catch (error) {
          this.#trace(operation, subject, 0, 0, -1)
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      })
    })
  }

  #mustOpen(file: IoFile): OpenFile {
    const open = file as OpenFile
    assert(open.node !== undefined && open.isOpen, `an open file of this world: ${file.path}`)
    return open
  }

  #refusal(errno: number, subject: string): OperatingError {
    return new OperatingError(errno === Errno.ENOSPC ? 'no-space' : 'io', `refused: ${subject}`, {
      errno,
      hint: 'this is a simulated world; see its events',
    })
  }

  #trace(
    operation: string,
    subject: string,
    offsetBytes: number,
    lengthBytes: number,
    result: number,
  ): void {
    const { trace } = this.#options
    if (trace === undefined) return
    const range = `${offsetBytes}+${lengthBytes}`
    trace(`${this.clock.nowMs.toFixed(3)} ${operation} ${subject} ${range} = ${result}`)
  }
}

function addressKey(address: SocketAddress): string {
  return address.kind === 'unix' ? address.path : `${address.host}:${address.port}`
}
