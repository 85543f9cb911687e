/**
 * A root filesystem as a raw image, for as long as it is being imported. The work is done by a
 * process of its own (`builder.ts`), within a time, and leaves nothing.
 */
import { spawn } from 'node:child_process'
import type { ChildProcessByStdio } from 'node:child_process'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { OperatingError } from '../../base/errors.ts'
import { toolEnvironment } from '../../base/host-tool.ts'
import { throwIfCanceled } from '../import-raw.ts'
import type { CopyOptions } from '../import-raw.ts'
import { systemError } from '../system-error.ts'
import { IMAGE_NAME } from './build-protocol.ts'
import type { BuildEvent, BuildFailure, BuildRequest, BuildResult } from './build-protocol.ts'
import { Budget, UNPACKED_BYTES_MAX_DEFAULT } from './limits.ts'
import { makeWorkFolder, removeWorkFolder, temporaryFolder } from './work-folder.ts'

export interface RootfsSource {
  /** Null: an archive that comes as `input`. */
  path: string | null
  input: AsyncIterable<Uint8Array> | null
  /** Of the filesystem; null: what the tree needs, and some to spare. */
  sizeBytes: number | null
  platform: string | null
  tag: string | null
  /** Of what is unpacked; null: 64 GiB, and no limit for a folder. */
  unpackedBytesMax: number | null
  /** Null: six hours. */
  timeoutMs: number | null
}

const BUILDER_PATH = fileURLToPath(new URL('./builder.js', import.meta.url))
const TIMEOUT_MS_DEFAULT = 6 * 3600_000
/** What a builder that was asked to end gets to take its files along. */
const GRACE_MS = 10_000
/** The tree of a large image is some hundred megabytes. */
const HEAP_MEGABYTES = 3072
const MESSAGE_CHARACTERS_MAX = 4000

/** `use` gets the path of the image, which is gone afterwards, whatever happens. */
export async function withRootfsImage<T>(
  source: RootfsSource,
  options: CopyOptions,
  use: (imagePath: string, warnings: string[]) => Promise<T>,
): Promise<T> {
  const workFolder = await makeWorkFolder(temporaryFolder())
  try {
    const sourcePath = source.path ?? (await spool(source, join(workFolder, 'input'), options))
    const { sizeBytes, platform, tag, unpackedBytesMax } = source
    const request: BuildRequest = {
      ...{ sourcePath, workFolder, sizeBytes, platform, tag, unpackedBytesMax },
    }
    const { warnings } = await build(request, source.timeoutMs ?? TIMEOUT_MS_DEFAULT, options)
    return await use(join(workFolder, IMAGE_NAME), warnings)
  } finally {
    await removeWorkFolder(workFolder)
  }
}

/** A stream into a file: which archive it is may only be known at its end. */
async function spool(
  { input, unpackedBytesMax }: RootfsSource,
  path: string,
  { signal, progress }: CopyOptions,
): Promise<string> {
  const budget = new Budget(unpackedBytesMax ?? UNPACKED_BYTES_MAX_DEFAULT)
  const file = await open(path, 'wx', 0o600)
  try {
    let doneBytes = 0
    for await (const bytes of input ?? []) {
      throwIfCanceled(signal)
      budget.takeUnpacked(bytes.length)
      await file.writeFile(bytes)
      doneBytes += bytes.length
      progress?.({ doneBytes, totalBytes: doneBytes })
    }
    throwIfCanceled(signal)
    return path
  } catch (error) {
    throw systemError('cannot keep the archive', error)
  } finally {
    await file.close()
  }
}

async function build(
  request: BuildRequest,
  timeoutMs: number,
  { signal, progress }: CopyOptions,
): Promise<BuildResult> {
  throwIfCanceled(signal)
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${HEAP_MEGABYTES}`, '--no-warnings', BUILDER_PATH],
    // A group of its own: a terminal's Ctrl-C is ours to pass on.
    { cwd: '/', detached: true, stdio: ['pipe', 'pipe', 'pipe'], env: toolEnvironment() },
  )
  const outcome = follow(child, progress)
  const ending = new Ending(child)
  const cancel = (): void => ending.begin('canceled')
  const timer = setTimeout(() => ending.begin('late'), timeoutMs)
  signal?.addEventListener('abort', cancel)
  try {
    child.stdin.on('error', () => undefined)
    child.stdin.write(`${JSON.stringify(request)}\n`)
    const event = await outcome
    if (ending.reason === 'canceled') throw new OperatingError('canceled', 'canceled')
    if (ending.reason === 'late') throw late(timeoutMs)
    if ('failure' in event) throw decodeFailure(event.failure)
    return event.result
  } finally {
    clearTimeout(timer)
    ending.finish()
    signal?.removeEventListener('abort', cancel)
  }
}

type Builder = ChildProcessByStdio<Writable, Readable, Readable>

/** Ending a builder: by closing its input, and if that does not help, by force. */
class Ending {
  readonly #child: Builder
  #timer: NodeJS.Timeout | null = null
  #reason: 'canceled' | 'late' | null = null

  constructor(child: Builder) {
    this.#child = child
  }

  get reason(): 'canceled' | 'late' | null {
    return this.#reason
  }

  begin(reason: 'canceled' | 'late'): void {
    if (this.#reason !== null) return
    this.#reason = reason
    this.#child.stdin.end()
    this.#timer = setTimeout(() => this.#kill(), GRACE_MS)
  }

  /** After it has ended. */
  finish(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  #kill(): void {
    const { pid } = this.#child
    if (pid === undefined) return
    try {
      process.kill(-pid, 'SIGKILL')
    } catch {
      // It has ended in the meantime.
    }
  }
}

/** Resolves when the process has ended, to the last thing it said. */
function follow(
  child: Builder,
  progress: CopyOptions['progress'],
): Promise<Exclude<BuildEvent, { progress: unknown }>> {
  let last: Exclude<BuildEvent, { progress: unknown }> | null = null
  let stderr = ''
  child.stderr.on('data', (bytes: Buffer) => {
    if (stderr.length < MESSAGE_CHARACTERS_MAX) stderr += bytes.toString()
  })
  createInterface({ input: child.stdout }).on('line', (line) => {
    const event = JSON.parse(line) as BuildEvent
    if ('progress' in event) progress?.(event.progress)
    else last = event
  })
  return new Promise((resolve, reject) => {
    child.on('error', (error) => reject(systemError('the builder cannot be started', error)))
    child.on('close', (code, killedBy) => {
      const how = killedBy ?? `exit code ${code}`
      const said = stderr.trim().slice(0, MESSAGE_CHARACTERS_MAX)
      resolve(
        last ?? {
          failure: {
            code: 'io',
            message: `the builder of the filesystem ended with ${how}`,
            hint: said === '' ? null : said,
            errno: null,
          },
        },
      )
    })
  })
}

function decodeFailure({ code, message, hint, errno }: BuildFailure): OperatingError {
  return new OperatingError(code, message, {
    ...(hint === null ? {} : { hint }),
    ...(errno === null ? {} : { errno }),
  })
}

function late(timeoutMs: number): OperatingError {
  return new OperatingError('io', `the filesystem was not made in ${timeoutMs / 1000} s`, {
    hint: 'Give more time with --timeout.',
  })
}
