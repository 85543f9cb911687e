/**
 * Benchmarks of the whole system with the tools people use; docs/benchmarking.md has the method.
 *
 *     node dist/tools/bench.js BENCHMARK|all|docs [options]
 *
 * Exit code 0: measured; 1: something failed; 2: not understood; 130: interrupted.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { tryParseSize } from '../src/base/units.ts'
import { benchClones } from './bench/clones.ts'
import { benchCrowd } from './bench/crowd.ts'
import { recordFolder, writeDocument } from './bench/docs-tables.ts'
import { benchFiles } from './bench/files.ts'
import { benchFuse } from './bench/fuse.ts'
import { benchImport } from './bench/import.ts'
import { benchMemory } from './bench/memory.ts'
import { benchNbd } from './bench/nbd.ts'
import { benchOverwrite } from './bench/overwrite.ts'
import { asJson, beginRecord, writeRecord, type BenchRecord } from './bench/record.ts'
import { benchRecovery } from './bench/recovery.ts'
import { asText, type BenchOptions, type BenchReport } from './bench/report.ts'
import { benchSettled } from './bench/settled.ts'
import { benchSnapshots } from './bench/snapshots.ts'
import { benchSpace } from './bench/space.ts'
import { benchUsage } from './bench/usage.ts'
import { benchVhost } from './bench/vhost.ts'

interface Benchmark {
  measure(options: BenchOptions): Promise<BenchReport>
  /** What `all` leaves it out without. */
  needs?: 'corpusPath' | 'imagePath'
}

/** In the order of `all`. */
const BENCHMARKS: Record<string, Benchmark> = {
  nbd: { measure: benchNbd },
  snapshots: { measure: benchSnapshots },
  overwrite: { measure: benchOverwrite },
  memory: { measure: benchMemory },
  vhost: { measure: benchVhost },
  fuse: { measure: benchFuse },
  files: { measure: benchFiles },
  recovery: { measure: benchRecovery },
  clones: { measure: benchClones },
  usage: { measure: benchUsage },
  settled: { measure: benchSettled, needs: 'imagePath' },
  crowd: { measure: benchCrowd, needs: 'imagePath' },
  import: { measure: benchImport, needs: 'imagePath' },
  space: { measure: benchSpace, needs: 'corpusPath' },
}

const USAGE = `Usage: npm run bench -- BENCHMARK|all|docs [options]

  nbd         varve beside qemu-nbd, qemu-storage-daemon and nbdkit, on the same work
  snapshots   reading disks with 1 to 1,000 snapshots, beside qcow2's
  overwrite   reading in sequence what was overwritten at random, before and after settling
  memory      resident memory of varve serve while 20 GiB are moved; pauses of its collector
  vhost       through shared memory, with and without a guest, beside qemu-storage-daemon
  fuse        a disk as a file, beside qemu-storage-daemon and beside libfuse
  files       a writable copy of an image as a file, beside cp and reflinks of btrfs and XFS
  recovery    kill -9 after 1 GiB, with and without checkpoints, then the time to reopen
  clones      1,000 clones of a 100 GiB volume in one command
  usage       counting who uses what: 1,000 snapshots, 100 clones
  settled     reading what was settled, and guests beside settling and reclaiming
  crowd       memory and disk of 100 clones of an image that all read it
  import      a raw image into a pool, beside qemu-img convert and borg create
  space       what a corpus of images takes, beside btrfs, qcow2, borg, restic and others

  all         every one of them for which there is an image or a corpus, then docs
  docs        the tables and pictures of docs/benchmarking.md, of the records in --out

  --rounds N       how often each measurement is repeated (5)
  --seconds N      how long each one takes (5)
  --quick          one round of one second on little data: does everything run?
  --size SIZE      of the disk, e.g. 4G
  --only A,B       nbd, overwrite, snapshots, space: of those who are compared, by name or how
                   it begins (all)
  --corpus PATH    space: the folder of images that tools/corpus made
  --against FILE   space: an earlier --json, for those whom --only leaves out
  --image FILE     import, settled, crowd: the image
  --folder PATH    where to put pools and images (${tmpdir()})
  --out FOLDER     keep a record there, as it grows (all: docs/benchmarks, nothing with --quick)
  --json           print the record instead of tables
`

