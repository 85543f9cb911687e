/**
 * `bench files`: a writable copy of an image as a file, made by a clone of ours, by a plain copy
 * and by the reflinks of btrfs and XFS; what making it takes, then how it is read and written with
 * O_DIRECT. What it was copied from stays, so that what is written first has to leave that alone.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { cpuTable, ratioTable, type Comparison } from './comparison.ts'
import { verifyEqualFile, type EqualWork } from './equal-work.ts'
import { COPY_METHODS, type CopyMethod, type FileCopy } from './file-copies.ts'
import { COMPARED_WORKLOADS, fioLoad } from './fio.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { measureRounds, type Measured, type Subject } from './rounds.ts'
import { isInstalled } from './servers.ts'

const WORKLOADS = COMPARED_WORKLOADS.filter(
  ({ blockSizes, isFirstWrite }) => blockSizes !== '128k' && isFirstWrite !== true,
)

interface Prepared {
  sizeBytes: number
  copies: FileCopy[]
  work: EqualWork[]
}

export async function benchFiles(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 128 * MIB : GIB)
  const image = join(options.folder, 'random.raw')
  const amount = ['bs=1M', `count=${sizeBytes / MIB}`]
  await run('dd', ['if=/dev/urandom', `of=${image}`, ...amount, 'status=none'])
  const prepared: Prepared = { sizeBytes, copies: [], work: [] }
  try {
    for (const method of COPY_METHODS) await prepare(method, image, prepared, options)
    const measured = await measureRounds(subjectsOf(prepared.copies), {
      workloads: WORKLOADS,
      rounds: options.rounds,
      folder: options.folder,
      say: options.say,
      limitsOf: (_workload, round) => ({ sizeBytes, seconds: options.seconds, seed: round + 1 }),
      whenMeasured: (_workload, soFar) => {
        options.keep(describe(prepared, soFar))
        return Promise.resolve()
      },
    })
    return describe(prepared, measured)
  } finally {
    for (const copy of prepared.copies) await copy.stop()
  }
}

async function prepare(
  method: CopyMethod,
  image: string,
  { sizeBytes, copies, work }: Prepared,
  options: BenchOptions,
): Promise<void> {
  const { name, program } = method
  if (!isInstalled(program)) {
    options.say(`${name} is left out: ${program} is not installed`)
    return
  }
  options.say(`${name}: a copy of ${formatSize(sizeBytes)}`)
  const home = join(options.folder, name.replaceAll(/[ ,]+/g, '-'))
  mkdirSync(home)
  const copy = { name, ...(await method.start(home, image, sizeBytes)) }
  copies.push(copy)
  work.push(await verifyEqualFile(copy.path, options.folder, sizeBytes))
}

function subjectsOf(copies: readonly FileCopy[]): Subject[] {
  return copies.map(({ name, path, server }) => ({
    name,
    family: name,
    server,
    load: fioLoad({ path }),
  }))
}

function describe(prepared: Prepared, measured: Measured): BenchReport {
  const { sizeBytes, copies, work } = prepared
  const subjects = subjectsOf(copies)
  const comparison: Comparison = { subjects, withoutRatio: new Set(), measured }
  const ours = { ...comparison, subjects: subjects.filter(({ server }) => server !== null) }
  const made = copies.map(({ name, tookMs }) => [name, (tookMs / 1000).toFixed(2)])
  return {
    tables: [
      { title: `Making the copy of ${formatSize(sizeBytes)}`, header: ['', 's'], rows: made },
      ratioTable('Reading and writing it, O_DIRECT', comparison),
      cpuTable('CPU time of our server, µs an operation (CPUs busy)', ours),
    ],
    notes: [
      'All of it is in the page cache of the host: loop devices are without direct I/O, clients ' +
        'are with it.',
    ],
    json: {
      sizeBytes,
      copies: copies.map(({ name, description, tookMs }, index) => ({
        name,
        description,
        tookMs,
        ...work[index],
      })),
      workloads: [...measured].map(([workload, byName]) => ({
        workload,
        results: Object.fromEntries(byName),
      })),
    },
  }
}
