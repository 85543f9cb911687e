/** The host's devices with the pool's guard: what somebody else writes is not mounted. */
import { setTimeout as sleep } from 'node:timers/promises'
import type * as shape from '../api/device-shapes.ts'
import { OperatingError } from '../base/errors.ts'
import type { HostDevices } from '../host/devices.ts'
import type { PoolOperations } from '../pool/types.ts'
import type { ServedDevices } from './local-service.ts'
import { isFileClient } from './pool-tree.ts'

/** A file that was closed is let go of a moment later: the kernel does not wait for us. */
const RELEASE_WAIT_MS = 1000
const RELEASE_POLL_MS = 25

export class LocalDevices implements ServedDevices {
  readonly #devices: HostDevices
  readonly #pool: Pick<PoolOperations, 'volume'>

  constructor(devices: HostDevices, pool: Pick<PoolOperations, 'volume'>) {
    this.#devices = devices
    this.#pool = pool
  }

  attach(request: shape.AttachRequest): Promise<shape.DeviceInfo> {
    return this.#devices.attach(request)
  }
  detach(target: string): Promise<shape.DeviceInfo[]> {
    return this.#devices.detach(target)
  }
  devices(): Promise<shape.DeviceInfo[]> {
    return this.#devices.devices()
  }
  async mount(request: shape.MountRequest): Promise<shape.MountInfo> {
    await this.#refuseShared(request.name)
    return this.#devices.mount(request)
  }
  umount(target: string): Promise<shape.MountInfo[]> {
    return this.#devices.umount(target)
  }
  async mkfs(request: shape.MkfsRequest): Promise<shape.MkfsReport> {
    await this.#refuseShared(request.name)
    return this.#devices.mkfs(request)
  }

  resized(name: string): Promise<void> {
    return this.#devices.resized(name)
  }

  /** A filesystem has one kernel; even one that only reads would see what no disk ever was. */
  async #refuseShared(name: string): Promise<void> {
    // A snapshot stands still, however many read it.
    if (name.includes('@')) return
    for (let waitedMs = 0; ; waitedMs += RELEASE_POLL_MS) {
      const { clients } = await this.#pool.volume(name)
      const strangers = this.#devices.isAttached(name)
        ? clients.filter((client) => !isFileClient(client))
        : clients
      if (strangers.length === 0) return
      const mayGo = strangers.every(isFileClient)
      if (!mayGo || waitedMs >= RELEASE_WAIT_MS) {
        throw new OperatingError('busy', `${name} is in use by ${strangers.join(', ')}`, {
          hint: `Mount a snapshot of it: \`varve snapshot ${name}@now\`.`,
          details: { name, users: strangers },
        })
      }
      await sleep(RELEASE_POLL_MS)
    }
  }
}
