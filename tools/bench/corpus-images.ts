/** The images of a corpus, as `tools/corpus` leaves them, and what anything takes on disk. */
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../command.ts'

export interface CorpusImage {
  /** The file's name without `.img`. */
  name: string
  path: string
  sizeBytes: number
  /** What the filesystem has allocated for it: holes are none of it. */
  dataBytes: number
}

/** The images in the order in which they were made, so a copy comes after what it is a copy of. */
export function corpusImages(folder: string): CorpusImage[] {
  const files = readdirSync(folder)
    .filter((file) => file.endsWith('.img'))
    .map((file) => ({ file, stats: statSync(join(folder, file)) }))
    .sort((a, b) => a.stats.mtimeMs - b.stats.mtimeMs)
  if (files.length === 0)
    throw new Error(`no images in ${folder}; make them: tools/corpus ${folder}`)
  return files.map(({ file, stats }) => ({
    name: file.slice(0, -'.img'.length),
    path: join(folder, file),
    sizeBytes: stats.size,
    dataBytes: stats.blocks * 512,
  }))
}

/** What the filesystem has allocated for a file or a folder with all that is in it, in bytes. */
export async function physicalBytes(path: string): Promise<number> {
  // Not before it is written does a filesystem know for certain what it will take.
  await run('sync', ['-f', path])
  const { stdout } = await run('du', ['--summarize', '--block-size=1', path])
  return Number(stdout.split('\t')[0])
}

export interface Stored {
  /** Until all of it was on the disk. */
  tookMs: number
  physicalBytes: number
  /** What else there is to say, for the JSON. */
  details?: Record<string, unknown>
}

/** Times `store`, the writing out of what it left dirty included, and measures what is kept. */
export async function stored(path: string, store: () => Promise<void>): Promise<Stored> {
  const startMs = performance.now()
  await store()
  await run('sync', ['-f', path])
  const tookMs = performance.now() - startMs
  return { tookMs, physicalBytes: await physicalBytes(path) }
}

/** Reads the images once, so that none of those who are compared pays for the disk. */
export async function warm(images: readonly CorpusImage[]): Promise<void> {
  for (const image of images) {
    await run('dd', [`if=${image.path}`, 'of=/dev/null', 'bs=1M', 'status=none'])
  }
}
