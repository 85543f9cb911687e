/** A ring in memory of our own with a driver at one end and the device's parser at the other. */
import {
  F_RING_PACKED,
  RING_F_EVENT_IDX,
  RING_F_INDIRECT_DESC,
} from '../../../../src/export/vhost-user/features.ts'
import type { Chain } from '../../../../src/export/vhost-user/chain.ts'
import { GuestCopies } from '../../../../src/export/vhost-user/guest-copies.ts'
import { inflightQueueBytes } from '../../../../src/export/vhost-user/inflight.ts'
import { MemoryMap } from '../../../../src/export/vhost-user/memory-map.ts'
import { openRing } from '../../../../src/export/vhost-user/open-ring.ts'
import type { Virtqueue } from '../../../../src/export/vhost-user/virtqueue.ts'
import { PackedDriver, SplitDriver } from '../../../support/vhost-driver.ts'
import { PlainMapping } from '../../../support/plain-mapping.ts'
import type { Driver } from '../../../support/vhost-driver.ts'

export const SIZE = 8
export const GUEST_BASE = 0x10000
export const USER_BASE = 0x50000
export const MEMORY_BYTES = 65536
/** Behind the ring and its tables. */
export const DATA_AT = 32768

export interface RingBench {
  readonly view: DataView
  readonly map: MemoryMap
  readonly driver: Driver
  readonly isPacked: boolean
  /** The device's end anew, as the next server opens it; throws why it cannot. */
  open(base?: number): Virtqueue
  /** Of what is in flight. */
  readonly record: DataView
  /** Where descriptor `index` lies. */
  descriptorAt(index: number): number
}

export interface BenchOptions {
  readonly isPacked: boolean
  readonly isIndirect?: boolean
  readonly isTracked?: boolean
  readonly hasIndirect?: boolean
}

/** What the chain has from byte `at` on, as much as `bytes` holds. */
export function copyOut(chain: Chain, map: MemoryMap, at: number, bytes: Uint8Array): void {
  const copies = new GuestCopies('from guest', bytes)
  chain.seek(at)
  chain.copy(map, copies, 0, bytes.length)
  copies.run()
}

export function copyIn(chain: Chain, map: MemoryMap, at: number, bytes: Uint8Array): void {
  const copies = new GuestCopies('to guest', bytes)
  chain.seek(at)
  chain.copy(map, copies, 0, bytes.length)
  copies.run()
}

export function ringBench(options: BenchOptions): RingBench {
  const { isPacked, isIndirect = false, isTracked = false, hasIndirect = true } = options
  const memory = new ArrayBuffer(MEMORY_BYTES)
  const view = new DataView(memory)
  const regions = [
    {
      guestAddress: GUEST_BASE,
      userAddress: USER_BASE,
      sizeBytes: MEMORY_BYTES,
      fileOffset: 0,
      mapping: new PlainMapping(memory),
    },
  ]
  const map = new MemoryMap(regions)
  const driverOptions = {
    view,
    offset: 0,
    size: SIZE,
    guestBase: GUEST_BASE,
    hasEventIndex: true,
    isIndirect,
  }
  const driver = isPacked ? new PackedDriver(driverOptions) : new SplitDriver(driverOptions)
  const record = new DataView(new ArrayBuffer(inflightQueueBytes(SIZE)))
  const inflight = isTracked ? record : null
  const features =
    RING_F_EVENT_IDX | (hasIndirect ? RING_F_INDIRECT_DESC : 0n) | (isPacked ? F_RING_PACKED : 0n)
  const { layout } = driver
  return {
    view,
    map,
    driver,
    isPacked,
    record,
    open: (base = isPacked ? 0x8000_8000 : 0) => {
      const addresses = {
        descriptors: USER_BASE + layout.descriptors,
        used: USER_BASE + layout.used,
        available: USER_BASE + layout.available,
      }
      const ring = openRing(map, { size: SIZE, addresses, base }, features, inflight)
      if (typeof ring === 'string') throw new Error(ring)
      return ring
    },
    descriptorAt: (index) => layout.descriptors + 16 * index,
  }
}
