/** {@link Codecs} by the addon: lz4 and zstd of the system. */
import type { Codecs } from '../base/codec.ts'
import { Codec, missingCodecs } from '../base/codec.ts'
import { OperatingError } from '../base/errors.ts'
import type { Binding } from './binding.ts'

/** What is stored as it is takes no addon. */
const stored: Codecs = missingCodecs()

function decodeBy(binding: Binding): Codecs['decode'] {
  return (codec, source, sourceOffset, sourceBytes, target, targetOffset, rawBytes) => {
    if (codec === Codec.raw || sourceBytes === rawBytes) {
      return stored.decode(codec, source, sourceOffset, sourceBytes, target, targetOffset, rawBytes)
    }
    return binding.codecDecode(
      codec,
      source,
      sourceOffset,
      sourceBytes,
      target,
      targetOffset,
      rawBytes,
    )
  }
}

function mustStore(result: number): number {
  if (result >= 0) return result
  throw new OperatingError('io', 'there are no threads or memory for compressing', {
    errno: -result,
  })
}

/**
 * Encodes on two threads of low priority, which take jobs in the order given; a pending one
 * keeps the process. Rejects with `io` and an errno where the system has no threads or memory.
 */
export function threadedCodecs(binding: Binding): Codecs {
  return {
    decode: decodeBy(binding),
    encode: async (codec, ...run) =>
      codec === Codec.raw
        ? await stored.encode(codec, ...run)
        : mustStore(await binding.codecEncode(codec, ...run)),
    setGentle: (isGentle) => binding.codecGentle(isGentle),
  }
}

/** Encodes before it returns: for tests and simulation, where nothing may depend on a thread. */
export function inlineCodecs(binding: Binding): Codecs {
  return {
    decode: decodeBy(binding),
    encode: async (codec, ...run) =>
      codec === Codec.raw
        ? await stored.encode(codec, ...run)
        : mustStore(binding.codecEncodeInline(codec, ...run)),
    setGentle: () => undefined,
  }
}
