/** The native decoders of frames: hostile bytes, and memory around the target that must stay. */
import { must } from '../../src/base/assert.ts'
import { Codec, FRAME_BYTES_MAX } from '../../src/base/codec.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { tryLoadBinding } from '../../src/native/binding.ts'
import { inlineCodecs } from '../../src/native/native-codecs.ts'
import type { FuzzTarget } from './target.ts'
import { judge } from './target.ts'

const codecs = inlineCodecs(must(tryLoadBinding(), 'the addon'))
const GUARD_BYTES = 4096
const GUARD = 0xa5
const target = new Uint8Array(FRAME_BYTES_MAX + 2 * GUARD_BYTES)

async function encoded(codec: Codec, raw: Uint8Array): Promise<Uint8Array> {
  const out = new Uint8Array(raw.length)
  const lengths = new Uint32Array(1)
  await codecs.encode(codec, raw, 0, raw.length, raw.length, out, 0, lengths)
  return out.slice(0, lengths[0])
}

function textOf(blockCount: number, period: number): Uint8Array {
  const bytes = new Uint8Array(blockCount * BLOCK_SIZE_BYTES)
  return bytes.map((_, i) => (i % period) ^ (i >> 9))
}

const SEEDS = new Map<Codec, Uint8Array[]>()
for (const codec of [Codec.lz4, Codec.zstd]) {
  const frames: Uint8Array[] = []
  for (const [blockCount, period] of [
    [1, 7],
    [4, 100],
    [16, 251],
  ] as const) {
    const bytes = await encoded(codec, textOf(blockCount, period))
    frames.push(Buffer.concat([Buffer.from([blockCount - 1]), bytes]))
  }
  SEEDS.set(codec, frames)
}

function guardHolds(start: number, end: number): boolean {
  for (let at = start; at < end; at += 1) if (target[at] !== GUARD) return false
  return true
}

/** The first byte says how many blocks the frame claims to have. */
function frames(name: string, codec: Codec): FuzzTarget {
  return {
    name,
    sizeBytesMax: 16384,
    seeds: () => must(SEEDS.get(codec), 'seeds'),
    run(input) {
      const rawBytes = (((input[0] ?? 0) & 15) + 1) * BLOCK_SIZE_BYTES
      const sourceBytes = Math.min(input.length - 1, rawBytes)
      if (sourceBytes < 1) return
      const end = GUARD_BYTES + rawBytes
      target.fill(GUARD, 0, GUARD_BYTES)
      target.fill(GUARD, end, end + GUARD_BYTES)
      // The frame ends where its memory does: a reader past it leaves the mapping or is seen.
      const source = input.slice(0, 1 + sourceBytes)
      codecs.decode(codec, source, 1, sourceBytes, target, GUARD_BYTES, rawBytes)
      judge(guardHolds(0, GUARD_BYTES), 'nothing before the target is written')
      judge(guardHolds(end, end + GUARD_BYTES), 'nothing behind the target is written')
    },
  }
}

export const TARGETS: readonly FuzzTarget[] = [
  frames('frame-lz4', Codec.lz4),
  frames('frame-zstd', Codec.zstd),
]
