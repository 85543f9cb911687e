/**
 * A tool of the host that reads what may be hostile: in a process group of its own, with limits
 * on memory, CPU and what it may write, ended when we end, however that is.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import type { Readable, Writable } from 'node:stream'
import { must } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import { TOOL_FOLDERS, toolEnvironment } from '../base/host-tool.ts'
import { GIB } from '../base/units.ts'

/** The tools and the Debian packages that hold them. */
const PACKAGES = {
  'qemu-nbd': 'qemu-utils',
  'qemu-img': 'qemu-utils',
  zstd: 'zstd',
  xz: 'xz-utils',
  setpriv: 'util-linux',
  prlimit: 'util-linux',
} as const

export type ImageTool = keyof typeof PACKAGES

/** Threads' stacks and caches for the largest clusters; address space, not memory. */
const ADDRESS_SPACE_BYTES_MAX: number = 4 * GIB
const OPEN_FILES_MAX = 128
/** Of what it says on stderr; the last of it counts. */
const STDERR_BYTES_MAX = 16384

export interface ProcessOptions {
  /** Become 3, 4, … of the child. */
  descriptors?: readonly number[]
  /** Whether it may write to files at all. */
  isWriter?: boolean
  /** Seconds of CPU; none: no limit. */
  cpuSecondsMax?: number
  stdin?: 'ignore' | 'pipe'
  stdout?: 'ignore' | 'pipe'
}

export interface ProcessEnd {
  /** -1: it was killed. */
  exitCode: number
  signal: string | null
}

export class LimitedProcess {
  readonly tool: ImageTool
  readonly exited: Promise<ProcessEnd>
  readonly #child: ChildProcess
  #stderr = ''
  #isOver = false

  private constructor(tool: ImageTool, child: ChildProcess) {
    this.tool = tool
    this.#child = child
    must(child.stderr, 'the stderr of a tool').on('data', (bytes: Buffer) => {
      this.#stderr = (this.#stderr + bytes.toString('latin1')).slice(-STDERR_BYTES_MAX)
    })
    this.exited = new Promise((resolve) => {
      child.on('error', (error) => {
        this.#stderr += error.message
        this.#isOver = true
        resolve({ exitCode: -1, signal: null })
      })
      child.on('close', (code, signal) => {
        this.#isOver = true
        resolve({ exitCode: code ?? -1, signal })
      })
    })
  }

  /** Throws `unsupported` when the tool is not installed. */
  static start(
    tool: ImageTool,
    args: readonly string[],
    options: ProcessOptions = {},
  ): LimitedProcess {
    const limits = [`--as=${ADDRESS_SPACE_BYTES_MAX}`, '--core=0', `--nofile=${OPEN_FILES_MAX}`]
    if (options.isWriter !== true) limits.push('--fsize=0')
    if (options.cpuSecondsMax !== undefined) {
      limits.push(`--cpu=${Math.max(1, Math.ceil(options.cpuSecondsMax))}`)
    }
    const words = [mustFind('prlimit'), ...limits, '--', mustFind(tool), ...args]
    const child = spawn(mustFind('setpriv'), ['--pdeathsig', 'KILL', ...words], {
      cwd: '/',
      env: toolEnvironment(),
      detached: true,
      stdio: [
        options.stdin ?? 'ignore',
        options.stdout ?? 'ignore',
        'pipe',
        ...(options.descriptors ?? []),
      ],
    })
    return new LimitedProcess(tool, child)
  }

  get processId(): number {
    return must(this.#child.pid, 'the id of a process that runs')
  }
  get isOver(): boolean {
    return this.#isOver
  }
  get stdin(): Writable {
    return must(this.#child.stdin, 'a stdin that was asked for')
  }
  get stdout(): Readable {
    return must(this.#child.stdout, 'a stdout that was asked for')
  }

  /** What it said, in one line, without its name and paths of ours. */
  complaint(): string {
    const lines = this.#stderr.split('\n').map((line) => line.trim())
    const said = lines.filter((line) => line !== '' && !/want to install/.test(line))
    const text = said
      .slice(-3)
      .join('; ')
      .replaceAll(/json:\{.*?\}'?(?=[:;]|$)/g, 'the image')
    return text.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 500)
  }

  /** Ends it and all its children; resolves when it is gone. Idempotent. */
  async kill(): Promise<void> {
    if (!this.#isOver && this.#child.pid !== undefined) {
      try {
        process.kill(-this.#child.pid, 'SIGKILL')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
      }
    }
    await this.exited
  }
}

export function findTool(tool: ImageTool): string | null {
  for (const folder of TOOL_FOLDERS) {
    try {
      accessSync(`${folder}/${tool}`, constants.X_OK)
      return `${folder}/${tool}`
    } catch {
      continue
    }
  }
  return null
}

function mustFind(tool: ImageTool): string {
  const path = findTool(tool)
  if (path !== null) return path
  throw new OperatingError('unsupported', `${tool} is not installed`, {
    hint: `apt-get install ${PACKAGES[tool]}`,
    details: { tool },
  })
}
