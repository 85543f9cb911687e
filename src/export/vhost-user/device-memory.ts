/** The arena memory of a device: what is between the guest's memory and the disk. */
import type { ArenaShare } from '../../io/arena-share.ts'
import { ShareMember } from '../../io/arena-share.ts'
import { CONNECTION_BYTES_MAX, RESERVE_PIECE_BYTES } from './limits.ts'

const LIMITS = { shareBytesMax: CONNECTION_BYTES_MAX, reserveBytes: RESERVE_PIECE_BYTES }

export class DeviceMemory extends ShareMember {
  readonly #share: ArenaShare

  private constructor(share: ArenaShare, reserveOffset: number) {
    super(share, LIMITS, reserveOffset)
    this.#share = share
  }

  /** Null: there is no memory for another device. */
  static tryOpen(share: ArenaShare): DeviceMemory | null {
    const offset = share.tryTake(RESERVE_PIECE_BYTES)
    return offset < 0 ? null : new DeviceMemory(share, offset)
  }

  /** Nothing of it is in use. */
  close(): void {
    this.#share.giveBack(this.takeReserve(), RESERVE_PIECE_BYTES)
  }
}
