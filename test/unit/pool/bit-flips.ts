/** One turned-over bit in a closed pool, and all that must hold after it. */
import { createHash } from 'node:crypto'
import type { Codecs } from '../../../src/base/codec.ts'
import type { Prng } from '../../../src/base/prng.ts'
import { VarveError } from '../../../src/base/errors.ts'
import { checkPool } from '../../../src/check/check.ts'
import type { CheckReport } from '../../../src/check/check.ts'
import { DATA_SLOT_END, FOOTER_SLOT } from '../../../src/format/segment.ts'
import type { ScrubReport } from '../../../src/pool/types.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import type { PoolImage } from '../../support/pool-image.ts'
import { IMAGE_PAGE_BYTES } from '../../support/pool-image.ts'
import type { DamagedPage, RotPool } from './rot-pool.ts'
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
  /** Nothing noticed, because the frame that it hit decodes to the same bytes as before. */
  isOfNoConsequence: boolean
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
  const checked = await check(world)
  const outcome: FlipOutcome = {
    checkFound: checked.errors.length + checked.warnings.length + checked.leaks.length > 0,
    scrubFound: false,
    refused: false,
    healed: 0,
    lost: 0,
    unused: 0,
    failedCount: 0,
    isOfNoConsequence: false,
    faults: contradictionsOf(checked),
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
  const isUnnoticed = !outcome.checkFound && !outcome.scrubFound
  if (isUnnoticed) outcome.isOfNoConsequence = await decodesAlike(rot, seed, { file, page, bytes })
  return outcome
}

/** All that `check` decodes: by the hash of what is stored, the hash of what it decodes to. */
async function decodedOf(world: SimWorld): Promise<Map<string, string>> {
  const decoded = new Map<string, string>()
  const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
  const decode: Codecs['decode'] = (codec, source, from, storedBytes, target, to, rawBytes) => {
    const isSound = deflateCodecs.decode(codec, source, from, storedBytes, target, to, rawBytes)
    const raw = isSound ? hashOf(target.subarray(to, to + rawBytes)) : 'nothing'
    decoded.set(hashOf(source.subarray(from, from + storedBytes)), raw)
    return isSound
  }
  await world.run(checkPool(world.io, world.checksum, { ...deflateCodecs, decode }, POOL))
  return decoded
}

/** One thing is stored otherwise, and it decodes to what it decoded to before. */
async function decodesAlike(rot: RotPool, seed: number, damaged: DamagedPage): Promise<boolean> {
  const before = await decodedOf(await layOut(rot.image, seed))
  const after = await decodedOf(await layOut(rot.image, seed, damaged))
  const gone = [...before].filter(([stored]) => !after.has(stored))
  const come = [...after].filter(([stored]) => !before.has(stored))
  if (gone.length !== 1 || come.length !== 1) return false
  return gone[0][1] === come[0][1] && gone[0][1] !== 'nothing'
}

function check(world: SimWorld): Promise<CheckReport> {
  return world.run(checkPool(world.io, world.checksum, deflateCodecs, POOL))
}

/** What is lost to somebody is not called unused as well. */
function contradictionsOf({ errors, warnings }: CheckReport): string[] {
  const lost = new Set(errors.map(({ where }) => where))
  return warnings
    .filter(({ code, where }) => code === 'unused-corrupt' && lost.has(where))
    .map(({ where }) => `lost, and called unused: ${where}`)
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
  }
  // A frame may hold dead blocks beside those that are read.
  if (outcome.failedCount > 0 && outcome.healed + outcome.lost === 0) {
    outcome.faults.push(`it is read, and called unused: ${report.findings[0]?.where}`)
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
  const report = await check(world)
  if (outcome.lost === 0 && report.errors.length > 0) {
    outcome.faults.push(`after it: ${report.errors[0].code} ${report.errors[0].where}`)
  }
}
