/** One fio run over NBD or on a file, with the figures we use taken out of its JSON. */
import { run } from '../command.ts'

export interface Workload {
  name: string
  pattern: 'randread' | 'randwrite' | 'read' | 'write' | 'randrw'
  /** fio's own notation, also of a split: `4k`, `4k/50:64k/50`. */
  blockSizes: string
  queueDepth: number
  /** Only into space never written before, a fixed amount each round. */
  isFirstWrite?: boolean
  /** On a file: through the page cache instead of O_DIRECT. */
  isBuffered?: true
  /** A flush after so many requests, all along. */
  flushEvery?: number
  /** By nbd-load instead: see the head of its source. */
  hasLightClient?: true
}

/** What the load goes to: the URI of an NBD export, or a file or device with Linux's own AIO. */
export type FioTarget = string | { path: string }

export interface FioLimits {
  /** Part of the export that is used, from `offsetBytes` or its start. */
  sizeBytes: number
  offsetBytes?: number
  /** Ends the run after this time … */
  seconds?: number
  /** … or after this much was moved; 0: once over the size. */
  totalBytes?: number
  /** Requests a second at most. */
  rateIops?: number
  /** The same seed visits the same blocks in the same order. */
  seed?: number
  /** A flush at the end, inside the measured time. */
  flushAtEnd?: boolean
}

export interface FioResult {
  iops: number
  bytesPerSecond: number
  movedBytes: number
  /** Reads and writes, flushes apart. */
  operationCount: number
  latencyMedianUs: number
  latency99Us: number
}

interface FioDirection {
  iops: number
  bw_bytes: number
  io_bytes: number
  total_ios: number
  clat_ns: { percentile?: Record<string, number> }
}

interface FioReport {
  jobs: { error: number; read: FioDirection; write: FioDirection }[]
}

const BULK = [
  { size: '128 KiB', blockSizes: '128k', queueDepth: 8 },
  { size: '1 MiB', blockSizes: '1m', queueDepth: 4 },
] as const

/** In sequence; `isFirstWrite` only where it is said. */
function bulk(name: string, pattern: 'read' | 'write', isFirstWrite = false): Workload[] {
  return BULK.map(({ size, blockSizes, queueDepth }) => ({
    name: `${size} ${name} QD${queueDepth}`,
    pattern,
    blockSizes,
    queueDepth,
    ...(isFirstWrite ? { isFirstWrite } : {}),
  }))
}

function small(pattern: 'randread' | 'randwrite', queueDepth: number): Workload {
  const name = `4 KiB random ${pattern.slice('rand'.length)} QD${queueDepth}`
  return { name, pattern, blockSizes: '4k', queueDepth }
}

/**
 * The workloads of the comparison. Reads come first, on a disk written in order that is still in
 * the page cache; then sequential writes: a log scatters what is overwritten at random, and what
 * that costs is a question of its own. First writes come last: what they bring into the page cache
 * would drive out what is overwritten in place.
 */
export const COMPARED_WORKLOADS: readonly Workload[] = [
  ...bulk('read', 'read'),
  small('randread', 1),
  small('randread', 32),
  ...bulk('overwrite', 'write'),
  small('randwrite', 1),
  small('randwrite', 32),
  {
    ...small('randwrite', 32),
    name: '4 KiB random write QD32, flush every 32',
    flushEvery: 32,
  },
  ...bulk('first write', 'write', true),
]

/** Of a run that is limited by time, what is not counted at its beginning. */
export const RAMP_MS = 1000

/** A subject's load by fio on one target. */
export function fioLoad(
  target: FioTarget,
): (workload: Workload, limits: FioLimits) => Promise<FioResult> {
  return (workload, limits) => fio(target, workload, limits)
}

/** Rejects when fio reports any error or moved nothing. */
export async function fio(
  target: FioTarget,
  workload: Workload,
  limits: FioLimits,
): Promise<FioResult> {
  const report = await runFio(fioArguments(target, workload, limits))
  const job = report.jobs[0]
  const directions = [job.read, job.write].filter((direction) => direction.io_bytes > 0)
  if (job.error !== 0) throw new Error(`fio failed with errno ${job.error}: ${workload.name}`)
  if (directions.length === 0) throw new Error(`fio moved nothing: ${workload.name}`)
  const sum = (pick: (direction: FioDirection) => number): number =>
    directions.reduce((total, direction) => total + pick(direction), 0)
  // Of a mixed load, the slower direction's latency.
  const percentileUs = (key: string): number =>
    Math.max(...directions.map(({ clat_ns }) => clat_ns.percentile?.[key] ?? 0)) / 1000
  return {
    iops: sum(({ iops }) => iops),
    bytesPerSecond: sum(({ bw_bytes }) => bw_bytes),
    movedBytes: sum(({ io_bytes }) => io_bytes),
    operationCount: sum(({ total_ios }) => total_ios),
    latencyMedianUs: percentileUs('50.000000'),
    latency99Us: percentileUs('99.000000'),
  }
}

function fioArguments(target: FioTarget, workload: Workload, limits: FioLimits): string[] {
  const isSplit = workload.blockSizes.includes('/')
  const args = [
    '--name=load',
    ...engineArguments(target, workload),
    `--rw=${workload.pattern}`,
    `${isSplit ? '--bssplit' : '--bs'}=${workload.blockSizes}`,
    `--iodepth=${workload.queueDepth}`,
    `--size=${limits.sizeBytes}`,
    `--randseed=${limits.seed ?? 1}`,
    // fresh random bytes in every request: nothing to deduplicate or compress
    '--refill_buffers',
    '--norandommap',
    '--output-format=json',
  ]
  if (limits.seconds !== undefined) {
    args.push('--time_based', `--runtime=${limits.seconds}`, `--ramp_time=${RAMP_MS / 1000}`)
  }
  if (limits.offsetBytes !== undefined) args.push(`--offset=${limits.offsetBytes}`)
  if (limits.totalBytes !== undefined) args.push(`--io_size=${limits.totalBytes}`)
  if (limits.rateIops !== undefined) args.push(`--rate_iops=${limits.rateIops}`)
  if (workload.flushEvery !== undefined) args.push(`--fsync=${workload.flushEvery}`)
  if (limits.flushAtEnd === true) args.push('--end_fsync=1')
  return args
}

function engineArguments(target: FioTarget, workload: Workload): string[] {
  if (typeof target === 'string') return ['--ioengine=nbd', `--uri=${target}`]
  const file = [`--filename=${target.path}`, '--allow_file_create=0', '--fallocate=none']
  if (workload.isBuffered === true) return [...file, '--ioengine=psync']
  return [...file, '--ioengine=libaio', '--direct=1']
}

async function runFio(args: readonly string[]): Promise<FioReport> {
  const { stdout } = await run('fio', args)
  // fio puts warnings before its JSON.
  const start = stdout.indexOf('\n{') + 1
  return JSON.parse(stdout.slice(stdout.startsWith('{') ? 0 : start)) as FioReport
}
