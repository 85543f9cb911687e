/** A command line whose world is in memory. */
import { PassThrough, Writable } from 'node:stream'
import type { Backend, Cli, SignalName } from '../../../src/cli/context.ts'
import { runCli } from '../../../src/cli/run.ts'
import type { FakeService } from './fake-service.ts'

export interface Outcome {
  code: number
  out: string
  error: string
}

export interface FakeWorld {
  service: FakeService
  environment?: Record<string, string>
  stdin?: Uint8Array
  terminal?: Partial<Cli['terminal']>
  backend?: Partial<Backend>
  /** Called with the listeners as they come, so that a test may raise a signal. */
  listening?: (name: SignalName, listener: () => void) => void
}

class Collector extends Writable {
  readonly chunks: Buffer[] = []
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.chunks.push(Buffer.from(chunk))
    done()
  }
  text(): string {
    return Buffer.concat(this.chunks).toString()
  }
}

function refuse(): never {
  throw new Error('not part of this test')
}

/** Runs `varve WORDS` with VARVE_POOL set. */
export async function run(world: FakeWorld, ...words: string[]): Promise<Outcome> {
  const stdin = new PassThrough()
  stdin.end(world.stdin ?? Buffer.alloc(0))
  const stdout = new Collector()
  const stderr = new Collector()
  const backend: Backend = {
    openService: async () => world.service,
    initPool: refuse,
    checkOffline: refuse,
    serve: refuse,
    daemonRuns: refuse,
    inspectHost: refuse,
    poolAccessFindings: async () => [],
    fixHost: refuse,
    ...world.backend,
  }
  const code = await runCli(words, {
    stdin,
    stdout,
    stderr,
    terminal: { stdin: false, stdout: false, stderr: false, ...world.terminal },
    environment: world.environment ?? { VARVE_POOL: '/pool' },
    stdinSizeBytes: () => null,
    loadBackend: async () => backend,
    onSignal: (name, listener) => {
      world.listening?.(name, listener)
      return () => undefined
    },
    exitNow: refuse,
  })
  return { code, out: stdout.text(), error: stderr.text() }
}
