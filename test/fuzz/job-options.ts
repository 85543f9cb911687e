/** What a job is told, as one argument of JSON. */
import type { Plant } from './instrument.ts'

export interface JobOptions {
  /** One after the other; all of one run share a process. */
  targets: readonly string[]
  seed: number
  executionCount: number
  /** Of each target; ends it earlier. 0: it does not. */
  timeMs: number
  /** Folder with a folder of inputs to begin with for each target, or null. */
  corpusPath: string | null
  /** Folder for findings; made when there is one. */
  findingsPath: string
  plant: Plant | null
  /** A finding ends the job. */
  isUntilFound: boolean
  /** An execution that takes the processor longer is one without end. */
  limitMs: number
  /** Inputs that led somewhere new are kept in a folder for each target there, or null. */
  keepPath: string | null
}

export interface JobReport {
  target: string
  executionCount: number
  tookMs: number
  /** Branches visited, of all in the modules loaded. */
  edgeCount: number
  claimedCount: number
  corpusCount: number
  /** Most that one execution took, garbage included. */
  growthBytesMax: number
  /** Alive after the last execution and not after the seeds, but for the inputs kept. */
  keptBytes: number
  /** Of the process, at any time. */
  residentBytesMax: number
  findings: { key: string; path: string; stack: string; sizeBytes: number }[]
}
