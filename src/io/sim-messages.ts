/**
 * A device of whole messages in memory: what /dev/fuse is to a FUSE server, with the kernel's end
 * in a test's hands. Messages arrive one after another at random times; a reply is taken out of
 * the owner's memory only when it is written, some time after it was sent.
 */
import type { Arena } from './arena.ts'
import { Errno } from '../base/errors.ts'
import type { MessageDevice, MessageOwner } from './messages.ts'

/** What a device needs of its world. */
export interface SimMessageWorld {
  readonly arena: Arena
  /** Runs `action` after a random delay, in a turn of the loop. */
  later(action: () => void): void
}

class SimMessageDevice implements MessageDevice {
  readonly #world: SimMessageWorld
  readonly #owner: MessageOwner
  readonly #pairs = new Uint32Array(4)
  #waiting: Uint8Array[] = []
  #isTaking = false
  #sendingCount = 0
  /** Why it ends, or null. */
  #ending: number | null = null
  #isOver = false
  onReply: (message: Buffer) => void = () => undefined

  constructor(world: SimMessageWorld, owner: MessageOwner) {
    this.#world = world
    this.#owner = owner
  }

  resume(): void {
    this.#takeLater()
  }

  send(pairs: Uint32Array, count: number, tag: number): void {
    const pieces = Array.from(pairs.subarray(0, 2 * count))
    this.#sendingCount += 1
    this.#world.later(() => {
      this.#sendingCount -= 1
      if (this.#ending === null) {
        const message = this.#gather(pieces)
        this.#owner.sent(tag, message.length)
        this.onReply(message)
      } else {
        this.#owner.sent(tag, -Errno.ENOENT)
        this.#endIfQuiet()
      }
    })
  }

  close(): void {
    this.end(0)
  }

  put(message: Uint8Array): void {
    this.#waiting.push(Uint8Array.from(message))
    this.#takeLater()
  }

  end(result: number): void {
    if (this.#ending !== null) return
    this.#ending = result
    this.#waiting = []
    this.#world.later(() => this.#endIfQuiet())
  }

  #endIfQuiet(): void {
    if (this.#isOver || this.#sendingCount > 0) return
    this.#isOver = true
    this.#owner.ended(this.#ending ?? 0)
  }

  #takeLater(): void {
    if (this.#isTaking || this.#waiting.length === 0) return
    this.#isTaking = true
    this.#world.later(() => {
      this.#isTaking = false
      this.#take()
    })
  }

  #take(): void {
    if (this.#ending !== null) return
    const slot = this.#waiting.length === 0 ? -1 : this.#owner.takeSlot()
    // Without a slot, `resume` comes when there is one.
    if (slot < 0) return
    const message = this.#waiting.shift() as Uint8Array
    this.#owner.describeSlot(slot, this.#pairs)
    const [headerAt, headerBytes, bodyAt] = this.#pairs
    const { memory } = this.#world.arena
    memory.set(message.subarray(0, headerBytes), headerAt)
    memory.set(message.subarray(headerBytes), bodyAt)
    this.#owner.message(slot, message.length)
    this.#takeLater()
  }

  #gather(pieces: readonly number[]): Buffer {
    const parts: Uint8Array[] = []
    for (let index = 0; index < pieces.length; index += 2) {
      const at = pieces[index]
      parts.push(this.#world.arena.memory.subarray(at, at + pieces[index + 1]))
    }
    return Buffer.concat(parts)
  }
}

/** The kernel's end. */
export class SimMessagePeer {
  readonly #device: SimMessageDevice

  constructor(device: SimMessageDevice) {
    this.#device = device
  }

  /** Told of every reply, whole. */
  set onReply(listener: (message: Buffer) => void) {
    this.#device.onReply = listener
  }

  send(message: Uint8Array): void {
    this.#device.put(message)
  }

  /** Ends the mount: what was sent and not taken is lost, and so are replies under way. */
  abort(): void {
    this.#device.end(-Errno.ENODEV)
  }
}

export function simMessagePair(
  world: SimMessageWorld,
  owner: MessageOwner,
): [MessageDevice, SimMessagePeer] {
  const device = new SimMessageDevice(world, owner)
  return [device, new SimMessagePeer(device)]
}
