/**
 * The loop: take an input that led somewhere new, change it, run it, and keep it if it, too, led
 * somewhere new. Deterministic by its seed, but for what takes too long or too much memory.
 */
import { getHeapStatistics } from 'node:v8'
import { assert } from '../../src/base/assert.ts'
import { Prng } from '../../src/base/prng.ts'
import type { EdgeMap } from './edges.ts'
import { Mutator } from './mutator.ts'
import type { FuzzTarget } from './target.ts'
import { isAnswer } from './target.ts'

/**
 * What one execution may take of the processor (a machine that is busy with other things takes
 * longer), and of memory. The slowest target, a whole pool, reads some hundred MiB of holes.
 */
export const EXECUTION_MS_MAX = 5000
export const GROWTH_BYTES_MAX: number = 64 * 1024 * 1024

const CORPUS_COUNT_MAX = 4000
const REPAIR_CHANCE = 0.85
/** Of those kept last, this share is chosen as often as all others together. */
const FRESH_SHARE = 0.2
const CONFIRMATION_COUNT = 2
const SHRINK_EXECUTION_COUNT_MAX = 400

export interface Finding {
  target: string
  /** Error name, message without numbers, and the function it came from. */
  key: string
  stack: string
  input: Uint8Array
}

/** Told of each input before it is run, for who watches over runs that never end. */
export type BeforeRun = (input: Uint8Array) => void

export class Fuzzer {
  readonly #target: FuzzTarget
  readonly #edges: EdgeMap
  readonly #prng: Prng
  readonly #mutator: Mutator
  readonly #beforeRun: BeforeRun
  readonly #corpus: Uint8Array[] = []
  readonly #findings = new Map<string, Finding>()
  #executionCount = 0
  #growthBytesMax = 0
  #failFromOutside: (error: Error) => void = () => undefined

  constructor(
    target: FuzzTarget,
    seed: number,
    edges: EdgeMap,
    beforeRun: BeforeRun = () => undefined,
  ) {
    this.#target = target
    this.#edges = edges
    this.#prng = new Prng(seed)
    this.#mutator = new Mutator(this.#prng.fork(), target.sizeBytesMax, edges.literals)
    this.#beforeRun = beforeRun
  }

  get executionCount(): number {
    return this.#executionCount
  }

  /** Most that one execution took of the heap and outside it, garbage included. */
  get growthBytesMax(): number {
    return this.#growthBytesMax
  }

  get corpus(): readonly Uint8Array[] {
    return this.#corpus
  }

