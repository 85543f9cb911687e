/** An archive's bytes as they were before it was compressed. Which it is, its first bytes say. */
import { once } from 'node:events'
import { Readable, pipeline } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { systemError } from '../system-error.ts'
import { badSource } from './limits.ts'
import { startTool } from './tool.ts'
import type { RootfsTool } from './tool.ts'

const GZIP_MAGIC = Buffer.from([0x1f, 0x8b])
const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd])
const XZ_MAGIC = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00])
const MAGIC_BYTES = 6
/** A stranger's archive chooses the window; what the usual levels need is a tenth of this. */
const TOOL_ARGUMENTS: Record<'xz' | 'zstd', readonly string[]> = {
  xz: ['--decompress', '--stdout', '--quiet', '--memlimit-decompress=512MiB'],
  zstd: ['--decompress', '--stdout', '--quiet', '--memory=512MB'],
}

export async function* decodedStream(
  input: AsyncIterable<Buffer>,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const pieces = input[Symbol.asyncIterator]()
  let head = Buffer.alloc(0)
  while (head.length < MAGIC_BYTES) {
    const next = await pieces.next()
    if (next.done === true) break
    head = Buffer.concat([head, next.value])
  }
  const whole = prefixed(head, pieces)
  const begins = (magic: Buffer): boolean => head.subarray(0, magic.length).equals(magic)
  if (begins(GZIP_MAGIC)) yield* gunzipped(whole)
  else if (begins(ZSTD_MAGIC)) yield* throughTool('zstd', whole, signal)
  else if (begins(XZ_MAGIC)) yield* throughTool('xz', whole, signal)
  else yield* whole
}

async function* prefixed(head: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  if (head.length > 0) yield head
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) {
    yield next.value
  }
}

async function* gunzipped(input: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: 262144 })
  // What fails on the way is thrown by the iteration below.
  pipeline(Readable.from(input), gunzip, () => undefined)
  try {
    for await (const bytes of gunzip) yield bytes as Buffer
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code?.startsWith('Z_') === true) throw damaged('gzip', message)
    throw error
  }
}

async function* throughTool(
  tool: RootfsTool & ('xz' | 'zstd'),
  input: AsyncIterable<Buffer>,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const running = startTool(tool, TOOL_ARGUMENTS[tool], ['pipe', 'pipe', 'pipe'], {}, signal)
  const { stdin, stdout } = running.child
  const failures: Error[] = []
  const feeding = feed(input, stdin as NodeJS.WritableStream).catch((error: unknown) => {
    failures.push(systemError('cannot unpack', error))
    running.child.kill('SIGKILL')
  })
  try {
    for await (const bytes of stdout as AsyncIterable<Buffer>) yield bytes
    const exitCode = await running.ended
    if (failures.length > 0) throw failures[0]
    if (exitCode !== 0) throw damaged(tool, running.complaint())
  } finally {
    running.child.kill('SIGKILL')
    await feeding
  }
}

async function feed(input: AsyncIterable<Buffer>, output: NodeJS.WritableStream): Promise<void> {
  let isGone = false
  const closed = once(output, 'close').then(() => (isGone = true))
  // A program that ends early says why by its exit code.
  output.on('error', () => (isGone = true))
  for await (const bytes of input) {
    if (isGone) return
    if (!output.write(bytes)) await Promise.race([once(output, 'drain'), closed])
  }
  output.end()
}

function damaged(format: string, said: string): Error {
  const reason = said === '' ? '' : `: ${said.split('\n')[0].slice(0, 200)}`
  return badSource(`the ${format} data cannot be unpacked${reason}`, 'Fetch or make it again.')
}
