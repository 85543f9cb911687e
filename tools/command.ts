/** Runs other programs: to their end, or as servers that are waited for and stopped. */
import { spawn, type ChildProcess } from 'node:child_process'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

const SERVER_READY_TIMEOUT_MS = 30_000
const OUTPUT_BYTES_KEPT = 64 * 1024

export interface RunOptions {
  cwd?: string
  /** Added to our own environment. */
  env?: Record<string, string>
  input?: string
  timeoutMs?: number
  /** Exit codes that are no failure; 0 when not given. */
  exitCodes?: readonly number[]
}

export interface RunResult {
  exitCode: number
  stdout: string
  stderr: string
}

/** Runs a program to its end; rejects, with what it said, on any other exit code. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: options.timeoutMs,
  })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
  // A program may end without reading its input; its exit code tells the rest.
  child.stdin.on('error', () => undefined)
  child.stdin.end(options.input ?? '')
  const exitCode = await exitOf(child, command)
  const result = {
    exitCode,
    stdout: Buffer.concat(stdout).toString(),
    stderr: Buffer.concat(stderr).toString(),
  }
  if (!(options.exitCodes ?? [0]).includes(exitCode)) {
    const said = (result.stderr.trim() || result.stdout.trim()).slice(-OUTPUT_BYTES_KEPT)
    throw new Error(`${commandLine(command, args)} exited with ${exitCode}: ${said}`)
  }
  return result
}

/** 128 + 9 stands for every signal, as only we send them and only after a timeout. */
function exitOf(child: ChildProcess, command: string): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', (cause) => reject(new Error(`cannot run ${command}`, { cause })))
    child.once('close', (code) => resolve(code ?? 137))
  })
}

/** As a user would type it. */
export function commandLine(command: string, args: readonly string[]): string {
  const quoted = args.map((argument) =>
    /^[\w@%+=:,./~-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`,
  )
  return [command, ...quoted].join(' ')
}

/** A program that serves until it is stopped. Killed when our own process ends first. */
export class Server {
  readonly pid: number
  readonly #child: ChildProcess
  readonly #exit: Promise<number>
  readonly #name: string
  #said = ''
  #exitCode: number | null = null

  private constructor(child: ChildProcess, name: string) {
    this.#child = child
    this.#name = name
    this.pid = child.pid ?? 0
    const keep = (chunk: Buffer): void => {
      this.#said = (this.#said + chunk.toString()).slice(-OUTPUT_BYTES_KEPT)
    }
    child.stdout?.on('data', keep)
    child.stderr?.on('data', keep)
    const killChild = (): void => {
      child.kill('SIGKILL')
    }
    process.once('exit', killChild)
    this.#exit = exitOf(child, name).then((code) => {
      process.removeListener('exit', killChild)
      this.#exitCode = code
      return code
    })
    // Whoever starts or stops it learns of the failure; nobody else waits.
    this.#exit.catch(() => undefined)
  }

  /** Starts the program and waits until its unix socket takes connections. */
  static async start(
    command: string,
    args: readonly string[],
    socketPath: string,
    env: Record<string, string> = {},
  ): Promise<Server> {
    const child = spawn(command, args, {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      // Ctrl-C in a terminal is for us; we then stop the server in good order.
      detached: true,
    })
    const server = new Server(child, command)
    const deadlineMs = performance.now() + SERVER_READY_TIMEOUT_MS
    while (!(await takesConnections(socketPath))) {
      if (child.pid === undefined) await server.#exit
      if (server.#exitCode !== null) {
        throw new Error(`${commandLine(command, args)} ended at once: ${server.said.trim()}`)
      }
      if (performance.now() > deadlineMs) {
        await server.stop('SIGKILL')
        throw new Error(`${commandLine(command, args)} did not listen: ${server.said.trim()}`)
      }
      await delay(5)
    }
    return server
  }

  /** The end of what it printed, both streams together. */
  get said(): string {
    return this.#said
  }

  /** Resolves to the exit code once it has ended. */
  async stop(signal: 'SIGTERM' | 'SIGINT' | 'SIGKILL' = 'SIGTERM'): Promise<number> {
    if (this.#exitCode === null) this.#child.kill(signal)
    return this.#exit
  }

  /** Throws when it has ended by itself, with what it said. */
  mustRun(): void {
    if (this.#exitCode === null) return
    throw new Error(`${this.#name} ended with ${this.#exitCode}: ${this.#said.trim()}`)
  }
}

/** Whether somebody listens on a unix socket. */
export function takesConnections(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
