/**
 * Codecs by Node's zlib in place of lz4 and zstd, so that tests of what is around the codecs need
 * no addon and share no code with it. Pools made with them are read with them only.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import type { Codec, Codecs } from '../../src/base/codec.ts'
import { Codec as CodecOf } from '../../src/base/codec.ts'

/** The bytes as they are to be stored: themselves where encoding does not pay. */
export function deflate(codec: Codec, raw: Uint8Array): Uint8Array {
  if (codec === CodecOf.raw) return raw
  const encoded = deflateRawSync(raw, { level: codec === CodecOf.lz4 ? 1 : 9 })
  return encoded.length <= raw.length - raw.length / 16 ? encoded : raw
}

/** Null when the bytes are not what `deflate` makes of `rawBytes` bytes. */
export function tryInflate(codec: Codec, stored: Uint8Array, rawBytes: number): Uint8Array | null {
  if (stored.length === rawBytes) return stored
  if (codec === CodecOf.raw) return null
  try {
    const raw = inflateRawSync(stored, { maxOutputLength: rawBytes + 1 })
    return raw.length === rawBytes ? raw : null
  } catch {
    return null
  }
}

export const deflateCodecs: Codecs = {
  decode: (codec, source, sourceOffset, sourceBytes, target, targetOffset, rawBytes) => {
    const stored = source.subarray(sourceOffset, sourceOffset + sourceBytes)
    const raw = tryInflate(codec, stored, rawBytes)
    if (raw !== null) target.set(raw, targetOffset)
    return raw !== null
  },
  encode: (codec, source, sourceOffset, totalBytes, frameBytes, target, targetOffset, lengths) => {
    let storedBytes = 0
    for (let from = 0, i = 0; from < totalBytes; from += frameBytes, i += 1) {
      const end = Math.min(totalBytes, from + frameBytes)
      const stored = deflate(codec, source.subarray(sourceOffset + from, sourceOffset + end))
      target.set(stored, targetOffset + storedBytes)
      lengths[i] = stored.length
      storedBytes += stored.length
    }
    return Promise.resolve(storedBytes)
  },
  setGentle: () => undefined,
}
