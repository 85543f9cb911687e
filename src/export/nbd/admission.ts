/** How many clients there may be, and word of those that are turned away: little, if many are. */
import { assert } from '../../base/assert.ts'
import type { Io } from '../../io/io.ts'

const REPORT_INTERVAL_MS = 1000

export interface AdmissionOptions {
  countMax: number
  countPerAddressMax: number
  /** A client was turned away, or (`reason` says so) several were since the last call. */
  onRefused: (peer: string, reason: string) => void
}

export class Admission {
  readonly #io: Io
  readonly #options: AdmissionOptions
  #count = 0
  /** Clients inside, by the network address they come from. */
  readonly #countByAddress: Map<string, number> = new Map()
  /** Refused since the last report, while a report is held back. */
  #unreportedCount = 0
  #cancelReport: (() => void) | null = null

  constructor(io: Io, options: AdmissionOptions) {
    this.#io = io
    this.#options = options
  }

  /** Counts a client in, or says that it was refused. */
  tryEnter(peer: string): boolean {
    const { countMax, countPerAddressMax } = this.#options
    const address = addressOf(peer)
    const sameCount = address === null ? 0 : (this.#countByAddress.get(address) ?? 0)
    if (this.#count >= countMax) return this.refuse(peer, 'too many clients')
    if (sameCount >= countPerAddressMax) {
      return this.refuse(peer, 'too many clients from this address')
    }
    this.#count += 1
    if (address !== null) this.#countByAddress.set(address, sameCount + 1)
    return true
  }

  /** A client that was counted in has gone. */
  leave(peer: string): void {
    this.#count -= 1
    assert(this.#count >= 0, 'whoever leaves was counted in')
    const address = addressOf(peer)
    if (address === null) return
    const sameCount = (this.#countByAddress.get(address) ?? 0) - 1
    if (sameCount <= 0) this.#countByAddress.delete(address)
    else this.#countByAddress.set(address, sameCount)
  }

  /** Reports the first refusal at once and those of the next second together. False. */
  refuse(peer: string, reason: string): false {
    if (this.#cancelReport !== null) {
      this.#unreportedCount += 1
      return false
    }
    this.#options.onRefused(peer, reason)
    this.#cancelReport = this.#io.setTimer(REPORT_INTERVAL_MS, () => {
      this.#cancelReport = null
      const count = this.#unreportedCount
      this.#unreportedCount = 0
      if (count > 0) this.refuse(peer, `${count} more turned away: ${reason}`)
    })
    return false
  }

  close(): void {
    this.#cancelReport?.()
    this.#cancelReport = null
  }
}

/** Null for a client of this host's own socket, who is bound by the socket's mode alone. */
function addressOf(peer: string): string | null {
  const end = peer.lastIndexOf(':')
  return end < 0 ? null : peer.slice(0, end)
}
