/**
 * `bench space`: what a corpus of related images takes on disk, in a pool of ours and with the
 * tools that people use; docs/benchmarking.md has the method.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { formatSize } from '../../src/base/units.ts'
import { corpusImages, warm, type CorpusImage } from './corpus-images.ts'
import type { BenchOptions, BenchReport, BenchTable } from './report.ts'
import { SPACE_METHODS, type SpaceMethod } from './space-methods.ts'

interface SpaceRow {
  name: string
  description: string
  codec: string
  codecClass: string
  reads: string
  physicalBytes: number
  tookMs: number
  details?: Record<string, unknown>
}

/** The image without where it lies: what an earlier run must have had as well. */
type ImageFacts = Omit<CorpusImage, 'path'>

export async function benchSpace(options: BenchOptions): Promise<BenchReport> {
  const { corpusPath } = options
  if (corpusPath === undefined) throw new Error('space wants --corpus; tools/corpus makes one')
  const images = corpusImages(corpusPath)
  const facts = images.map(({ name, sizeBytes, dataBytes }) => ({ name, sizeBytes, dataBytes }))
  const methods = methodsOf(options.only)
  const earlier = options.againstPath === undefined ? [] : rowsOf(options.againstPath, facts)
  options.say(`${images.length} images, ${formatSize(sumOf(facts))} of data`)
  await warm(images)
  const rows: SpaceRow[] = []
  for (const method of methods) {
    options.say(method.name)
    rows.push(await measure(method, images, options.folder))
  }
  const measured = new Set(rows.map((row) => row.name))
  const taken = earlier.filter((row) => !measured.has(row.name))
  rows.push(...taken)
  rows.sort((a, b) => orderOf(a.name) - orderOf(b.name))
  return {
    tables: [tableOf(facts, rows)],
    notes: taken.length === 0 ? [noteOf(facts)] : [noteOf(facts), noteOfTaken(taken)],
    json: { images: facts, rows, takenNames: taken.map(({ name }) => name) },
  }
}

function methodsOf(only: readonly string[] | undefined): readonly SpaceMethod[] {
  if (only === undefined) return SPACE_METHODS
  const unknown = only.find((prefix) => !SPACE_METHODS.some((each) => isOf(each, prefix)))
  if (unknown !== undefined) {
    const names = SPACE_METHODS.map((each) => each.name).join(', ')
    throw new Error(`--only ${unknown} is none of ${names}, nor how one begins`)
  }
  return SPACE_METHODS.filter((each) => only.some((prefix) => isOf(each, prefix)))
}

/** `borg` are all of borg's. */
function isOf(method: SpaceMethod, prefix: string): boolean {
  return method.name === prefix || method.name.startsWith(`${prefix}-`)
}

function orderOf(name: string): number {
  return SPACE_METHODS.findIndex((method) => method.name === name)
}

async function measure(
  method: SpaceMethod,
  images: readonly CorpusImage[],
  folder: string,
): Promise<SpaceRow> {
  const home = join(folder, method.name)
  mkdirSync(home)
  try {
    const { name, description, codec, codecClass, reads } = method
    const result = await method.store(images, home)
    return { name, description, codec, codecClass, reads, ...result }
  } finally {
    await rm(home, { recursive: true, force: true, maxRetries: 3 })
  }
}

/** The rows of an earlier report, which must be about these very images. */
function rowsOf(path: string, facts: readonly ImageFacts[]): SpaceRow[] {
  const report = JSON.parse(readFileSync(path, 'utf8')) as {
    images: ImageFacts[]
    rows: SpaceRow[]
  }
  if (JSON.stringify(report.images) !== JSON.stringify(facts)) {
    throw new Error(`${path} was measured with another corpus`)
  }
  return report.rows
}

function tableOf(facts: readonly ImageFacts[], rows: readonly SpaceRow[]): BenchTable {
  const dataBytes = sumOf(facts)
  const ours = new Map(
    rows.filter((row) => row.name.startsWith('varve-')).map((row) => [row.codecClass, row]),
  )
  const lines = rows.map((row) => {
    const same = ours.get(row.codecClass)
    return [
      row.description,
      row.codec,
      row.reads,
      formatSize(row.physicalBytes),
      (row.physicalBytes / dataBytes).toFixed(3),
      same === undefined ? '–' : (row.physicalBytes / same.physicalBytes).toFixed(2),
      (row.tookMs / 1000).toFixed(0),
    ]
  })
  const header = ['', 'codec', 'random reads', 'physical', '÷ data', '÷ ours', 's']
  return { title: '', header, rows: lines }
}

function noteOf(facts: readonly ImageFacts[]): string {
  return (
    `${facts.length} images with ${formatSize(sumOf(facts))} allocated in all. ÷ ours: beside ` +
    'our row of the same class of codec: none; lz4, lzo; zstd, zlib, gzip.'
  )
}

function noteOfTaken(rows: readonly SpaceRow[]): string {
  const names = rows.map(({ name }) => name).join(', ')
  return `Of an earlier run on the very same images: ${names}.`
}

function sumOf(facts: readonly ImageFacts[]): number {
  return facts.reduce((sum, image) => sum + image.dataBytes, 0)
}
