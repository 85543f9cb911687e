/**
 * Scrubs: without damage they find nothing; of damage that was there when they began nothing is
 * passed over, and where they say that nothing is lost, everything can be read.
 */
import { VarveError } from '../../src/base/errors.ts'
import { PAGE_SIZE_BYTES } from '../../src/format/page.ts'
import { DATA_SLOT_END, FOOTER_SLOT } from '../../src/format/segment.ts'
import type { ScrubFinding, ScrubReport } from '../../src/pool/types.ts'
import { SimViolation } from './data-step.ts'
import { countUnreadable, findDifference } from './model.ts'
import { readState } from './pool-under-test.ts'
import { joinMaintenance } from './upkeep-play.ts'
import type { World } from './world.ts'

/** Where a footer names its segment, says whether it is raw, and how many slots are used. */
const FOOTER_SEGMENT_OFFSET = 12
const FOOTER_ENCODING_OFFSET = 36
const FOOTER_USED_OFFSET = 40
const ENCODING_RAW = 1
const SEALED_BYTES: number = (FOOTER_SLOT + 1) * PAGE_SIZE_BYTES

export async function playScrub(world: World): Promise<void> {
  await joinMaintenance(world)
  if (world.hasFailed) return
  const { prng } = world
  const controller = new AbortController()
  if (prng.chance(0.25)) world.io.setTimer(prng.below(50), () => controller.abort())
  world.note('scrub')
  const before = placesOf(world)
  try {
    const work = world.mustPool().scrub({ rateBytes: null }, controller.signal)
    await judgeScrub(world, await world.drive(work), before)
  } catch (error) {
    if (!(error instanceof VarveError)) throw error
    // The pool's own run, when guests were idle.
    if (error.code === 'busy' || (error.code === 'canceled' && controller.signal.aborted)) return
    world.judgeFault(error)
  }
}

async function judgeScrub(world: World, found: ScrubReport, before: Set<string>): Promise<void> {
  const { report } = world
  report.scrubCount += 1
  report.scrubFoundCount += found.foundCount
  report.scrubHealedCount += found.healedCount
  world.note(`  read ${found.readBytes} bytes, found ${found.foundCount}`)
  for (const { where, outcome, message } of found.findings) {
    world.note(`  ${where} ${outcome}: ${message}`)
  }
  const wrong = found.findings.find((finding) => !isOfCrash(finding))
  if (!world.isTainted && wrong !== undefined) {
    throw new SimViolation(`a scrub found damage where none is: ${wrong.message}`)
  }
  const left = [...placesOf(world)].filter((place) => before.has(place))
  if (found.foundCount === 0 && left.length > 0 && !found.isResumed) {
    throw new SimViolation(`a scrub found nothing, and there is ${left[0]}`)
  }
  if (found.lostCount > 0) world.fence()
  // One that was gone on with has read some of it before the damage was there.
  else if (!world.isFenced && !world.io.disk.hasFaults && !found.isResumed) {
    await verifyWhole(world, before)
  }
}

/** What a power cut leaves, too: half a superblock page, half a seal, half an index. */
const CODES_OF_CRASH: readonly string[] = [
  'superblock-torn',
  'fingerprints-corrupt',
  'scrub-state-corrupt',
]

const CODES_OF_LEFT: readonly string[] = ['segment-header-corrupt', 'segment-footer-corrupt']

function isOfCrash({ code, outcome, message }: ScrubFinding): boolean {
  const isSeal = outcome === 'healed' && message.startsWith('opening the pool')
  // Of a segment that nobody needs and the next reclaim removes: an import that came to nothing.
  const isLeft = outcome === 'unused' && CODES_OF_LEFT.includes(code)
  return CODES_OF_CRASH.includes(code) || isSeal || isLeft
}

/** Nothing is lost, says the scrub: then all of it can be read, damaged places or not. */
async function verifyWhole(world: World, before: Set<string>): Promise<void> {
  const state = await world.drive(readState(world.io, world.mustPool(), () => true))
  const isNew = [...placesOf(world)].some((place) => !before.has(place))
  if (isNew) return
  const count = countUnreadable(state)
  if (count > 0) throw new SimViolation(`a scrub says nothing is lost, and ${count} blocks are`)
  const fault = findDifference(world.history.latest, state)
  if (fault !== null) throw new SimViolation(`after a scrub the pool differs: ${fault}`)
}

/**
 * Damaged pages of sealed segments; of others, only their records are looked at, by readers. Where
 * there are zeros now there may have been a hole, for all that can be told, and behind the slots
 * that are used lies what a crash left, or the segment whose file it was before.
 */
function placesOf({ io }: World): Set<string> {
  const { disk } = io
  const files = disk.files()
  const mayJudge = (path: string, pageIndex: number): boolean => {
    const data = files.get(path)?.data
    const id = Number(/(\d+)\.seg$/.exec(path)?.[1])
    if (data === undefined || data.sizeBytes < SEALED_BYTES) return false
    if (data.page(pageIndex)?.every((byte) => byte === 0) ?? true) return false
    const footer = Buffer.from(data.page(FOOTER_SLOT) ?? new Uint8Array(PAGE_SIZE_BYTES))
    // In a file that was another segment's before, that one's footer stays until then.
    if (!(footer.readUInt32LE(FOOTER_SEGMENT_OFFSET) >= id)) return false
    const isRaw = footer.readUInt32LE(FOOTER_ENCODING_OFFSET) === ENCODING_RAW
    const isUsed = pageIndex < footer.readUInt32LE(FOOTER_USED_OFFSET)
    return !isRaw || isUsed || pageIndex >= DATA_SLOT_END
  }
  const damaged = disk.damaged().filter(({ path, pageIndex }) => mayJudge(path, pageIndex))
  return new Set(damaged.map(({ path, pageIndex }) => `${path} page ${pageIndex}`))
}
