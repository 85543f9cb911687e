/**
 * `bench vhost`: a disk through shared memory, beside ours over NBD and beside the vhost-user-blk
 * export of qemu-storage-daemon: first by a front end without a guest, then by a guest under
 * emulation, where the processor that is emulated is most of what is measured.
 */
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { buildLoad, programLoad } from './c-load.ts'
import { cpuTable, ratiosTo, ratioTable, type Comparison } from './comparison.ts'
import { verifyEqualWork } from './equal-work.ts'
import { COMPARED_WORKLOADS, fioLoad, type FioResult, type Workload } from './fio.ts'
import { fillDisk } from './nbd.ts'
import type { Bar, BenchOptions, BenchReport } from './report.ts'
import { measureRounds, type Measured, type Run, type Subject } from './rounds.ts'
import { contendersOf, startService, tidyAfter, type NbdService } from './servers.ts'
import { median } from './statistics.ts'
import { prepareGuest, runInGuest } from './vhost-subjects.ts'
import { VHOST_CONTENDERS, type Guest, type VhostContender } from './vhost-subjects.ts'

const NBD = 'varve over NBD'
const WORKLOADS = COMPARED_WORKLOADS.filter(
  ({ blockSizes, isFirstWrite, flushEvery }) =>
    blockSizes !== '1m' && isFirstWrite !== true && flushEvery === undefined,
)
/** In a guest one request at a time says only what emulation costs. */
const GUEST_WORKLOADS = WORKLOADS.filter(({ queueDepth }) => queueDepth > 1)

interface Disk {
  service: NbdService
  socketPath: string
}

interface Prepared {
  sizeBytes: number
  disks: Disk[]
  subjects: Subject[]
  /** On whose disk a guest did not finish, and was booted again. */
  unfinished: string[]
}

export async function benchVhost(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 64 * MIB : GIB)
  const prepared: Prepared = { sizeBytes, disks: [], subjects: [], unfinished: [] }
  const program = await buildLoad(options.folder, 'vhost-load')
  try {
    for (const contender of contendersOf(VHOST_CONTENDERS, options.only)) {
      await prepare(contender, prepared, options)
    }
    for (const { service, socketPath } of prepared.disks) {
      const { contender, uri, server } = service
      const { name, family } = contender
      prepared.subjects.push({ name, family, server, load: programLoad(program, socketPath) })
      if (family !== 'varve') continue
      prepared.subjects.push({ name: NBD, family: NBD, server, load: fioLoad(uri) })
    }
    const alone = await measureAlone(prepared, options)
    const inGuest = await measureInGuest(prepared, options, alone)
    return describe(prepared, alone, inGuest)
  } finally {
    for (const { service } of prepared.disks) await service.server.stop()
  }
}

async function prepare(
  contender: VhostContender,
  { sizeBytes, disks }: Prepared,
  options: BenchOptions,
): Promise<void> {
  options.say(`starting ${contender.name} and filling ${formatSize(sizeBytes)}`)
  const service = await startService(contender, options.folder, sizeBytes)
  disks.push({ service, socketPath: contender.socketPath(service.home) })
  await fillDisk(service.uri, sizeBytes)
  const sizes = { diskBytes: sizeBytes, filledBytes: sizeBytes }
  await verifyEqualWork(service.uri, options.folder, sizes, false)
}

function measureAlone(prepared: Prepared, options: BenchOptions): Promise<Measured> {
  return measureRounds(prepared.subjects, {
    workloads: WORKLOADS,
    rounds: options.rounds,
    folder: options.folder,
    say: options.say,
    limitsOf: (_workload, round) => ({
      sizeBytes: prepared.sizeBytes,
      seconds: options.seconds,
      seed: round + 1,
    }),
    whenMeasured: async (workload, measured) => {
      options.keep(describe(prepared, measured, new Map()))
      await tidyAfter(
        workload,
        prepared.disks.map(({ service }) => service),
      )
    },
  })
}

/**
 * A boot a round for each disk, all workloads in it. What came before has overwritten the disk at
 * random, which scatters it in a log: it is written in order anew, as it was for the first readers.
 */
