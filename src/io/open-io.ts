/** Opens the best `Io` and checksum that this host allows. */
import type { Checksum } from '../base/checksum.ts'
import { OperatingError } from '../base/errors.ts'
import { MIB } from '../base/units.ts'
import { openWasmChecksum } from '../base/xxh64-wasm.ts'
import type { Binding } from '../native/binding.ts'
import { bindingMissingReason, tryLoadBinding } from '../native/binding.ts'
import { BuddyArena } from './buddy-arena.ts'
import type { Io } from './io.ts'
import { NodeIo } from './node-io.ts'

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

/** The addon's checksum, or, without it, the WebAssembly one. */
export function openIo(options: OpenIoOptions = {}): Promise<Io> {
  const binding = tryLoadBinding()
  const arena = arenaOf(binding, options.arenaBytes ?? ARENA_BYTES)
  if (options.kind === "ring") return Promise.reject(new OperatingError("unsupported", bindingMissingReason() ?? "no ring"))
  return Promise.resolve(new NodeIo(arena, binding))
}

export async function openChecksum(): Promise<Checksum> {
  return tryLoadBinding() ?? (await openWasmChecksum())
}
