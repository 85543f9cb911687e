/** The arena memory of a device: what is between the guest's memory and the disk. */
import type { ArenaShare } from '../../io/arena-share.ts'
import { ShareMember } from '../../io/arena-share.ts'
import { CONNECTION_BYTES_MAX, RESERVE_PIECE_BYTES, SMALL_PAGE_BYTES } from './limits.ts'

const LIMITS = { shareBytesMax: CONNECTION_BYTES_MAX, reserveBytes: RESERVE_PIECE_BYTES }

export class DeviceMemory extends ShareMember {
  /** Arena offset of the page for headers and other small things. */
  readonly smallPage: number
  readonly #share: ArenaShare

  private constructor(share: ArenaShare, reserveOffset: number, smallPage: number) {
    super(share, LIMITS, reserveOffset)
    this.#share = share
    this.smallPage = smallPage
  }

  /** Null: there is no memory for another device. */
  static tryOpen(share: ArenaShare): DeviceMemory | null {
    const reserve = share.tryTake(RESERVE_PIECE_BYTES)
    if (reserve < 0) return null
    const page = share.tryTake(SMALL_PAGE_BYTES)
    if (page >= 0) return new DeviceMemory(share, reserve, page)
    share.giveBack(reserve, RESERVE_PIECE_BYTES)
    return null
  }

  /** Nothing of it is in use. */
  close(): void {
    this.#share.giveBack(this.takeReserve(), RESERVE_PIECE_BYTES)
    this.#share.giveBack(this.smallPage, SMALL_PAGE_BYTES)
  }
}