async function measureInGuest(
  prepared: Prepared,
  options: BenchOptions,
  alone: Measured,
): Promise<Measured> {
  const guest = await guestOf(options)
  const measured: Measured = new Map()
  for (let round = 0; round < options.rounds; round += 1) {
    for (const { service, socketPath } of prepared.disks) {
      const { name } = service.contender
      const { sizeBytes } = prepared
      options.say(`a guest on ${name}, round ${round + 1} of ${options.rounds}`)
      await fillDisk(service.uri, sizeBytes)
      await service.tidy()
      await run('sync', ['-f', options.folder])
      const limits = { sizeBytes, seconds: options.seconds, seed: round + 1 }
      const loads = GUEST_WORKLOADS.map((workload) => ({ workload, limits }))
      const boot = (): Promise<FioResult[]> => runInGuest(guest, socketPath, loads)
      const results = await boot().catch((error: unknown) => {
        options.say(`on ${name}: ${(error as Error).message}; once more`)
        prepared.unfinished.push(name)
        return boot()
      })
      for (const [index, workload] of GUEST_WORKLOADS.entries()) {
        const byName = measured.get(workload) ?? new Map<string, Run[]>()
        byName.set(name, [...(byName.get(name) ?? []), asRun(results[index])])
        measured.set(workload, byName)
      }
      service.server.mustRun()
    }
    options.keep(describe(prepared, alone, measured))
  }
  return measured
}

async function guestOf({ folder }: BenchOptions): Promise<Guest> {
  const program = await buildLoad(folder, 'guest-load', '-static')
  const { stdout } = await run('which', ['busybox'])
  return prepareGuest(folder, stdout.trim(), program)
}

/** What the server took cannot be told from when in the guest's run it took it. */
function asRun(result: FioResult): Run {
  return { ...result, cpuCount: null, cpuUsPerOperation: null, device: null }
}

function describe(prepared: Prepared, alone: Measured, inGuest: Measured): BenchReport {
  const { sizeBytes, disks, subjects } = prepared
  const withoutRatio = new Set<string>()
  const withoutGuest = { subjects, withoutRatio, measured: alone }
  const guests = subjects.filter(({ family }) => family !== NBD)
  const inside = { subjects: guests, withoutRatio, measured: inGuest }
  const hasOurs = subjects[0]?.family === 'varve'
  const tables = [
    ratioTable('A front end without a guest', withoutGuest),
    cpuTable('CPU time of the server, µs an operation (CPUs busy)', withoutGuest),
  ]
  if (inside.measured.size > 0) tables.push(ratioTable('A guest under emulation', inside))
  return {
    tables,
    bars: hasOurs ? [...barsAlone(withoutGuest), ...barsInGuest(inside)] : [],
    notes: [
      `${formatSize(sizeBytes)} of random bytes, in the page cache except where it is none.`,
      'Written in order again before each guest; `bench overwrite` says what scattered reads cost.',
      ...prepared.unfinished.map(
        (name) => `A guest on ${name} did not finish; it was booted again.`,
      ),
    ],
    json: {
      sizeBytes,
      servers: disks.map(({ service: { contender, description } }) => ({
        name: contender.name,
        description,
      })),
      alone: recordsOf(alone),
      inGuest: recordsOf(inGuest),
    },
  }
}

function recordsOf(measured: Measured): { workload: Workload; results: Record<string, Run[]> }[] {
  return [...measured].map(([workload, byName]) => ({
    workload,
    results: Object.fromEntries(byName),
  }))
}

function barsAlone(comparison: Comparison): Bar[] {
  return [...comparison.measured.keys()].flatMap((workload) => {
    if (workload.blockSizes !== '4k' || workload.queueDepth !== 32) return []
    return barOf(workload, comparison, NBD, `${workload.name} ÷ NBD`, 2)
  })
}

function barsInGuest(comparison: Comparison): Bar[] {
  return [...comparison.measured.keys()].flatMap((workload) =>
    barOf(workload, comparison, 'qemu-storage-daemon', `${workload.name} in a guest ÷ QEMU`, 1),
  )
}

function barOf(
  workload: Workload,
  comparison: Comparison,
  family: string,
  what: string,
  atLeast: number,
): Bar[] {
  const ratios = ratiosTo(family, workload, comparison)
  if (ratios === null) return []
  return [{ what, demanded: { atLeast }, measured: median(ratios), unit: '' }]
}
