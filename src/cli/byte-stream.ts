/** An image down a pipe: holes have to be written out as zeros. */
import type { Writable } from 'node:stream'
import type { ByteOutput } from '../api/service.ts'
import { OperatingError } from '../base/errors.ts'

const ZEROS = Buffer.alloc(1048576)

/** Each call resolves when the stream has taken the bytes; a closed pipe rejects `io`. */
export function streamOutput(stream: Writable): ByteOutput {
  const data = (bytes: Uint8Array): Promise<void> =>
    new Promise((resolve, reject) => {
      stream.write(bytes, (error) => {
        if (error === null || error === undefined) resolve()
        else reject(new OperatingError('io', `the image cannot be written: ${error.message}`))
      })
    })
  const zeros = async (lengthBytes: number): Promise<void> => {
    for (let left = lengthBytes; left > 0; left -= ZEROS.length) {
      await data(ZEROS.subarray(0, Math.min(left, ZEROS.length)))
    }
  }
  // Whoever waits for a write is told by it; nobody else needs to be.
  stream.on('error', () => undefined)
  return { data, zeros }
}