  get findings(): Finding[] {
    return [...this.#findings.values()]
  }

  /** What went wrong outside of any execution. */
  report(error: Error): void {
    const key = keyOf(error)
    const found = { target: this.#target.name, key, stack: error.stack ?? '' }
    this.#findings.set(key, { ...found, input: new Uint8Array(0) })
  }

  /**
   * An error that nobody caught, in a callback, or an answer that will never come: the input that
   * is being run is to blame.
   */
  fail(error: Error): void {
    this.#failFromOutside(error)
  }

  /** Runs the target's seeds and what earlier runs have kept. */
  async begin(kept: readonly Uint8Array[]): Promise<void> {
    for (const input of [...this.#target.seeds(), ...kept]) {
      await this.#try(input)
      if (!this.#corpus.includes(input)) this.#corpus.push(input)
    }
    assert(this.#corpus.length > 0, 'there is something to begin with')
  }

  /** Runs until it has executed so often, or `isOver` says so. */
  async run(executionCount: number, isOver: () => boolean = () => false): Promise<void> {
    const end = this.#executionCount + executionCount
    while (this.#executionCount < end) {
      if (this.#executionCount % 64 === 0 && isOver()) return
      const input = this.#mutator.mutate(this.#choose(), this.#prng.pick(this.#corpus))
      if (this.#prng.chance(REPAIR_CHANCE)) this.#target.repair?.(input)
      await this.#try(input)
    }
  }

  #choose(): Uint8Array {
    const count = this.#corpus.length
    const freshCount = Math.ceil(count * FRESH_SHARE)
    if (this.#prng.chance(0.5)) return this.#corpus[count - 1 - this.#prng.below(freshCount)]
    return this.#prng.pick(this.#corpus)
  }

  async #try(input: Uint8Array): Promise<void> {
    this.#executionCount += 1
    this.#edges.clear()
    const failure = await this.#failureOf(input)
    if (failure !== null) await this.#keepFinding(input, failure)
    if (!this.#edges.note()) return
    if (this.#corpus.length < CORPUS_COUNT_MAX) this.#corpus.push(input)
  }

  async #failureOf(input: Uint8Array): Promise<Error | null> {
    // Asking for the time of the processor takes longer than most decoders do.
    const failure = await this.#runOnce(input, wallMs)
    if (!(failure instanceof LimitError)) return failure
    // What is slow or large by the machine's chance is not so three times.
    let again: Error | null = failure
    for (let i = 0; i < CONFIRMATION_COUNT && again instanceof LimitError; i += 1) {
      again = await this.#runOnce(input, processorMs)
    }
    return again
  }

  /** The target gets a copy of its own, so that nothing it does reaches the corpus. */
  async #runOnce(input: Uint8Array, clockMs: () => number): Promise<Error | null> {
    this.#beforeRun(input)
    const copy = input.slice()
    const heapBytes = usedBytes()
    const startMs = clockMs()
    try {
      const pending = this.#target.run(copy)
      if (pending !== undefined) await Promise.race([pending, this.#outsideFailure()])
    } catch (error) {
      if (!isAnswer(error)) return error instanceof Error ? error : new Error(String(error))
    }
    const tookMs = clockMs() - startMs
    const growthBytes = usedBytes() - heapBytes
    this.#growthBytesMax = Math.max(this.#growthBytesMax, growthBytes)
    if (tookMs > EXECUTION_MS_MAX) return new LimitError(`took ${Math.round(tookMs)} ms`)
    if (growthBytes > GROWTH_BYTES_MAX) return new LimitError(`took ${growthBytes} bytes`)
    return null
  }

  #outsideFailure(): Promise<never> {
    return new Promise((_resolve, reject) => {
      this.#failFromOutside = reject
    })
  }

  async #keepFinding(input: Uint8Array, error: Error): Promise<void> {
    const key = keyOf(error)
    if (this.#findings.has(key)) return
    const found = { target: this.#target.name, key, stack: error.stack ?? '', input }
    this.#findings.set(key, found)
    found.input = await this.#shrink(input, key)
  }

  /** Shorter, and with more zeros, while it still fails in the same way. */
  async #shrink(input: Uint8Array, key: string): Promise<Uint8Array> {
    let best = input
    let left = SHRINK_EXECUTION_COUNT_MAX
    for (let step = best.length >> 1; step > 0; step >>= 1) {
      for (let at = 0; at < best.length && left > 0; left -= 1) {
        const shorter = new Uint8Array([...best.subarray(0, at), ...best.subarray(at + step)])
        const blank = best.slice().fill(0, at, at + step)
        if (await this.#failsSo(shorter, key)) best = shorter
        else if (!isSame(blank, best) && (await this.#failsSo(blank, key))) best = blank
        else at += step
      }
    }
    return best
  }

  async #failsSo(input: Uint8Array, key: string): Promise<boolean> {
    this.#target.repair?.(input)
    const error = await this.#runOnce(input, processorMs)
    return error !== null && keyOf(error) === key
  }
}

/** Too slow, or too much memory. */
export class LimitError extends Error {
  override readonly name = 'LimitError'
}

function wallMs(): number {
  return performance.now()
}

function processorMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

function usedBytes(): number {
  const { used_heap_size: heapBytes, external_memory: externalBytes } = getHeapStatistics()
  return heapBytes + externalBytes
}

function keyOf(error: Error): string {
  const frame = (error.stack ?? '').split('\n').find((line) => line.includes('/src/')) ?? ''
  const where = frame.trim().split(' ').slice(0, 2).join(' ')
  return `${error.name}: ${error.message.replace(/\d+/g, 'N').slice(0, 120)} ${where}`.trim()
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
