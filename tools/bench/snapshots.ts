/**
 * `bench snapshots`: what a thousand snapshots cost a reader. Two volumes get the same data and
 * the same random overwrites; one is snapshotted all along. Then both are read in turns.
 */
import { join } from 'node:path'
import { HttpService } from '../../src/api/http-service.ts'
import { GIB, MIB } from '../../src/base/units.ts'
import { contentHash } from '../content-hash.ts'
import { table } from '../table.ts'
import { COMPARED_WORKLOADS, fio, type FioResult, type Workload } from './fio.ts'
import { fillDisk } from './nbd.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'
import { median, pairRatios, spread } from './statistics.ts'

const SNAPSHOT_COUNT = 1000
/** Rewritten between the first snapshot and the last, 64 blocks for each. */
const OVERWRITTEN_BYTES = 256 * MIB

const OVERWRITE: Workload = {
  name: 'overwrite',
  pattern: 'randwrite',
  blockSizes: '4k',
  queueDepth: 1,
}

export async function benchSnapshots(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? GIB
  const pool = join(options.folder, 'pool')
  await varve(pool, 'init')
  const server = await serveVarve(pool)
  const service = new HttpService(join(pool, 'control.sock'))
  try {
    const uris = { deep: varveUri(pool, 'deep'), plain: varveUri(pool, 'plain') }
    for (const name of ['deep', 'plain'] as const) {
      options.say(`filling ${name}`)
      await service.create({ name, sizeBytes })
      await fillDisk(uris[name], sizeBytes)
    }
    const overwrite = { sizeBytes, totalBytes: OVERWRITTEN_BYTES, seed: 11 }
    const snapshotMs = await overwriteAndSnapshot(service, uris.deep, overwrite, options)
    await fio(uris.plain, OVERWRITE, overwrite)
    const { snapshots } = await service.volume('deep')
    if (snapshots.length !== SNAPSHOT_COUNT) throw new Error(`${snapshots.length} snapshots`)
    server.mustRun()
    return await compareReads(uris, sizeBytes, snapshotMs, options)
  } finally {
    await service.close()
    await server.stop()
  }
}

/** Takes all snapshots while the overwrites go on; resolves to what each one took. */
async function overwriteAndSnapshot(
  service: HttpService,
  uri: string,
  overwrite: { sizeBytes: number; totalBytes: number; seed: number },
  options: BenchOptions,
): Promise<number[]> {
  options.say(`taking ${SNAPSHOT_COUNT} snapshots under load`)
  let isWriting = true
  const writing = fio(uri, OVERWRITE, { ...overwrite, rateIops: 6500 }).finally(() => {
    isWriting = false
  })
  // A failed load is reported when it is awaited below, after the snapshot in progress.
  writing.catch(() => undefined)
  const tookMs: number[] = []
  let underLoadCount = 0
  for (let index = 0; index < SNAPSHOT_COUNT; index += 1) {
    const startMs = performance.now()
    await service.snapshot([`deep@s${index}`])
    tookMs.push(performance.now() - startMs)
    if (isWriting) underLoadCount += 1
  }
  await writing
  options.say(`${underLoadCount} of them while blocks were being overwritten`)
  return tookMs
}

async function compareReads(
  uris: { deep: string; plain: string },
  sizeBytes: number,
  snapshotMs: readonly number[],
  options: BenchOptions,
): Promise<BenchReport> {
  // Maps, checksums and page cache are warm for both before anything is measured.
  for (const uri of [uris.deep, uris.plain]) await contentHash(uri)
  const rows: string[][] = []
  const records: Record<string, unknown>[] = []
  for (const workload of COMPARED_WORKLOADS) {
    if (workload.pattern.endsWith('write')) continue
    const results: Record<'deep' | 'plain', FioResult[]> = { deep: [], plain: [] }
    for (let round = 0; round < options.rounds; round += 1) {
      options.say(`${workload.name}, round ${round + 1} of ${options.rounds}`)
      for (const name of ['deep', 'plain'] as const) {
        const limits = { sizeBytes, seconds: options.seconds, seed: round + 1 }
        results[name].push(await fio(uris[name], workload, limits))
      }
    }
    const rate = (name: 'deep' | 'plain'): number[] => results[name].map(({ iops }) => iops)
    const ratios = pairRatios(rate('deep'), rate('plain'))
    const shown = (name: 'deep' | 'plain'): string =>
      `${(median(rate(name)) / 1e3).toFixed(1)} ±${(spread(rate(name)) * 50).toFixed(0)} %`
    rows.push([workload.name, shown('deep'), shown('plain'), `${median(ratios).toFixed(2)}×`])
    records.push({ workload, results, ratios })
  }
  const header = ['kIOPS', `${SNAPSHOT_COUNT} snapshots`, 'none', 'ratio']
  const snapshotMedianMs = median(snapshotMs)
  return {
    text: `${table(header, rows)}\n\none snapshot took ${snapshotMedianMs.toFixed(1)} ms (median)`,
    json: { snapshotCount: SNAPSHOT_COUNT, snapshotMedianMs, workloads: records },
  }
}
