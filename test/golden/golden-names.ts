/** The golden pools: how each was made. */
import type { Compression } from '../../src/pool/types.ts'

export interface GoldenKind {
  name: string
  about: string
  /** Null: it is not settled. */
  compression: Compression | null
  /** The world ends with a tail in the log. */
  isCrashed: boolean
}

/** Those this build can write; older ones came from the builds of their time. */
export const GOLDEN_KINDS: readonly GoldenKind[] = [
  { name: 'raw-clean', about: 'closed, not settled', compression: null, isCrashed: false },
  { name: 'raw-crashed', about: 'power cut, not settled', compression: null, isCrashed: true },
  { name: 'settled-lz4', about: 'settled with lz4', compression: 'lz4', isCrashed: false },
  { name: 'settled-zstd', about: 'settled with zstd', compression: 'zstd', isCrashed: false },
  { name: 'settled-off', about: 'settled, stored raw', compression: 'off', isCrashed: false },
  {
    name: 'settled-crashed',
    about: 'settled with lz4, written on, power cut',
    compression: 'lz4',
    isCrashed: true,
  },
]
