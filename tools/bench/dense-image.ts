import { createReadStream, createWriteStream } from 'node:fs'
import { open, stat, truncate } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { MIB } from '../../src/base/units.ts'
import { tryLoadBinding } from '../../src/native/binding.ts'
import { seekData, seekHole } from '../../src/native/seek.ts'

/** The image without its holes, which everybody reads fast: a whole number of MiB. */
export async function denseImage(from: string, to: string): Promise<number> {
  const binding = tryLoadBinding()
  if (binding === null) throw new Error('the addon is missing; run tools/setup')
  const source = await open(from, 'r')
  let sizeBytes = 0
  try {
    const endBytes = (await stat(from)).size
    for (let at = 0; at < endBytes;) {
      const start = seekData(binding, source.fd, at, endBytes)
      if (start < 0 || start >= endBytes) break
      const end = seekHole(binding, source.fd, start)
      const input = createReadStream(from, { start, end: end - 1, highWaterMark: MIB })
      await pipeline(input, createWriteStream(to, { flags: 'a' }))
      sizeBytes += end - start
      at = end
    }
  } finally {
    await source.close()
  }
  const wholeBytes = Math.floor(sizeBytes / MIB) * MIB
  await truncate(to, wholeBytes)
  return wholeBytes
}