const OPTIONS = {
  rounds: { type: 'string' },
  seconds: { type: 'string' },
  quick: { type: 'boolean', default: false },
  size: { type: 'string' },
  only: { type: 'string' },
  corpus: { type: 'string' },
  against: { type: 'string' },
  image: { type: 'string' },
  folder: { type: 'string', default: tmpdir() },
  out: { type: 'string' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const

type Common = Omit<BenchOptions, 'folder' | 'keep'> & {
  parentFolder: string
  outFolder: string | undefined
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: OPTIONS })
  const name = positionals[0] ?? ''
  const isKnown = name in BENCHMARKS || name === 'all' || name === 'docs'
  if (values.help || positionals.length !== 1 || !isKnown) {
    process.stdout.write(USAGE)
    return values.help ? 0 : 2
  }
  const common = commonOptions(values)
  if (name === 'docs') return makeDocument(values.out ?? recordFolder)
  if (name === 'all') {
    const outFolder = values.out ?? (values.quick ? undefined : recordFolder)
    return measureAll({ ...common, outFolder }, values.json)
  }
  print(await measure(name, common, values.json), values.json)
  return 0
}

function commonOptions(
  values: ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>['values'],
): Common {
  return {
    rounds: wholeNumber(values.rounds ?? (values.quick ? '1' : '5'), '--rounds'),
    seconds: wholeNumber(values.seconds ?? (values.quick ? '1' : '5'), '--seconds'),
    isQuick: values.quick,
    sizeBytes: values.size === undefined ? undefined : sizeOf(values.size),
    corpusPath: values.corpus,
    imagePath: values.image,
    only: values.only?.split(','),
    againstPath: values.against,
    parentFolder: values.folder,
    outFolder: values.out,
    say: (message) => process.stderr.write(`${message}\n`),
  }
}

/** One after the other; what fails does not keep the others from being measured. */
async function measureAll(common: Common, isJson: boolean): Promise<number> {
  let failureCount = 0
  for (const [name, { needs }] of Object.entries(BENCHMARKS)) {
    if (needs !== undefined && common[needs] === undefined) {
      const option = needs === 'corpusPath' ? '--corpus' : '--image'
      common.say(`${name} is left out: it wants ${option}`)
      continue
    }
    common.say(`== ${name}`)
    try {
      print(await measure(name, common, isJson), isJson)
    } catch (error) {
      failureCount += 1
      common.say(`${name} failed: ${(error as Error).message}`)
    }
  }
  if (!common.isQuick && common.outFolder !== undefined) makeDocument(common.outFolder)
  return failureCount === 0 ? 0 : 1
}

function makeDocument(folder: string): number {
  process.stderr.write(`docs/benchmarking.md shows ${writeDocument(folder).join(', ')}\n`)
  return 0
}

async function measure(name: string, common: Common, isJson: boolean): Promise<BenchRecord> {
  const { rounds, seconds, isQuick, outFolder, parentFolder } = common
  const folder = mkdtempSync(join(parentFolder, 'varve-bench-'))
  const recordOf = beginRecord({ benchmark: name, rounds, seconds, isQuick }, folder)
  const remove = (): void => rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  let soFar: BenchRecord | null = null
  const keep = (report: BenchReport, isComplete: boolean): BenchRecord => {
    soFar = recordOf(report, isComplete)
    if (outFolder !== undefined) writeRecord(outFolder, soFar)
    return soFar
  }
  const interrupt = (): void => {
    if (soFar !== null) print(soFar, isJson)
    // Servers are killed at exit (see Server), so what they write to goes after them.
    process.once('exit', remove)
    process.exit(130)
  }
  process.once('SIGINT', interrupt)
  process.once('SIGTERM', interrupt)
  try {
    const report = await BENCHMARKS[name].measure({
      ...common,
      folder,
      keep: (partial) => keep(partial, false),
    })
    return keep(report, true)
  } finally {
    process.removeListener('SIGINT', interrupt)
    process.removeListener('SIGTERM', interrupt)
    remove()
  }
}

function print(record: BenchRecord, isJson: boolean): void {
  const heading = record.isComplete ? '' : 'Interrupted; measured by then:\n\n'
  process.stdout.write(`${isJson ? asJson(record) : heading + asText(record)}\n`)
}

function wholeNumber(text: string, option: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`${option} takes a whole number from 1`)
  return value
}

function sizeOf(text: string): number {
  const bytes = tryParseSize(text)
  if (bytes === null) throw new Error(`--size ${text} is no size; write 4G or 512M`)
  return bytes
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`)
  return 1
})
