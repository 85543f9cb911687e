/**
 * A compressed stream, decompressed as it comes. gzip by zlib; zstd and xz by their own programs,
 * under the limits of everything that reads what is hostile. A stream that ends too early or fails
 * its checksum rejects, so nothing half is ever imported.
 */
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { imageCorrupt } from './image-bytes.ts'
import type { Compression } from './image-format.ts'
import { throwIfCanceled } from './import-raw.ts'
import { LimitedProcess } from './limited-process.ts'
import type { ImageTool } from './limited-process.ts'
import { systemError } from './system-error.ts'

const CHUNK_BYTES = 1048576

/** `--long`: windows up to 2 GiB, as `zstd --long=31` makes; the address space is limited. */
const PROGRAMS: Record<Exclude<Compression, 'gz'>, { tool: ImageTool; args: readonly string[] }> = {
  zst: { tool: 'zstd', args: ['-dcq', '--long=31'] },
  xz: { tool: 'xz', args: ['-dcq', '--format=xz', '--memlimit-decompress=2GiB', '-T2'] },
}

/**
 * The decompressed bytes of `input`. Rejects `image-corrupt` for what is not whole, and
 * `unsupported` when the program is not installed. Ends its program when it is left early.
 */
export async function* decompress(
  input: AsyncIterable<Uint8Array>,
  compression: Compression,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  if (compression === 'gz') yield* gunzip(input, signal)
  else yield* throughProgram(input, compression, signal)
}

async function* gunzip(
  input: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const gunzipping = createGunzip({ chunkSize: CHUNK_BYTES })
  // What fails in it is seen by whoever reads the output.
  void pipeline(Readable.from(input, { objectMode: false }), gunzipping).catch(() => undefined)
  try {
    yield* gunzipping as AsyncIterable<Uint8Array>
  } catch (error) {
    throwIfCanceled(signal)
    throw isDataError(error) ? cutOff('gzip', (error as Error).message) : error
  } finally {
    gunzipping.destroy()
  }
}

/** zlib's codes begin with Z. */
function isDataError(error: unknown): boolean {
  return error instanceof Error && 'code' in error && String(error.code).startsWith('Z_')
}

function cutOff(what: string, said: string): Error {
  return imageCorrupt(`the ${what} stream is not whole${said === '' ? '' : `: ${said}`}`)
}

async function* throughProgram(
  input: AsyncIterable<Uint8Array>,
  compression: Exclude<Compression, 'gz'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const { tool, args } = PROGRAMS[compression]
  const program = LimitedProcess.start(tool, args, { stdin: 'pipe', stdout: 'pipe' })
  const kill = (): void => void program.kill()
  signal?.addEventListener('abort', kill)
  const feeding = feed(input, program)
  try {
    yield* program.stdout as AsyncIterable<Uint8Array>
    const failure = await feeding
    throwIfCanceled(signal)
    if (failure !== null) throw failure
    const { exitCode } = await program.exited
    if (exitCode !== 0) throw cutOff(tool, program.complaint())
  } finally {
    signal?.removeEventListener('abort', kill)
    // Not waiting for the input, which may have nothing more to say.
    await program.kill()
  }
}

/** Resolves to what went wrong with `input`. A program that ends early says why itself. */
async function feed(
  input: AsyncIterable<Uint8Array>,
  program: LimitedProcess,
): Promise<Error | null> {
  const { stdin } = program
  stdin.on('error', () => undefined)
  try {
    for await (const bytes of input) {
      if (stdin.destroyed || program.isOver) return null
      // The memory may be its giver's; the pipe takes it when it can.
      const isTaken = stdin.write(Buffer.from(bytes))
      if (!isTaken) await Promise.race([once(stdin, 'drain').catch(() => null), program.exited])
    }
    stdin.end()
    return null
  } catch (error) {
    stdin.destroy()
    return systemError('the image cannot be read', error)
  }
}
