/**
 * Virtual time: a queue of events that run when their time is reached. Time moves only from one
 * event to the next, so an idle hour costs nothing. Events of equal time run in the order they
 * were scheduled; the randomness is in the delays.
 */
import { assert } from '../base/assert.ts'

/** Something that will happen once; `canceled` events are dropped unseen. */
export interface SimEvent {
  readonly timeMs: number
  readonly order: number
  readonly run: () => void
  canceled: boolean
}

function isBefore(left: SimEvent, right: SimEvent): boolean {
  return left.timeMs < right.timeMs || (left.timeMs === right.timeMs && left.order < right.order)
}

/** A binary heap of events and the time of the last one taken. */
export class SimClock {
  readonly #heap: SimEvent[] = []
  #nowMs: number
  #orderNext = 0

  constructor(startMs = 0) {
    this.#nowMs = startMs
  }

  get nowMs(): number {
    return this.#nowMs
  }

  /** Schedules `run` after `delayMs` of virtual time. */
  schedule(delayMs: number, run: () => void): SimEvent {
    assert(delayMs >= 0, 'time does not run backwards')
    const event = { timeMs: this.#nowMs + delayMs, order: this.#orderNext, run, canceled: false }
    this.#orderNext += 1
    this.#push(event)
    return event
  }

  /** Time of the next event that is not canceled, or null when nothing is scheduled. */
  nextTimeMs(): number | null {
    while (this.#heap.length > 0 && this.#heap[0].canceled) this.#pop()
    return this.#heap.length > 0 ? this.#heap[0].timeMs : null
  }

  /** Takes the next event due by `untilMs` and moves the clock to it; null when there is none. */
  tryTake(untilMs: number): SimEvent | null {
    const timeMs = this.nextTimeMs()
    if (timeMs === null || timeMs > untilMs) return null
    const event = this.#pop()
    this.#nowMs = Math.max(this.#nowMs, event.timeMs)
    return event
  }

  #push(event: SimEvent): void {
    const heap = this.#heap
    let index = heap.length
    heap.push(event)
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!isBefore(event, heap[parent])) break
      heap[index] = heap[parent]
      index = parent
    }
    heap[index] = event
  }

  #pop(): SimEvent {
    const heap = this.#heap
    const first = heap[0]
    const moved = heap.pop()
    assert(moved !== undefined, 'an event is taken from a queue that has one')
    if (heap.length === 0) return first
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child += 1
      if (!isBefore(heap[child], moved)) break
      heap[index] = heap[child]
      index = child
    }
    heap[index] = moved
    return first
  }
}
