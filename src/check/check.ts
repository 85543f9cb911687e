/**
 * Verifies a pool that nobody has open: from the superblock through the catalogue, the log and the
 * maps to the bytes of every live block. It changes nothing and shares no code with the pool but
 * the descriptions of the format, so a mistake of one is seen by the other.
 */
import { toHex } from '../base/bytes.ts'
import type { Checksum } from '../base/checksum.ts'
import type { Codecs } from '../base/codec.ts'
import { OperatingError } from '../base/errors.ts'
import type { Superblock } from '../format/superblock.ts'
import type { Io, IoLock } from '../io/io.ts'
import { BlockReader } from './block-reader.ts'
import { readCatalogue } from './catalogue-chain.ts'
import { Damage } from './damage.ts'
import { Disks } from './disks.ts'
import { FrameReader } from './frame-reader.ts'
import { markAliases } from './mark-aliases.ts'
import { LiveMarker, NodeCache } from './mark-live.ts'
import { DamageNamer } from './name-damage.ts'
import { OverlayFactory } from './overlay.ts'
import { PoolReader } from './pool-reader.ts'
import { readSuperblock } from './read-superblock.ts'
import { RecordDecoder } from './record-decoder.ts'
import { LogReplay } from './replay-log.ts'
import type { CheckReport, Findings } from './report.ts'
import { FindingList } from './report.ts'
import { judgeSegments, judgeUnused } from './judge-segments.ts'
import { surveySegments } from './segment-survey.ts'
import { SegmentTables } from './segment-tables.ts'
import { SlotSet } from './slot-set.ts'
import { BlockVerifier } from './verify-blocks.ts'
import { verifyFiles } from './verify-files.ts'
import { UnusedVerifier } from './verify-unused.ts'

export type { CheckReport, Finding } from './report.ts'

export interface CheckOptions {
  signal?: AbortSignal
  /** Bytes of live blocks read so far, and how many there are. */
  progress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * Checks the pool in the folder `path`. Damage is in the report; rejects with OperatingError:
 * `not-found` when there is no pool, `busy` while somebody has it open, `unsupported` for a newer
 * format or blocks that `codecs` cannot decode, `canceled`, `io` when a folder cannot be listed.
 */
export async function checkPool(
  io: Io,
  checksum: Checksum,
  codecs: Codecs,
  path: string,
  options: CheckOptions = {},
): Promise<CheckReport> {
  const reader = new PoolReader(io, path, options.signal)
  const findings: Findings = {
    errors: new FindingList(),
    leaks: new FindingList(),
    warnings: new FindingList(),
  }
  let lock: IoLock | null = null
  try {
    // First of all, so that no lock is made in a folder that is not a pool.
    await reader.stat('superblock')
    lock = await tryLock(io, path, findings)
    const report = emptyReport(findings)
    const superblock = await readSuperblock(reader, checksum, findings)
    if (superblock !== null) {
      await checkFrom(superblock, reader, checksum, codecs, findings, report, options)
    }
    const { errors, leaks, warnings } = findings
    report.suppressedCount =
      errors.suppressedCount + leaks.suppressedCount + warnings.suppressedCount
    return report
  } finally {
    await reader.close()
    await lock?.release()
  }
}

/** Null, with a warning, where the pool lies on something that cannot be written. */
async function tryLock(io: Io, path: string, findings: Findings): Promise<IoLock | null> {
  try {
    return await io.lock(`${path}/lock`, 'varve check')
  } catch (error) {
    if (!(error instanceof OperatingError) || error.code === 'busy') throw error
    const fact = `its lock cannot be taken (${error.message}); it may change while it is checked`
    findings.warnings.add('pool-not-locked', 'lock', fact)
    return null
  }
}

function emptyReport({ errors, leaks, warnings }: Findings): CheckReport {
  return {
    errors: errors.findings,
    leaks: leaks.findings,
    warnings: warnings.findings,
    suppressedCount: 0,
    poolId: null,
    clean: false,
    disks: [],
    segmentCount: 0,
    liveBlockCount: 0,
    verifiedBytes: 0,
    reclaimableBytes: 0,
    replayedRecordCount: 0,
    position: null,
  }
}

async function checkFrom(
  superblock: Superblock,
  reader: PoolReader,
  checksum: Checksum,
  codecs: Codecs,
  findings: Findings,
  report: CheckReport,
  options: CheckOptions,
): Promise<void> {
  const decoder = new RecordDecoder(superblock.poolId, checksum)
  const survey = await surveySegments(reader, decoder, superblock, findings)
  const tables = new SegmentTables(reader, codecs, decoder, superblock, survey, findings)
  const frames = new FrameReader(reader, codecs)
  const blocks = new BlockReader(reader, checksum, frames, survey, tables)
  const seed = new DataView(reader.io.randomBytes(4).slice().buffer).getUint32(0, true)
  const disks = new Disks(new OverlayFactory(seed), superblock.nextDiskId, findings)
  const live = new SlotSet()
  await readCatalogue(superblock.catalogue, blocks, disks, live, findings)
  disks.verifyCheckpoint(superblock.nextSegmentId)
  const replay = new LogReplay(reader, decoder, survey, disks, findings)
  const { recordCount, changeCount, position } = await replay.run(superblock.position)
  // Opening writes a checkpoint before anything else, and may be cut short there.
  if (superblock.clean && changeCount > 0) {
    const fact = `the pool was closed cleanly, yet ${changeCount} changes follow the checkpoint`
    findings.errors.add('superblock-not-clean', 'superblock', fact)
  }
  disks.verify()
  const damage = new Damage()
  const nodes = new NodeCache(blocks)
  await new LiveMarker(nodes, survey, live, damage, disks, findings).run()
  await markAliases(survey, tables, live, damage, findings)
  const verifier = new BlockVerifier(
    reader,
    checksum,
    frames,
    superblock,
    survey,
    tables,
    live,
    damage,
    findings,
  )
  await verifier.run(options.progress ?? (() => undefined))
  const unused = [decoder, frames, superblock, survey, tables, live, damage, findings] as const
  await new UnusedVerifier(reader, ...unused).run()
  await verifyFiles(reader, checksum, superblock.poolId, findings)
  judgeSegments(superblock, survey, live, damage, findings)
  await new DamageNamer(nodes, damage, disks).run()
  report.poolId = toHex(superblock.poolId)
  report.clean = superblock.clean
  for (const disk of disks.all()) {
    const { id, kind, sizeBytes } = disk
    report.disks.push({ id, name: disks.nameOf(disk), kind, sizeBytes })
  }
  report.segmentCount = survey.segments.length
  report.liveBlockCount = live.size
  report.verifiedBytes = verifier.verifiedBytes
  // What is lost could refer to anything, so nothing is called dead beside damage.
  if (findings.errors.count === 0) {
    report.reclaimableBytes = judgeUnused(superblock, survey, live, findings)
  }
  report.replayedRecordCount = recordCount
  report.position = position
}
