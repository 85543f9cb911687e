/** A ring of a front end, found in its memory. */
import { F_RING_PACKED, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC } from './features.ts'
import { SplitInflight } from './inflight.ts'
import type { MemoryMap } from './memory-map.ts'
import { PackedInflight } from './packed-inflight.ts'
import { PACKED_EVENT_BYTES, PackedRing, packedRingBytes } from './packed-ring.ts'
import type { RingSetup } from './session.ts'
import { SplitRing, splitRingBytes } from './split-ring.ts'
import type { QueueOptions, Virtqueue } from './virtqueue.ts'

/** The ring, or why there can be none. `inflight`: its part of what is tracked. */
export function openRing(
  map: MemoryMap,
  setup: RingSetup,
  features: bigint,
  inflight: DataView | null,
): Virtqueue | string {
  const options: QueueOptions = {
    size: setup.size,
    hasEventIndex: (features & RING_F_EVENT_IDX) !== 0n,
    hasIndirect: (features & RING_F_INDIRECT_DESC) !== 0n,
  }
  const isPacked = (features & F_RING_PACKED) !== 0n
  const open = isPacked ? openPacked : openSplit
  const ring = open(map, setup, options, inflight)
  return typeof ring === 'string' ? ring : (ring.failure ?? ring)
}

function openSplit(
  map: MemoryMap,
  { addresses, size, base }: RingSetup,
  options: QueueOptions,
  inflight: DataView | null,
): Virtqueue | string {
  if ((size & (size - 1)) !== 0) return `a split ring of ${size} descriptors`
  if (addresses.descriptors % 16 !== 0 || addresses.available % 2 !== 0) return MISPLACED
  if (addresses.used % 4 !== 0) return MISPLACED
  const bytes = splitRingBytes(size)
  const descriptors = map.tryRange(addresses.descriptors, bytes.descriptors)
  const available = map.tryRange(addresses.available, bytes.available)
  const used = map.tryRange(addresses.used, bytes.used)
  if (descriptors === null || available === null || used === null) return UNSHARED
  const memory = { descriptors, available, used }
  const tracked = inflight === null ? null : new SplitInflight(inflight, size)
  return new SplitRing(map, memory, base, options, tracked)
}

function openPacked(
  map: MemoryMap,
  { addresses, size, base }: RingSetup,
  options: QueueOptions,
  inflight: DataView | null,
): Virtqueue | string {
  if (addresses.descriptors % 16 !== 0) return MISPLACED
  if (addresses.available % 4 !== 0 || addresses.used % 4 !== 0) return MISPLACED
  const descriptors = map.tryRange(addresses.descriptors, packedRingBytes(size))
  const driverEvent = map.tryRange(addresses.available, PACKED_EVENT_BYTES)
  const deviceEvent = map.tryRange(addresses.used, PACKED_EVENT_BYTES)
  if (descriptors === null || driverEvent === null || deviceEvent === null) return UNSHARED
  const memory = { descriptors, driverEvent, deviceEvent }
  const tracked = inflight === null ? null : new PackedInflight(inflight, size)
  return new PackedRing(map, memory, base, options, tracked)
}

const MISPLACED = 'a ring that is not aligned'
const UNSHARED = 'a ring in memory that is not shared'
