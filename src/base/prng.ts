/**
 * A small seeded generator, xoshiro128++ by Blackman and Vigna (public domain), its state spread
 * from one 32-bit seed by splitmix32. The same seed gives the same numbers on every host, so a
 * simulated run can be told in one number. Never for secrets.
 */
import { assert, assertSafe } from './assert.ts'

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits))
}

export class Prng {
  readonly #state: Uint32Array = new Uint32Array(4)

  constructor(seed: number) {
    assertSafe(seed, 'seed')
    // The high word is mixed in so that seeds past 2^32 do not repeat the small ones.
    let mixed = (seed >>> 0) ^ Math.imul(Math.floor(seed / 2 ** 32), 0x85ebca6b)
    for (let index = 0; index < 4; index += 1) {
      mixed = (mixed + 0x9e3779b9) | 0
      let word = mixed ^ (mixed >>> 16)
      word = Math.imul(word, 0x21f0aaad)
      word ^= word >>> 15
      word = Math.imul(word, 0x735a2d97)
      this.#state[index] = word ^ (word >>> 15)
    }
    // All zeros is the one state the generator cannot leave.
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1
  }

  /** A whole number from 0 to 2^32 - 1. */
  nextU32(): number {
    const state = this.#state
    const result = (rotateLeft((state[0] + state[3]) | 0, 7) + state[0]) >>> 0
    const shifted = state[1] << 9
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = rotateLeft(state[3], 11)
    return result
  }

  /** From 0 up to but not 1, in steps of 2^-32. */
  nextFloat(): number {
    return this.nextU32() / 2 ** 32
  }

  /** A whole number from 0 to `limit - 1`; `limit` at most 2^32. */
  below(limit: number): number {
    assert(limit >= 1 && limit <= 2 ** 32, 'the limit of a draw is from 1 to 2^32')
    return Math.floor((this.nextU32() * limit) / 2 ** 32)
  }

  /** A whole number from `lowest` to `highest`, both included. */
  between(lowest: number, highest: number): number {
    return lowest + this.below(highest - lowest + 1)
  }

  /** True with the given probability, 0 to 1. */
  chance(probability: number): boolean {
    return this.nextFloat() < probability
  }

  /** One of `choices`, each as likely as another. */
  pick<T>(choices: readonly T[]): T {
    assert(choices.length > 0, 'there is something to pick from')
    return choices[this.below(choices.length)]
  }

  /** An index into `weights`, as likely as its weight; at least one weight must be above zero. */
  weighted(weights: readonly number[]): number {
    let total = 0
    for (const weight of weights) total += weight
    assert(total > 0, 'some weight is above zero')
    let rest = this.nextFloat() * total
    for (let index = 0; index < weights.length; index += 1) {
      rest -= weights[index]
      if (rest < 0) return index
    }
    return weights.findLastIndex((weight) => weight > 0)
  }

  /** Puts `items` in random order, in place. */
  shuffle<T>(items: T[]): void {
    for (let index = items.length - 1; index > 0; index -= 1) {
      const other = this.below(index + 1)
      const held = items[index]
      items[index] = items[other]
      items[other] = held
    }
  }

  fill(bytes: Uint8Array): void {
    for (let index = 0; index < bytes.length; index += 1) bytes[index] = this.nextU32() >>> 24
  }

  /** A generator of its own, so that drawing from one does not move the other. */
  fork(): Prng {
    return new Prng(this.nextU32())
  }
}
