/**
 * Compression of settled blocks, as everything above the addon sees it. A frame is a run of whole
 * blocks, encoded for itself. A stored frame that is as long as its raw bytes is those bytes.
 */
import { assert } from './assert.ts'
import { OperatingError } from './errors.ts'

/** How a frame is stored; the numbers are in the format. */
export const Codec = { raw: 0, lz4: 1, zstd: 2 } as const
export type Codec = (typeof Codec)[keyof typeof Codec]

export function isCodec(value: number): value is Codec {
  return value === Codec.raw || value === Codec.lz4 || value === Codec.zstd
}

/** Most raw bytes of one frame: what a read of one block may have to decode. */
export const FRAME_BYTES_MAX = 65536

/** Compresses and decompresses frames: whole blocks, at most {@link FRAME_BYTES_MAX} at once. */
export interface Codecs {
  /**
   * Decodes exactly `rawBytes` into `target`; false when the frame is damaged (never writes
   * outside the range, never throws for what the bytes are).
   * @throws OperatingError `unsupported` where the addon that knows the codec is missing.
   */
  decode(
    codec: Codec,
    source: Uint8Array,
    sourceOffset: number,
    sourceBytes: number,
    target: Uint8Array,
    targetOffset: number,
    rawBytes: number,
  ): boolean
  /**
   * Cuts `totalBytes` of `source` into frames of `frameBytes` (the last may be shorter), encodes
   * each into `target` from `targetOffset`, one directly behind the other. `lengths[i]` becomes the
   * stored bytes of frame i; a frame for which encoding does not save at least 1/16 is stored as it
   * is (length = raw length). Every encoded frame was decoded again and compared with its source
   * before the promise resolves (I6): a frame that does not come back equal is stored raw. Neither
   * memory may be touched meanwhile. `target` must have room for totalBytes. Resolves to the total
   * stored bytes.
   */
  encode(
    codec: Codec,
    source: Uint8Array,
    sourceOffset: number,
    totalBytes: number,
    frameBytes: number,
    target: Uint8Array,
    targetOffset: number,
    lengths: Uint32Array,
  ): Promise<number>
  /** While gentle, encoding runs only when nobody else wants the processor. */
  setGentle(isGentle: boolean): void
}

/** For a host without the addon: everything is stored raw, and compressed frames cannot be read. */
export function missingCodecs(): Codecs {
  return { decode: decodeStored, encode: encodeStored, setGentle: () => undefined }
}

const decodeStored: Codecs['decode'] = (
  codec,
  source,
  sourceOffset,
  sourceBytes,
  target,
  targetOffset,
  rawBytes,
) => {
  if (sourceBytes === rawBytes) {
    copy(source, sourceOffset, rawBytes, target, targetOffset)
    return true
  }
  if (codec === Codec.raw) return false
  throw new OperatingError('unsupported', 'compressed blocks cannot be read without the addon', {
    hint: 'Build it with tools/build-native; `varve doctor` says what that lacks.',
  })
}

const encodeStored: Codecs['encode'] = (
  _codec,
  source,
  sourceOffset,
  totalBytes,
  frameBytes,
  target,
  targetOffset,
  lengths,
) => {
  assert(Math.ceil(totalBytes / frameBytes) <= lengths.length, 'there is a length for each frame')
  copy(source, sourceOffset, totalBytes, target, targetOffset)
  for (let from = 0, index = 0; from < totalBytes; from += frameBytes, index++) {
    lengths[index] = Math.min(frameBytes, totalBytes - from)
  }
  return Promise.resolve(totalBytes)
}

function copy(
  source: Uint8Array,
  sourceOffset: number,
  lengthBytes: number,
  target: Uint8Array,
  targetOffset: number,
): void {
  assert(sourceOffset + lengthBytes <= source.length, 'what is copied lies in the source')
  assert(targetOffset + lengthBytes <= target.length, 'the target has room')
  target.set(source.subarray(sourceOffset, sourceOffset + lengthBytes), targetOffset)
}
