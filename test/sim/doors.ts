/** Where clients come in: the pool itself, an NBD server, a mounted filesystem; one opening. */
import type { Prng } from '../../src/base/prng.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import type { SocketAddress } from '../../src/io/io.ts'
import type { SimIo } from '../../src/io/sim-io.ts'
import { FuseGuest, throughFiles } from './fuse-guest.ts'
import { SimKernel } from './fuse-kernel.ts'
import { directGuest } from './guest.ts'
import type { Guest } from './guest.ts'
import { NbdGuest } from './nbd-guest.ts'
import type { SimPool } from './pool-under-test.ts'
import { DOOR_KINDS } from './script.ts'
import type { DoorKind } from './script.ts'

const ADDRESS: SocketAddress = { kind: 'unix', path: '/nbd' }
const GRACE_MS = 1000
/** Between two looks whether a server has let go. */
const LOOK_MS = 0.5

export class Doors {
  readonly #io: SimIo
  readonly #pool: SimPool
  readonly #weights: readonly number[]
  #server: NbdServer | null = null
  #kernel: SimKernel | null = null
  #ending: Promise<void>[] = []
  #guests: Guest[] = []

  private constructor(io: SimIo, pool: SimPool, weights: readonly number[]) {
    this.#io = io
    this.#pool = pool
    this.#weights = weights
  }

  static async open(io: SimIo, pool: SimPool, weights: readonly number[]): Promise<Doors> {
    const doors = new Doors(io, pool, weights)
    if (weights[DOOR_KINDS.indexOf('nbd')] === 0) return doors
    const directory = {
      list: () => [],
      open: (name: string, client: string) => pool.openTarget(name, client),
    }
    doors.#server = await NbdServer.start(io, directory, { addresses: [ADDRESS] })
    return doors
  }

  /** Clients of a disk that are there. */
  guestsOf(volume: string): Guest[] {
    this.#guests = this.#guests.filter((guest) => !guest.isGone)
    return this.#guests.filter((guest) => guest.volume === volume)
  }

  /** A new client of a disk, by one door or another. */
  enter(volume: string, prng: Prng): Guest {
    const guest = this.#newGuest(volume, DOOR_KINDS[prng.weighted(this.#weights)], prng)
    this.#guests.push(guest)
    return guest
  }

  #newGuest(volume: string, kind: DoorKind, prng: Prng): Guest {
    if (kind === 'nbd') {
      return new NbdGuest(volume, this.#io.arena, this.#io.connect(ADDRESS), prng.chance(0.5))
    }
    const kernel = kind === 'fuse' ? this.#mount() : null
    if (kernel !== null) return new FuseGuest(volume, this.#io.arena, kernel)
    const target = this.#pool.openTarget(volume, 'guest')
    if (target === null) throw new Error(`${volume} cannot be opened`)
    return directGuest(volume, target)
  }

  /** Through what control operations go. */
  control(prng: Prng): SimPool {
    const isFiles = DOOR_KINDS[prng.weighted(this.#weights)] === 'fuse'
    const kernel = isFiles ? this.#mount() : null
    return kernel === null ? this.#pool : throughFiles(this.#pool, kernel)
  }

  /** All clients of a disk take their leave. */
  async leave(volume: string): Promise<void> {
    const leaving = this.guestsOf(volume)
    this.#guests = this.#guests.filter((guest) => guest.volume !== volume)
    await Promise.all(leaving.map((guest) => guest.leave()))
    await this.quiet()
  }

  /** One client dies, or all that share its mount. Null when there is none. */
  kill(prng: Prng): Guest | null {
    const mortal = this.#guests.filter((guest) => !guest.isGone)
    if (mortal.length === 0) return null
    const guest = prng.pick(mortal)
    guest.die(prng.chance(0.5))
    return guest.isGone ? guest : null
  }

  /** Resolves when the servers hold nothing of clients that are gone. */
  async quiet(): Promise<void> {
    await Promise.all(this.#ending.splice(0))
    if (this.#kernel?.isAborted === true) await this.#kernel.abort()
    const there = (): number =>
      this.#guests.filter((guest) => guest instanceof NbdGuest && !guest.isGone).length
    while ((this.#server?.connections().length ?? 0) > there()) {
      await new Promise<void>((resolve) => this.#io.setTimer(LOOK_MS, resolve))
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#guests.filter((one) => !one.isGone).map((guest) => guest.leave()))
    this.#guests = []
    await this.#server?.close(GRACE_MS)
    await this.#kernel?.abort()
    await Promise.all(this.#ending)
  }

  #mount(): SimKernel | null {
    if (this.#kernel?.isAborted === true) {
      this.#ending.push(this.#kernel.abort())
      this.#kernel = null
    }
    this.#kernel ??= SimKernel.tryMount(this.#io, this.#pool.files)
    return this.#kernel
  }
}
