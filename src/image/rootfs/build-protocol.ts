/** What passes between the process that builds a root filesystem and the one that started it. */
import type { OperatingCode } from '../../base/errors.ts'
import type { ImageChoice } from './oci-layout.ts'

/** The first line of the builder's standard input; what ends that input ends the builder. */
export interface BuildRequest extends ImageChoice {
  /** Absolute: a folder, an archive, or an image layout as either. */
  sourcePath: string
  /** Absolute, private, ours; the image becomes `image` in it. */
  workFolder: string
  sizeBytes: number | null
  /** Of what an archive unpacks to. Null: a limit of the builder's. */
  unpackedBytesMax: number | null
}

export const IMAGE_NAME = 'image'

export interface BuildResult {
  warnings: string[]
}

export interface BuildFailure {
  code: OperatingCode
  message: string
  hint: string | null
  errno: number | null
}

/** A line of the builder's standard output. */
export type BuildEvent =
  | { progress: { doneBytes: number; totalBytes: number } }
  | { result: BuildResult }
  | { failure: BuildFailure }
