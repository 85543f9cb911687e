/**
 * Benchmarks of the whole system with the tools people use; docs/benchmarking.md has the method.
 *
 *     node dist/tools/bench.js nbd|fuse|snapshots|memory|recovery|clones [options]
 *     node dist/tools/bench.js space|import|settled|crowd|usage [options]
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { cpus, release, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { tryParseSize } from '../src/base/units.ts'
import { benchClones } from './bench/clones.ts'
import { benchCrowd } from './bench/crowd.ts'
import { benchFuse } from './bench/fuse.ts'
import { benchImport } from './bench/import.ts'
import { benchMemory } from './bench/memory.ts'
import { benchNbd } from './bench/nbd.ts'
import { benchRecovery } from './bench/recovery.ts'
import type { BenchOptions, BenchReport } from './bench/report.ts'
import { SERVER_KINDS, type ServerKind } from './bench/servers.ts'
import { benchSettled } from './bench/settled.ts'
import { benchSnapshots } from './bench/snapshots.ts'
import { benchSpace } from './bench/space.ts'
import { benchUsage } from './bench/usage.ts'

const BENCHMARKS: Record<string, (options: BenchOptions) => Promise<BenchReport>> = {
  nbd: benchNbd,
  fuse: benchFuse,
  snapshots: benchSnapshots,
  memory: benchMemory,
  recovery: benchRecovery,
  clones: benchClones,
  space: benchSpace,
  import: benchImport,
  settled: benchSettled,
  crowd: benchCrowd,
  usage: benchUsage,
}

const USAGE = `Usage: npm run bench -- BENCHMARK [options]

  nbd         varve and qemu-nbd side by side, on the same work
  fuse        a disk as a file, beside qemu-storage-daemon and beside libfuse
  snapshots   reading a volume with 1,000 snapshots and one with none, as pairs
  memory      resident memory of varve serve while 20 GiB are moved
  recovery    kill -9 after 1 GiB, with and without checkpoints, then the time to reopen
  clones      1,000 clones of a 100 GiB volume in one command
  space       what a corpus of images takes, beside btrfs, qcow2, borg, restic and others
  import      a raw image into a pool, beside qemu-img convert and borg create
  settled     reading what was settled, and guests beside settling and reclaiming
  crowd       memory and disk of 100 clones of an image that all read it
  usage       counting who uses what: 1,000 snapshots, 100 clones

  --rounds N       how often each measurement is repeated (5)
  --seconds N      how long each one takes (5)
  --size SIZE      of the disk, e.g. 4G
  --servers A,B    nbd only: of ${SERVER_KINDS.join(', ')} (varve,qemu-nbd)
  --corpus PATH    space only: the folder of images that tools/corpus made
  --only A,B       space only: of those who are compared, by name or how it begins (all)
  --against FILE   space only: an earlier --json, for those whom --only leaves out
  --image FILE     import, settled, crowd: the image
  --folder PATH    where to put pools and images (${tmpdir()})
  --json           print all measurements as JSON instead of a table
`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '5' },
      size: { type: 'string' },
      servers: { type: 'string', default: 'varve,qemu-nbd' },
      corpus: { type: 'string' },
      only: { type: 'string' },
      against: { type: 'string' },
      image: { type: 'string' },
      folder: { type: 'string', default: tmpdir() },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const name = positionals[0] ?? ''
  if (values.help || positionals.length !== 1 || !(name in BENCHMARKS)) {
    process.stdout.write(USAGE)
    return values.help ? 0 : 2
  }
  const folder = mkdtempSync(join(values.folder, 'varve-bench-'))
  const remove = (): void => rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      // Servers are killed at exit (see Server), so what they write to goes after them.
      process.once('exit', remove)
      process.exit(1)
    })
  }
  try {
    const report = await BENCHMARKS[name]({
      rounds: wholeNumber(values.rounds, '--rounds'),
      seconds: wholeNumber(values.seconds, '--seconds'),
      sizeBytes: values.size === undefined ? undefined : sizeOf(values.size),
      servers: serversOf(values.servers),
      corpusPath: values.corpus,
      imagePath: values.image,
      only: values.only?.split(','),
      againstPath: values.against,
      folder,
      say: (message) => process.stderr.write(`${message}\n`),
    })
    const json = { apiVersion: 1, benchmark: name, host: describeHost(), ...report.json }
    console.log(values.json ? JSON.stringify(json, null, 2) : report.text)
    return 0
  } finally {
    remove()
  }
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

function serversOf(text: string): ServerKind[] {
  return text.split(',').map((name) => {
    const kind = SERVER_KINDS.find((known) => known === name)
    if (kind === undefined) throw new Error(`--servers takes ${SERVER_KINDS.join(', ')}`)
    return kind
  })
}

function describeHost(): Record<string, unknown> {
  const memory = /MemTotal:\s+(\d+) kB/.exec(readFileSync('/proc/meminfo', 'utf8'))
  return {
    cpu: cpus()[0].model,
    cpuCount: cpus().length,
    memoryBytes: Number(memory?.[1]) * 1024,
    kernel: release(),
    node: process.version,
  }
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`)
  return 1
})
