/** All that a command sees of the world it runs in, so that tests can be that world. */
import type { Readable, Writable } from 'node:stream'
import type { PoolService } from '../api/service.ts'
import type { PoolInfo } from '../api/shapes.ts'
import type { CheckReport } from '../check/report.ts'
import type { Finding, FixStep } from '../daemon/host-report.ts'
import type { IoKind } from '../daemon/host.ts'
import type { AccessFinding } from '../daemon/pool-access.ts'
import type { Daemon, ServeOptions } from '../daemon/serve.ts'

/** The heavy half, loaded when a command first needs it: `daemon/embedded.ts`. */
export interface Backend {
  readonly openService: (poolPath: string, ioKind: IoKind) => Promise<PoolService>
  /** `capacityBytes` 0: all that its disk has. */
  readonly initPool: (
    poolPath: string,
    ioKind: IoKind,
    options: { capacityBytes: number },
  ) => Promise<PoolInfo>
  readonly checkOffline: (poolPath: string, ioKind: IoKind) => Promise<CheckReport>
  readonly serve: (options: ServeOptions, logLevel: string) => Promise<Daemon>
  /** Whether commands reach the pool through a daemon. */
  readonly daemonRuns: (poolPath: string) => Promise<boolean>
  readonly inspectHost: (poolPath: string | null) => Promise<Finding[]>
  /** What other users of this host could do to the pool's files. */
  readonly poolAccessFindings: (poolPath: string) => Promise<AccessFinding[]>
  /** Takes away what dead servers left on the host. */
  readonly fixHost: () => Promise<FixStep[]>
}

export type SignalName = 'SIGINT' | 'SIGTERM' | 'SIGUSR1'

export interface Cli {
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable
  /** Which of the three is a terminal. */
  readonly terminal: { stdin: boolean; stdout: boolean; stderr: boolean }
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Bytes left in standard input when that is a regular file, else null. */
  stdinSizeBytes(): number | null
  loadBackend(): Promise<Backend>
  /** The returned function takes the listener away. */
  onSignal(name: SignalName, listener: () => void): () => void
  /** Ends the process at once: a second interrupt. */
  exitNow(code: number): void
}

/** Writes and waits until the stream has taken it, so that a closed pipe is noticed. */
export function writeOut(stream: Writable, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, (error) => {
      if (error === null || error === undefined) resolve()
      else reject(error)
    })
  })
}
