/** What every benchmark takes and gives. */
import type { ServerKind } from './servers.ts'

export interface BenchOptions {
  rounds: number
  /** Of each measurement. */
  seconds: number
  /** Of the disk; each benchmark has its own default. */
  sizeBytes: number | undefined
  servers: readonly ServerKind[]
  /** Of images, as `tools/corpus` makes it. */
  corpusPath: string | undefined
  /** One of them. */
  imagePath: string | undefined
  /** Which of those who are compared; all when not given. */
  only: readonly string[] | undefined
  /** A report in JSON of an earlier run, for those who are not measured again. */
  againstPath: string | undefined
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
