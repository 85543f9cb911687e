import { assert } from './assert.ts'

/** Byte offset of each field of a fixed structure, computed from one table of sizes. */
export type Layout<F extends Record<string, number>> = { readonly [K in keyof F]: number } & {
  /** Where the field after the last one would begin. */
  readonly endOffset: number
}

/**
 * Lays fields out in the order written, each `sizeBytes` long, from offset 0. Every field of 4 or
 * 8 bytes must fall on a multiple of 4, so that a drawing that forgets a padding fails at load.
 */
export function layout<const F extends Record<string, number>>(fields: F): Layout<F> {
  const offsets: Record<string, number> = {}
  let offset = 0
  for (const [name, sizeBytes] of Object.entries(fields)) {
    const aligned = sizeBytes % 4 !== 0 || offset % 4 === 0
    assert(aligned, `field ${name} of ${sizeBytes} bytes lies at ${offset}`)
    offsets[name] = offset
    offset += sizeBytes
  }
  offsets.endOffset = offset
  return offsets as Layout<F>
}
