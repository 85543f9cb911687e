/** What every benchmark takes and gives. */
import type { ServerKind } from './servers.ts'

export interface BenchOptions {
  rounds: number
  /** Of each measurement. */
  seconds: number
  /** Of the disk; each benchmark has its own default. */
  sizeBytes: number | undefined
  servers: readonly ServerKind[]
  /** Empty, on the disk to be measured, removed afterwards. */
  folder: string
  /** Tells a person what is going on. */
  say(message: string): void
}

export interface BenchReport {
  /** For people. */
  text: string
  /** For machines, with every single measurement. */
  json: Record<string, unknown>
}
