/**
 * `bench import`: a raw image into a fresh pool, beside qemu-img convert to qcow2 and borg create,
 * and into a pool that has it already; docs/benchmarking.md has the method.
 */
import { mkdirSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { corpusImages, warm, type CorpusImage } from './corpus-images.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'
import { borgCreate, borgInit } from './space-methods.ts'
import { median, pairRatios, spread } from './statistics.ts'

/** What has been done to bring the data to the disk when the command ends. */
type Durable = 'yes' | 'no'

interface Contestant {
  name: string
  durable: Durable
  /** Resolves to how long it took, in ms; `folder` is empty and only its own. */
  take(image: CorpusImage, folder: string): Promise<number>
}

const OURS = 'varve import'
const AGAIN = 'varve import, again'

const CONTESTANTS: readonly Contestant[] = [
  { name: OURS, durable: 'yes', take: (image, folder) => importOnce(image, folder) },
  { name: AGAIN, durable: 'yes', take: importAgain },
  { name: 'varve import, served', durable: 'yes', take: importServed },
  qemu('qemu-img convert', 'no', []),
  qemu('qemu-img convert -t writeback', 'yes', ['-t', 'writeback']),
  qemu('qemu-img convert -t none', 'yes', ['-t', 'none']),
  borg('borg create, fixed 4 MiB', 'fixed,4194304'),
  borg('borg create, buzhash', 'buzhash,19,23,21,4095'),
]

export async function benchImport(options: BenchOptions): Promise<BenchReport> {
  const image = imageOf(options.imagePath)
  const tookMs = new Map<string, number[]>(CONTESTANTS.map(({ name }) => [name, []]))
  await warm([image])
  for (let round = 0; round < options.rounds; round += 1) {
    options.say(`round ${round + 1} of ${options.rounds}`)
    for (const contestant of CONTESTANTS) {
      const home = join(options.folder, 'home')
      mkdirSync(home)
      tookMs.get(contestant.name)?.push(await contestant.take(image, home))
      await rm(home, { recursive: true })
      // Nobody pays for what another left dirty, nor for the removal of its files.
      await run('sync', ['-f', options.folder])
    }
  }
  return describe(image, tookMs)
}

function imageOf(path: string | undefined): CorpusImage {
  if (path === undefined) throw new Error('import wants --image FILE, one of tools/corpus')
  const image = corpusImages(dirname(path)).find((each) => basename(each.path) === basename(path))
  if (image === undefined) throw new Error(`--image ${path} is no file whose name ends in .img`)
  return image
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now()
  await action()
  return performance.now() - startMs
}

async function importOnce(image: CorpusImage, folder: string): Promise<number> {
  const pool = join(folder, 'pool')
  await varve(pool, 'init')
  const tookMs = await timed(() => importAs(pool, image, 'first'))
  await verify(pool, image, 'first')
  return tookMs
}

/** The identical image once more, into the pool that has it. */
async function importAgain(image: CorpusImage, folder: string): Promise<number> {
  const pool = join(folder, 'pool')
  await varve(pool, 'init')
  await importAs(pool, image, 'first')
  await run('sync', ['-f', pool])
  const tookMs = await timed(() => importAs(pool, image, 'second'))
  await verify(pool, image, 'second')
  return tookMs
}

async function importServed(image: CorpusImage, folder: string): Promise<number> {
  const pool = join(folder, 'pool')
  await varve(pool, 'init')
  const server = await serveVarve(pool)
  try {
    const tookMs = await timed(() => importAs(pool, image, 'first'))
    server.mustRun()
    return tookMs
  } finally {
    await server.stop()
  }
}

async function importAs(pool: string, image: CorpusImage, name: string): Promise<void> {
  await varve(pool, 'import', '--progress', 'none', image.path, name)
}

/** Outside the time: a disk that is not its image would be no figure. */
async function verify(pool: string, image: CorpusImage, name: string): Promise<void> {
  const server = await serveVarve(pool)
  try {
    const uri = varveUri(pool, name)
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image.path, uri])
  } finally {
    await server.stop()
  }
}

/** Without `-t` it is "unsafe": not even the flush at the end reaches the disk. */
function qemu(name: string, durable: Durable, cache: readonly string[]): Contestant {
  return {
    name,
    durable,
    take: (image, folder) => {
      const target = join(folder, 'image.qcow2')
      const words = ['convert', '-f', 'raw', '-O', 'qcow2', '-W', '-m', '16', ...cache]
      return timed(() => run('qemu-img', [...words, image.path, target]))
    },
  }
}

function borg(name: string, chunker: string): Contestant {
  return {
    name,
    durable: 'yes',
    take: async (image, folder) => {
      const repository = join(folder, 'repository')
      await borgInit(repository, folder)
      return timed(() => borgCreate(repository, folder, image, chunker, 'lz4'))
    },
  }
}

function describe(image: CorpusImage, tookMs: ReadonlyMap<string, number[]>): BenchReport {
  const ours = tookMs.get(OURS) ?? []
  const results = CONTESTANTS.map(({ name, durable }) => {
    const all = tookMs.get(name) ?? []
    const ratios = pairRatios(all, ours)
    return { name, durable, tookMs: all, ratios }
  })
  const rows = results.map((result) => [
    result.name,
    result.durable,
    (median(result.tookMs) / 1000).toFixed(2),
    `${(spread(result.tookMs) * 50).toFixed(0)} %`,
    (image.dataBytes / 1000 / median(result.tookMs)).toFixed(0),
    median(result.ratios).toFixed(2),
  ])
  const header = ['', 'durable', 's', '±', 'MB/s of data', '÷ first import']
  const { name, sizeBytes, dataBytes } = image
  return {
    tables: [{ title: '', header, rows }],
    notes: [`${name}: ${formatSize(sizeBytes)}, ${formatSize(dataBytes)} of it allocated.`],
    json: { image: { name, sizeBytes, dataBytes }, results },
  }
}
