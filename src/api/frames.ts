/**
 * How an image travels out of the daemon, so that holes cost nothing and an error in the middle
 * still arrives as one:
 *
 *     +------+-----------+----------------+
 *     | kind | length    | payload        |    kind   1 data: bytes of the image
 *     | u8   | u32 BE    | `length` bytes |           2 JSON: {"zeros": n} or an event
 *     +------+-----------+----------------+
 */
import { OperatingError } from '../base/errors.ts'

export const FRAME_DATA = 1
export const FRAME_JSON = 2
export const FRAME_HEADER_BYTES = 5
/** One read of the pool at most, doubled for room; more means that the stream is not ours. */
export const FRAME_PAYLOAD_BYTES_MAX = 2097152

export function encodeFrameHeader(kind: number, lengthBytes: number): Buffer {
  const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES)
  header.writeUInt8(kind, 0)
  header.writeUInt32BE(lengthBytes, 1)
  return header
}

export function encodeJsonFrame(value: unknown): Buffer {
  const payload = Buffer.from(JSON.stringify(value))
  return Buffer.concat([encodeFrameHeader(FRAME_JSON, payload.length), payload])
}

export interface Frame {
  kind: number
  /** A view that is valid until the next frame is asked for; data may come in several frames. */
  payload: Buffer
}

/**
 * Cuts a byte stream into frames, wherever its chunks end. Data is passed on as it comes, so a
 * data frame may be seen as several. Throws `unreachable` for what cannot be a frame and for an
 * end in the middle of one.
 */
export async function* decodeFrames(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Frame> {
  let rest: Buffer = Buffer.alloc(0)
  let kind = 0
  let missingBytes = 0
  for await (const chunk of chunks) {
    rest = rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([rest, chunk])
    for (;;) {
      if (missingBytes === 0) {
        if (rest.length < FRAME_HEADER_BYTES) break
        kind = rest.readUInt8(0)
        missingBytes = rest.readUInt32BE(1)
        if ((kind !== FRAME_DATA && kind !== FRAME_JSON) || missingBytes === 0) throw notAFrame()
        if (missingBytes > FRAME_PAYLOAD_BYTES_MAX) throw notAFrame()
        rest = rest.subarray(FRAME_HEADER_BYTES)
      }
      if (rest.length === 0 || (kind === FRAME_JSON && rest.length < missingBytes)) break
      const payload = rest.subarray(0, missingBytes)
      rest = rest.subarray(payload.length)
      missingBytes -= payload.length
      yield { kind, payload }
    }
  }
  if (missingBytes > 0 || rest.length > 0) throw notAFrame()
}

function notAFrame(): OperatingError {
  return new OperatingError('unreachable', 'the stream from the daemon is broken', {
    hint: 'Run the command again; if it stays so, see the log of the daemon.',
  })
}
