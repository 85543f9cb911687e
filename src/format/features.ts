/**
 * What a pool may use beyond the first version of the format, one bit each, in three classes: by
 * what a build must do that does not know the bit.
 *
 *   refuse      not touch the pool: it would misread it
 *   read-only   not write to it: what it reads is right, what it wrote would not be
 *   ignore      nothing; the bit stays set whatever it writes
 *
 *   refuse  0  files     the log may hold operations `share` and entries `grow`
 *           1  settled   segments may be settled
 *
 * Of the other two classes no bit has been given away. A bit once given is never given again.
 */
import { OperatingError } from '../base/errors.ts'
import type { Superblock } from './superblock.ts'

/** The log may hold operations `share` and entries `grow`: volumes are files, too. */
export const FEATURE_FILES = 1
/** Segments may be settled. */
export const FEATURE_SETTLED = 2
/** What this build knows, and writes into every superblock: all that it may use. */
export const REFUSE_FEATURES: number = FEATURE_FILES | FEATURE_SETTLED
export const READ_ONLY_FEATURES = 0

type Flags = Pick<Superblock, 'refuseFeatures' | 'readOnlyFeatures'>

/** `bit 2`, `bits 2 and 7`. */
function bitsOf(flags: number): string {
  const bits: number[] = []
  for (let bit = 0; bit < 32; bit += 1) if (((flags >>> bit) & 1) !== 0) bits.push(bit)
  const last = bits.pop()
  return bits.length === 0 ? `bit ${last}` : `bits ${bits.join(', ')} and ${last}`
}

/** Throws `unsupported`, naming the bits, where this build would misread the pool. */
export function verifyReadable({ refuseFeatures }: Flags): void {
  const unknown = (refuseFeatures & ~REFUSE_FEATURES) >>> 0
  if (unknown === 0) return
  throw new OperatingError(
    'unsupported',
    `the pool has features that this build does not know and would misread: ${bitsOf(unknown)}`,
    {
      hint: 'Use the version of Varve that wrote the pool, or a newer one.',
      details: { class: 'refuse', features: unknown },
    },
  )
}

/** What may be read and not written by this build, as `bit 3`; null: nothing. */
export function unwritableFeatures({ readOnlyFeatures }: Flags): string | null {
  const unknown = (readOnlyFeatures & ~READ_ONLY_FEATURES) >>> 0
  return unknown === 0 ? null : bitsOf(unknown)
}

/**
 * Throws `unsupported`, naming the bits, where this build would misread the pool, or could not
 * write to it: opening a pool always writes (its recovery, and a checkpoint).
 */
export function verifyWritable(flags: Flags): void {
  verifyReadable(flags)
  const unknown = unwritableFeatures(flags)
  if (unknown === null) return
  const fact = `the pool has features that this build may read but not write: ${unknown}`
  throw new OperatingError('unsupported', fact, {
    hint: 'Use the version of Varve that wrote the pool; `varve check` works with this one.',
    details: { class: 'read-only', features: flags.readOnlyFeatures },
  })
}
