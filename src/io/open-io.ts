/** Opens the best `Io` and checksum that this host allows. */
import { getSystemErrorName } from 'node:util'
import type { Checksum } from '../base/checksum.ts'
import { OperatingError } from '../base/errors.ts'
import { MIB } from '../base/units.ts'
import { openWasmChecksum } from '../base/xxh64-wasm.ts'
import type { Binding } from '../native/binding.ts'
import { bindingMissingReason, tryLoadBinding } from '../native/binding.ts'
import { BuddyArena } from './buddy-arena.ts'
import type { Io } from './io.ts'
import { NodeIo } from './node-io.ts'
import { RingIo } from './ring-io.ts'
import { Ring } from './ring.ts'

export interface OpenIoOptions {
  /** `auto`: io_uring where the host allows it, else Node. Asked for by name it must be had. */
  kind?: 'auto' | 'ring' | 'node'
  /** Whole pages; memory is taken from the system as it is first used. 64 MiB. */
  arenaBytes?: number
}

const ARENA_BYTES = 64 * MIB

function arenaOf(binding: Binding | null, sizeBytes: number): BuddyArena {
  return new BuddyArena(binding?.arenaCreate(sizeBytes) ?? Buffer.alloc(sizeBytes))
}

function openSync(options: OpenIoOptions): Io {
  const { kind = 'auto', arenaBytes = ARENA_BYTES } = options
  const binding = tryLoadBinding()
  const arena = arenaOf(binding, arenaBytes)
  let reason = bindingMissingReason()
  if (kind !== 'node' && binding !== null) {
    const ring = Ring.tryOpen(binding, arena, (errno) => {
      reason = `the kernel refuses io_uring: ${getSystemErrorName(-errno)}`
    })
    if (ring !== null) return new RingIo(arena, ring, binding)
  }
  if (kind === 'ring') {
    throw new OperatingError('unsupported', `no io_uring here: ${reason ?? 'unknown reason'}`, {
      hint: 'Leave the kind of I/O to varve, or allow io_uring (sysctl kernel.io_uring_disabled).',
    })
  }
  return new NodeIo(arena, binding)
}

/** Rejects with `unsupported` when a kind is asked for by name that this host does not allow. */
export function openIo(options: OpenIoOptions = {}): Promise<Io> {
  return new Promise((resolve) => resolve(openSync(options)))
}

/** The addon's checksum, or, without it, the WebAssembly one. */
export async function openChecksum(): Promise<Checksum> {
  return tryLoadBinding() ?? (await openWasmChecksum())
}
