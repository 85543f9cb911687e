/**
 * The other end of `test/conformance/fuse-probe.ts`, and other programs on a filesystem that this
 * process serves. Nothing here can wait for ever: what does not answer is killed.
 */
import { execFile, fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { must } from '../../src/base/assert.ts'
import type { ProbeAnswer, ProbeCalls } from '../conformance/fuse-probe.ts'

const PROGRAM = fileURLToPath(new URL('../conformance/fuse-probe.js', import.meta.url))
const TIMEOUT_MS = 60_000

interface Waiting {
  resolve: (value: unknown) => void
  reject: (error: Error) => void
  timer: NodeJS.Timeout
}

/** A system call's refusal: `message` begins with the errno's name. */
export class ProbeFailure extends Error {
  readonly code: string

  constructor(code: string, what: string) {
    super(`${code}: ${what}`)
    this.code = code
  }
}

export class Probe {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  #nextId = 1

  constructor() {
    this.#child = fork(PROGRAM, { serialization: 'advanced' })
    this.#child.on('message', (answer: ProbeAnswer) => this.#answered(answer))
    this.#child.on('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the probe is gone'))
    })
  }

  get pid(): number {
    return must(this.#child.pid, 'the process of a probe')
  }

  /** Rejects with a ProbeFailure. */
  call<Name extends keyof ProbeCalls>(
    name: Name,
    ...args: Parameters<ProbeCalls[Name]>
  ): Promise<ReturnType<ProbeCalls[Name]>> {
    const id = this.#nextId
    this.#nextId += 1
    const what = `${name} ${args.filter((arg) => !(arg instanceof Uint8Array)).join(' ')}`
    return new Promise<ReturnType<ProbeCalls[Name]>>((resolve, reject) => {
      const timer = setTimeout(() => this.#child.kill('SIGKILL'), TIMEOUT_MS)
      this.#waiting.set(id, {
        resolve: (value) => resolve(value as ReturnType<ProbeCalls[Name]>),
        reject: (error) => reject(new ProbeFailure(error.message, what)),
        timer,
      })
      this.#child.send({ id, name, args })
    })
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.disconnect()
    await exited
  }

  #answered({ id, value, failure }: ProbeAnswer): void {
    const { resolve, reject, timer } = must(this.#waiting.get(id), 'a call of the probe')
    this.#waiting.delete(id)
    clearTimeout(timer)
    if (failure === undefined) resolve(value)
    else reject(new Error(failure))
  }
}

/** That a system call is refused in one of these ways. */
export async function refused(
  t: Test,
  codes: string | readonly string[],
  call: Promise<unknown>,
  what = '',
): Promise<void> {
  const outcome = await call.then(
    () => 'done',
    (error: unknown) => (error instanceof ProbeFailure ? error.code : String(error)),
  )
  const expected = typeof codes === 'string' ? [codes] : codes
  t.ok(expected.includes(outcome), `${what} ${outcome}, expected ${expected.join(' or ')}`)
}

export interface ToolResult {
  /** Null when it was killed. */
  code: number | null
  stdout: string
  stderr: string
}

/** Runs a program to its end, whatever that is. */
export function tool(command: string, ...args: string[]): Promise<ToolResult> {
  const options = {
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL' as const,
    maxBuffer: 1 << 24,
    env: { ...process.env, LC_ALL: 'C', PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  }
  return new Promise((resolve, reject) => {
    const child = execFile(command, args, options, (error, stdout, stderr) => {
      if (error?.code === 'ENOENT') reject(new Error(`${command} is not installed`))
      else resolve({ code: child.exitCode, stdout, stderr })
    })
  })
}

/** The same, but anything but exit code 0 is an error. Returns what it printed. */
export async function mustTool(command: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await tool(command, ...args)
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} exits ${code}: ${stderr}`)
  return stdout
}

/** As a user who is neither root nor the owner of anything. */
export function toolAsNobody(command: string, ...args: string[]): Promise<ToolResult> {
  const identity = ['--reuid=65534', '--regid=65534', '--clear-groups']
  return tool('setpriv', ...identity, command, ...args)
}
