/** One turned-over bit in a closed pool, and all that must hold after it. */
import type { Prng } from '../../../src/base/prng.ts'
import { VarveError } from '../../../src/base/errors.ts'
import { checkPool } from '../../../src/check/check.ts'
import { DATA_SLOT_END, FOOTER_SLOT } from '../../../src/format/segment.ts'
import type { ScrubReport } from '../../../src/pool/types.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import type { PoolImage } from '../../support/pool-image.ts'
import { IMAGE_PAGE_BYTES } from '../../support/pool-image.ts'
import type { RotPool } from './rot-pool.ts'
import { ROT_OPTIONS, layOut, readAll } from './rot-pool.ts'
import { BLOCK, POOL } from './sim-pool.ts'
import type { SimWorld } from './sim-pool.ts'

export interface Flip {
  file: string
  page: number
  offset: number
  bit: number
  /** What the page is, roughly. */
  kind: string
}

export interface FlipOutcome {
  checkFound: boolean
  scrubFound: boolean
  /** The pool would not be opened. */
  refused: boolean
  /** Findings of the scrub, by outcome. */
  healed: number
  lost: number
  unused: number
  /** Blocks that could not be read before the scrub. */
  failedCount: number
  /** What must never be, in words. */
  faults: string[]
}

/** The pages of an image worth damaging, by kind. */
export function flipTargets(image: PoolImage): Map<string, { file: string; page: number }[]> {
  const targets = new Map<string, { file: string; page: number }[]>()
  const add = (kind: string, file: string, page: number): void => {
    const list = targets.get(kind) ?? []
    list.push({ file, page })
    targets.set(kind, list)
  }
  for (const [file, { pages, sizeBytes }] of image.files) {
    if (!file.startsWith('segments/')) {
      for (const page of pages.keys()) add(file, file, page)
      continue
    }
    const isSettled = sizeBytes > (FOOTER_SLOT + 1) * IMAGE_PAGE_BYTES
    for (const page of pages.keys()) {
      if (page === 0) add('header', file, page)
      else if (page === FOOTER_SLOT) add('footer', file, page)
      else if (page > FOOTER_SLOT) add('directory', file, page)
      else if (page >= DATA_SLOT_END) continue
      else if (isSettled) add('frames', file, page)
      else add(isRecord(image.page(file, page)) ? 'record' : 'block', file, page)
    }
    if (isSettled || !pages.has(FOOTER_SLOT)) continue
    for (let page = DATA_SLOT_END; page < FOOTER_SLOT; page += 1) add('table', file, page)
  }
  return targets
}

function isRecord(page: Uint8Array): boolean {
  return Buffer.from(page.subarray(0, 8)).toString('latin1') === 'VARVREC1'
}

/** A kind of page first, so that rare ones get their share. */
export function drawFlip(image: PoolImage, prng: Prng): Flip {
  const targets = flipTargets(image)
  const kind = prng.pick([...targets.keys()])
  const { file, page } = prng.pick(targets.get(kind) ?? [])
  const sizeBytes = image.files.get(file)?.sizeBytes ?? 0
  const offset = prng.below(Math.min(IMAGE_PAGE_BYTES, sizeBytes - page * IMAGE_PAGE_BYTES))
  return { file, page, offset, bit: prng.below(8), kind }
}

export async function tryFlip(rot: RotPool, flip: Flip, seed: number): Promise<FlipOutcome> {
  const { file, page, offset, bit } = flip
  const bytes = rot.image.page(file, page).slice()
  bytes[offset] ^= 1 << bit
  const world = await layOut(rot.image, seed, { file, page, bytes })
  const outcome: FlipOutcome = {
    checkFound: (await countFindings(world)) > 0,
    scrubFound: false,
    refused: false,
    healed: 0,
    lost: 0,
    unused: 0,
    failedCount: 0,
    faults: [],
  }
  try {
    await world.open(ROT_OPTIONS)
  } catch (error) {
    if (!(error instanceof VarveError)) throw error
    outcome.refused = true
    outcome.scrubFound = true
    return outcome
  }
  await judgeReads(world, rot, outcome)
  const report = await world.run(world.pool.scrub({ rateBytes: null }))
  noteReport(report, outcome)
  await judgeAfter(world, rot, outcome)
  return outcome
}

async function countFindings(world: SimWorld): Promise<number> {
  const report = await world.run(checkPool(world.io, world.checksum, deflateCodecs, POOL))
  return report.errors.length + report.warnings.length + report.leaks.length
}

async function judgeReads(world: SimWorld, rot: RotPool, outcome: FlipOutcome): Promise<void> {
  const failed = new Set<string>()
  const found = await readAll(world, (disk, block) => failed.add(`${disk} ${block}`))
  outcome.failedCount = failed.size
  for (const [disk, expected] of rot.contents) {
    const bytes = found.get(disk)
    if (bytes?.length !== expected.length) {
      outcome.faults.push(`${disk} is gone, or of another size`)
      continue
    }
    if (Buffer.compare(bytes, expected) === 0) continue
    for (let at = 0; at < expected.length; at += BLOCK) {
      if (failed.has(`${disk} ${at / BLOCK}`)) continue
      const here = bytes.subarray(at, at + BLOCK)
      const isSame = Buffer.compare(here, expected.subarray(at, at + BLOCK)) === 0
      if (!isSame) outcome.faults.push(`wrong bytes of ${disk} at ${at}`)
    }
  }
}

function noteReport(report: ScrubReport, outcome: FlipOutcome): void {
  outcome.scrubFound = report.foundCount > 0
  for (const finding of report.findings) {
    outcome[finding.outcome] += 1
    if (outcome.failedCount > 0 && finding.outcome === 'unused') {
      outcome.faults.push(`it is read, and called unused: ${finding.where}`)
    }
  }
}

/** What was healed is as it was; guests go on; what is left is sound. */
async function judgeAfter(world: SimWorld, rot: RotPool, outcome: FlipOutcome): Promise<void> {
  const before = outcome.failedCount
  await judgeReads(world, rot, outcome)
  if (outcome.lost === 0 && outcome.failedCount > 0) {
    outcome.faults.push(`${outcome.failedCount} blocks cannot be read, and nothing is lost`)
  }
  outcome.failedCount = before
  const client = world.disk('a')
  if ((await client.fill(0, BLOCK, 0x5a)) < 0) outcome.faults.push('a write failed')
  client.close()
  await world.run(world.pool.reclaim())
  await world.close()
  const report = await world.run(checkPool(world.io, world.checksum, deflateCodecs, POOL))
  if (outcome.lost === 0 && report.errors.length > 0) {
    outcome.faults.push(`after it: ${report.errors[0].code} ${report.errors[0].where}`)
  }
}
