/** What a process needs before it can open a pool: the world, the checksum, and the codecs. */
import type { HoleSeeker } from '../image/import-raw.ts'
import type { Checksum } from '../base/checksum.ts'
import { missingCodecs } from '../base/codec.ts'
import type { Codecs } from '../base/codec.ts'
import { MIB } from '../base/units.ts'
import type { Io } from '../io/io.ts'
import { openChecksum, openIo } from '../io/open-io.ts'
import { tryLoadBinding } from '../native/binding.ts'
import { threadedCodecs } from '../native/native-codecs.ts'
import { seekData, seekHole } from '../native/seek.ts'

export interface Host {
  io: Io
  checksum: Checksum
  codecs: Codecs
  seeker: HoleSeeker | null
}

export type IoKind = 'auto' | 'ring' | 'node'

/**
 * All 128 clients of the NBD server fit a quarter of it, and a mounted filesystem has 64 MiB. Only
 * what is used takes memory.
 */
const ARENA_BYTES: number = 256 * MIB

export async function openHost(kind: IoKind): Promise<Host> {
  const checksum = await openChecksum()
  const io = await openIo({ kind, arenaBytes: ARENA_BYTES })
  const binding = tryLoadBinding()
  const codecs = binding === null ? missingCodecs() : threadedCodecs(binding)
  return { io, checksum, codecs, seeker: tryHoleSeeker() }
}

/** Null without the addon: then nothing can be asked, and files are read whole. */
function tryHoleSeeker(): HoleSeeker | null {
  const binding = tryLoadBinding()
  if (binding === null) return null
  return {
    seekData: (fd, offsetBytes, sizeBytes) => seekData(binding, fd, offsetBytes, sizeBytes),
    seekHole: (fd, offsetBytes) => seekHole(binding, fd, offsetBytes),
  }
}
