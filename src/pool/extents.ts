import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { ExtentList } from '../export/target.ts'
import { EXTENT_CHANGED, EXTENT_HOLE, EXTENT_ZERO } from '../export/target.ts'
import { KIND_BLOCK, KIND_UNMAPPED } from '../format/node.ts'
import { diff } from '../map/diff.ts'
import { Lookup } from '../map/page-tables.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'

function push(out: ExtentList, lengthBytes: number, flags: number): boolean {
  const last = out.count - 1
  if (last >= 0 && out.flags[last] === flags) {
    out.lengths[last] += lengthBytes
    return true
  }
  if (out.count === out.lengths.length) return false
  out.lengths[out.count] = lengthBytes
  out.flags[out.count] = flags
  out.count += 1
  return true
}

/** Which parts of the range have blocks, which read as zeros. Rejects when a node is unreadable. */
export async function allocationExtents(
  core: PoolCore,
  disk: Disk,
  offsetBytes: number,
  lengthBytes: number,
  out: ExtentList,
): Promise<void> {
  const found = new Lookup()
  const end = offsetBytes + lengthBytes
  out.count = 0
  let offset = offsetBytes
  while (offset < end) {
    const block = Math.floor(offset / BLOCK_SIZE_BYTES)
    const countMax = Math.ceil(end / BLOCK_SIZE_BYTES) - block
    while (!core.tables.lookup(disk.root, block, countMax, found)) await core.tables.fault(found)
    const runEnd = Math.min(end, (block + found.count) * BLOCK_SIZE_BYTES)
    const flags = flagsOf(found.kind)
    if (!push(out, runEnd - offset, flags)) return
    offset = runEnd
  }
}

function flagsOf(kind: number): number {
  if (kind === KIND_BLOCK) return 0
  return kind === KIND_UNMAPPED ? EXTENT_HOLE | EXTENT_ZERO : EXTENT_ZERO
}

/** Which parts of the range differ from `snapshot`. Rejects when a node is unreadable. */
export async function changedExtents(
  core: PoolCore,
  disk: Disk,
  snapshot: Disk,
  offsetBytes: number,
  lengthBytes: number,
  out: ExtentList,
): Promise<void> {
  const { tables, catalogue } = core
  const end = offsetBytes + lengthBytes
  const from = tables.copyRoot(snapshot.root)
  const to = tables.copyRoot(disk.root)
  disk.epoch = catalogue.newEpoch()
  const cohort = core.cohorts.enter()
  out.count = 0
  let offset = offsetBytes
  try {
    const startBlock = Math.floor(offsetBytes / BLOCK_SIZE_BYTES)
    for await (const run of diff(from, to, startBlock, Math.ceil(end / BLOCK_SIZE_BYTES), tables)) {
      const runStart = Math.max(offset, run.blockIndex * BLOCK_SIZE_BYTES)
      const runEnd = Math.min(end, (run.blockIndex + run.count) * BLOCK_SIZE_BYTES)
      if (runStart > offset && !push(out, runStart - offset, 0)) return
      if (!push(out, runEnd - runStart, EXTENT_CHANGED)) return
      offset = runEnd
    }
    if (offset < end) push(out, end - offset, 0)
  } finally {
    tables.releaseRoot(from)
    tables.releaseRoot(to)
    cohort.leave()
  }
}
