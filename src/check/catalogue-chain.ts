/** Follows the catalogue's parts back to the beginning of a full and applies them forward. */
import { CorruptionError } from '../base/errors.ts'
import type { Part, PartAddress } from '../format/catalogue.ts'
import { PartKind, decodePart, verifyLine } from '../format/catalogue.ts'
import { RECORD_BLOCK_COUNT_MAX } from '../format/record.ts'
import type { BlockReader } from './block-reader.ts'
import { addressKey } from './damage.ts'
import type { Disks } from './disks.ts'
import type { Findings } from './report.ts'
import { placeOf } from './report.ts'
import type { SlotSet } from './slot-set.ts'

/**
 * Fills `disks` with what the newest checkpoint holds and `live` with the slots of the parts.
 * Parts are read twice, so that only their addresses are kept.
 */
export async function readCatalogue(
  newest: PartAddress,
  blocks: BlockReader,
  disks: Disks,
  live: SlotSet,
  findings: Findings,
): Promise<void> {
  const errorCountBefore = findings.errors.count
  for (const address of await findParts(newest, blocks, live, findings)) {
    const part = await tryReadPart(address, blocks, findings)
    disks.isIncomplete = findings.errors.count > errorCountBefore
    if (part !== null) applyPart(part, address, disks, findings)
  }
  disks.isIncomplete = findings.errors.count > errorCountBefore
}

/** Oldest first. What cannot be reached behind a damaged part is missing. */
async function findParts(
  newest: PartAddress,
  blocks: BlockReader,
  live: SlotSet,
  findings: Findings,
): Promise<PartAddress[]> {
  const addresses: PartAddress[] = []
  const seen = new Set<number>()
  let next = newest
  while (next.blockCount > 0) {
    const key = addressKey(next.segment, next.slot)
    const where = placeOf(next.segment, next.slot, next.blockCount)
    if (seen.has(key)) {
      findings.errors.add('catalogue-chain', where, 'the parts of the catalogue form a ring')
      break
    }
    seen.add(key)
    const part = await tryReadPart(next, blocks, findings)
    if (part === null) break
    live.add(next.segment, next.slot, next.blockCount)
    addresses.push(next)
    if (part.kind === PartKind.operation) {
      findings.errors.add('catalogue-chain', where, 'a journalled operation is no checkpoint part')
    }
    if (part.previous.blockCount === 0 && part.kind !== PartKind.full) {
      findings.errors.add('catalogue-chain', where, 'the oldest part is not the first of a full')
    }
    next = part.previous
  }
  return addresses.reverse()
}

async function tryReadPart(
  address: PartAddress,
  blocks: BlockReader,
  findings: Findings,
): Promise<Part | null> {
  const { segment, slot, blockCount } = address
  const where = placeOf(segment, slot, blockCount)
  if (blockCount > RECORD_BLOCK_COUNT_MAX) {
    findings.errors.add('catalogue-corrupt', where, `no part has ${blockCount} blocks`)
    return null
  }
  const read = await blocks.read(segment, slot, blockCount)
  if (!(read instanceof Uint8Array)) {
    const fact = `a part of the catalogue is lost: ${read.fact} (${read.code})`
    findings.errors.add('catalogue-corrupt', read.where, fact)
    return null
  }
  try {
    return decodePart(read)
  } catch (error) {
    if (!(error instanceof CorruptionError)) throw error
    findings.errors.add('catalogue-corrupt', where, error.message)
    return null
  }
}

function applyPart(part: Part, address: PartAddress, disks: Disks, findings: Findings): void {
  const where = placeOf(address.segment, address.slot, address.blockCount)
  for (const line of part.lines) {
    try {
      disks.applyLine(verifyLine(line), where)
    } catch (error) {
      if (!(error instanceof CorruptionError)) throw error
      findings.errors.add('catalogue-corrupt', where, error.message)
    }
  }
}
