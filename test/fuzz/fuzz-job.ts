/** Targets in a process of their own: `fuzz-job.js JSON`, a list of JobReports on stdout. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { installEdgeMap } from './edges.ts'
import type { JobOptions, JobReport } from './job-options.ts'
import type { LoaderData } from './loader.ts'
import { Watch } from './watch.ts'
import { held } from '../hostile/live-bytes.ts'

const options = JSON.parse(process.argv[2]) as JobOptions
const data: LoaderData = {
  prefix: new URL('../../src/', import.meta.url).href,
  plant: options.plant,
}
register('./loader.js', { parentURL: import.meta.url, data })
const edges = installEdgeMap()
// Whatever loads code under test comes only now.
const { Fuzzer, GROWTH_BYTES_MAX, LimitError } = await import('./fuzzer.ts')
const { loadTarget } = await import('./registry.ts')

const watch = new Watch(options.findingsPath, options.limitMs)

function save(folder: string, target: string, input: Uint8Array): string {
  mkdirSync(folder, { recursive: true })
  const name = createHash('sha256').update(input).digest('hex').slice(0, 16)
  const path = join(folder, `${target}-${name}`)
  writeFileSync(path, input)
  return path
}

function keptInputs(name: string): Uint8Array[] {
  if (options.corpusPath === null) return []
  const folder = join(options.corpusPath, name)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .sort()
    .map((file) => new Uint8Array(readFileSync(join(folder, file))))
}

async function heldBytes(inputs: readonly Uint8Array[]): Promise<number> {
  const { heapBytes, externalBytes } = await held()
  const inputBytes = inputs.reduce((sum, { length }) => sum + length, 0)
  return heapBytes + externalBytes - inputBytes
}

async function fuzz(name: string): Promise<JobReport> {
  watch.begin(name)
  const target = await loadTarget(name)
  edges.forget()
  const fuzzer = new Fuzzer(target, options.seed, edges, (input) => watch.before(input))
  process.removeAllListeners('uncaughtException')
  process.removeAllListeners('beforeExit')
  process.on('uncaughtException', (error) => fuzzer.fail(error))
  // Only the watch is left, and it keeps no process alive: nothing will settle what is awaited.
  process.on('beforeExit', () => fuzzer.fail(new Error('waits for what never comes')))
  const startMs = performance.now()
  await fuzzer.begin(keptInputs(name))
  const beforeBytes = await heldBytes(fuzzer.corpus)
  const isOver = (): boolean =>
    (options.timeMs > 0 && performance.now() - startMs > options.timeMs) ||
    (options.isUntilFound && fuzzer.findings.length > 0)
  await fuzzer.run(options.executionCount, isOver)
  const tookMs = performance.now() - startMs
  const keptBytes = (await heldBytes(fuzzer.corpus)) - beforeBytes
  if (keptBytes > GROWTH_BYTES_MAX) fuzzer.report(new LimitError(`keeps ${keptBytes} bytes`))
  const { keepPath } = options
  if (keepPath !== null) {
    for (const input of fuzzer.corpus) save(join(keepPath, name), name, input)
  }
  return {
    target: name,
    executionCount: fuzzer.executionCount,
    tookMs,
    edgeCount: edges.seenCount,
    claimedCount: edges.claimedCount,
    corpusCount: fuzzer.corpus.length,
    growthBytesMax: fuzzer.growthBytesMax,
    keptBytes,
    residentBytesMax: process.resourceUsage().maxRSS * 1024,
    findings: fuzzer.findings.map(({ key, stack, input }) => ({
      key,
      path: save(options.findingsPath, name, input),
      stack,
      sizeBytes: input.length,
    })),
  }
}

const reports: JobReport[] = []
try {
  for (const name of options.targets) reports.push(await fuzz(name))
} catch (error) {
  // Thrown on, it would go to the handler of what nobody caught, and nobody would hear of it.
  process.stderr.write(`${(error as Error).stack ?? String(error)}\n`)
  process.exit(1)
}
await watch.end()
process.stdout.write(`${JSON.stringify(reports)}\n`)
process.exit(0)
