/**
 * A disk into a raw image: what the map says is not there is not read, several reads are in
 * flight, and what was read is written in order. The image is exactly as long as the disk.
 */
import type { ExportTarget } from '../export/target.ts'
import type { Arena } from '../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import { throwIfCanceled } from './import-raw.ts'
import type { CopyOptions } from './import-raw.ts'
import { TargetReader } from './target-reader.ts'
import type { Piece } from './target-reader.ts'
import { runsOf } from './zeros.ts'

/** Takes an image from start to end without gaps; no call is made before the last is done. */
export interface ImageSink {
  data(bytes: Uint8Array): Promise<void>
  zeros(lengthBytes: number): Promise<void>
}

/** Eight megabytes of the arena, an eighth of its usual size: clients go on beside an export. */
const READS_IN_FLIGHT = 8

interface Step {
  offsetBytes: number
  lengthBytes: number
  /** Null: zeros, nothing to read. */
  piece: Promise<Piece | Error> | null
}

/** Resolves to the bytes that were not zero. The caller closes the target afterwards. */
export async function exportRaw(
  target: ExportTarget,
  arena: Arena,
  sink: ImageSink,
  options: CopyOptions,
): Promise<number> {
  const totalBytes = target.sizeBytes
  const reader = new TargetReader(target, arena)
  const steps = plan(reader, totalBytes)
  const queue: Step[] = []
  let dataBytes = 0
  let exhausted = false
  try {
    for (;;) {
      while (!exhausted && queue.length < READS_IN_FLIGHT) {
        const next = await steps.next()
        if (next.done === true) exhausted = true
        else queue.push(next.value)
      }
      const step = queue[0]
      if (step === undefined) break
      throwIfCanceled(options.signal)
      dataBytes += await write(step, sink)
      queue.shift()
      options.progress?.({ doneBytes: step.offsetBytes + step.lengthBytes, totalBytes })
    }
  } finally {
    await drain(queue)
  }
  return dataBytes
}

/** Walks the extents; a read is started when its step is asked for. */
async function* plan(reader: TargetReader, totalBytes: number): AsyncGenerator<Step> {
  let at = 0
  while (at < totalBytes) {
    for (const extent of await reader.extents(at)) {
      const endBytes = at + extent.lengthBytes
      while (at < endBytes) {
        const left = endBytes - at
        const lengthBytes = extent.zero ? left : Math.min(left, ARENA_PIECE_BYTES_MAX)
        const piece = extent.zero ? null : settled(reader.read(at, lengthBytes))
        yield { offsetBytes: at, lengthBytes, piece }
        at += lengthBytes
      }
    }
  }
}

/** A rejection that nobody may be waiting for yet. */
function settled(piece: Promise<Piece>): Promise<Piece | Error> {
  return piece.catch((error: unknown) => error as Error)
}

async function write(step: Step, sink: ImageSink): Promise<number> {
  if (step.piece === null) {
    await sink.zeros(step.lengthBytes)
    return 0
  }
  const piece = await step.piece
  step.piece = null
  if (piece instanceof Error) throw piece
  let dataBytes = 0
  try {
    for (const run of runsOf(piece.bytes)) {
      const lengthBytes = run.endBytes - run.startBytes
      if (run.zero) {
        await sink.zeros(lengthBytes)
      } else {
        await sink.data(piece.bytes.subarray(run.startBytes, run.endBytes))
        dataBytes += lengthBytes
      }
    }
  } finally {
    piece.release()
  }
  return dataBytes
}

/** Nothing may be in flight when the target is closed, and no memory may stay behind. */
async function drain(queue: Step[]): Promise<void> {
  for (const step of queue) {
    const piece = await step.piece
    if (piece !== null && !(piece instanceof Error)) piece.release()
  }
}
