/** How the figures of a count are shown: as columns, and in a sentence. */
import type { Usage, UsageRow } from '../api/shapes.ts'
import { formatSize } from '../base/units.ts'
import { sizeColumn } from './columns.ts'
import type { Column } from './columns.ts'

/** By the key of the column. */
const FIGURES: Readonly<Record<string, keyof Usage>> = {
  logical: 'logicalBytes',
  mapped: 'mappedBytes',
  referenced: 'referencedBytes',
  stored: 'storedBytes',
  exclusive: 'exclusiveBytes',
  shared: 'sharedBytes',
  amortised: 'amortisedBytes',
  metadata: 'metadataBytes',
  thin: 'thinBytes',
  zero: 'zeroBytes',
  clone: 'cloneBytes',
  dedup: 'dedupBytes',
  compression: 'compressionBytes',
}

/** Of all figures but those in `without`; those in `usual` are shown without being asked for. */
export function usageColumns<T>(
  pick: (row: T) => Usage,
  usual: readonly string[],
  without: readonly string[] = [],
): Column<T>[] {
  return Object.entries(FIGURES)
    .filter(([key]) => !without.includes(key))
    .map(([key, figure]) => {
      return sizeColumn<T>(key, (row) => pick(row)[figure], { usual: usual.includes(key) })
    })
}

const SAVINGS = ['thin', 'zero', 'clone', 'dedup', 'compression'] as const

/** `thin 3 GiB, zero 0 B, …`. */
export function savingsText(usage: Usage, size: (bytes: number) => string = formatSize): string {
  return SAVINGS.map((key) => `${key} ${size(usage[FIGURES[key]])}`).join(', ')
}

/** The figures of a row, without what it is. */
export function usageOf(row: UsageRow): Usage {
  const keys = Object.values(FIGURES)
  return Object.fromEntries(keys.map((key) => [key, row[key]])) as Record<keyof Usage, number>
}

export function signedSize(bytes: number, size: (bytes: number) => string): string {
  return bytes < 0 ? `-${size(-bytes)}` : size(bytes)
}
