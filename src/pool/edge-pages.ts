/**
 * Read-modify-write of the partial blocks of a write, trim or zero. The result is a page of the
 * engine's that holds the whole block as it shall be. The write queue keeps every overlapping
 * operation back until this one is in the log, so nothing can slip between the read and the write.
 */
import { Errno } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { KIND_BLOCK } from '../format/node.ts'
import { EntryKind } from '../format/record.ts'
import { ioResult } from '../io/io.ts'
import { Lookup } from '../map/page-tables.ts'
import type { PoolCore } from './core.ts'
import type { EdgeState, WriteOp } from './write-op.ts'

/** Fills the edge pages of `op`; sets `op.result` instead of rejecting. */
export async function prepareEdges(core: PoolCore, op: WriteOp): Promise<void> {
  try {
    if (op.isHeadPartial) {
      op.headPage = await core.edgePages.take()
      op.head = await preparePage(core, op, op.firstBlock, op.headPage)
    }
    if (op.isTailPartial && op.result === 0) {
      op.tailPage = await core.edgePages.take()
      op.tail = await preparePage(core, op, op.endBlock - 1, op.tailPage)
    }
  } catch {
    // The segment store has logged which block cannot be read.
    op.result = -Errno.EIO
  }
}

/** Gives the pages back once their bytes are in the log, or will never be. */
export function releaseEdges(core: PoolCore, op: WriteOp): void {
  if (op.headPage >= 0) core.edgePages.give(op.headPage)
  if (op.tailPage >= 0) core.edgePages.give(op.tailPage)
  op.headPage = -1
  op.tailPage = -1
}

async function preparePage(
  core: PoolCore,
  op: WriteOp,
  blockIndex: number,
  page: number,
): Promise<EdgeState> {
  const { tables, store, io } = core
  const found = new Lookup()
  while (!tables.lookup(op.disk.root, blockIndex, 1, found)) await tables.fault(found)
  const { memory } = io.arena
  if (found.kind === KIND_BLOCK) {
    const result = await ioResult((completion) => {
      store.read(found.segment, found.slot, 1, page, completion, 0)
    })
    if (result < 0) op.result = result
  } else {
    if (op.kind !== EntryKind.data) return 'skip'
    memory.fill(0, page, page + BLOCK_SIZE_BYTES)
  }
  const blockStart = blockIndex * BLOCK_SIZE_BYTES
  const start = Math.max(op.offsetBytes, blockStart)
  const end = Math.min(op.endBytes, blockStart + BLOCK_SIZE_BYTES)
  const at = page + (start - blockStart)
  if (op.kind === EntryKind.data) {
    const source = op.arenaOffset + (start - op.offsetBytes)
    memory.copyWithin(at, source, source + (end - start))
  } else {
    memory.fill(0, at, at + (end - start))
  }
  return 'page'
}
