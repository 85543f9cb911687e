/** Bugs below the address: settling, dedup, settled and raw reads. */
import type { Mutant } from './mutant.ts'

export const SETTLE_MUTANTS: readonly Mutant[] = [
  {
    name: 'settled-file-not-synced',
    file: 'src/segment/settle.ts',
    before: '      await this.#store.syncFile(file, id)\n',
    after: '',
    bug: 'the new file takes the old one’s place before its bytes are durable: I6',
  },
  {
    name: 'settling-left-behind',
    file: 'src/segment/segment-store.ts',
    before: 'name.endsWith(SETTLING_SUFFIX) ||',
    after: '(name.endsWith(SETTLING_SUFFIX) && this.#segments.size === 0) ||',
    bug: 'what a crash left of a settle is in the way of the next one, and leaks',
  },
  {
    name: 'alias-to-itself',
    file: 'src/segment/settle.ts',
    before: 'if (found.segment !== 0 && isLower(found.segment, found.slot, id, slot)) return found',
    after: 'if (found.segment !== 0) return found',
    bug: 'a block becomes an alias of itself or of a later one',
  },
  {
    name: 'dead-slots-kept',
    file: 'src/segment/settle.ts',
    before: 'request.isLive(slot + count)\n  ) {',
    after: 'request.isLive(slot)\n  ) {',
    bug: 'dead blocks behind a live one are settled with it: space is not given back',
  },
  {
    name: 'alias-not-counted',
    file: 'src/segment/rewrite.ts',
    before: '    this.report.aliasCount += 1\n',
    after: '',
    bug: 'the footer denies its aliases: what they point to is not marked, and swept',
  },
  {
    name: 'alias-run-across-segments',
    file: 'src/segment/settled-read.ts',
    before: '      places[2 * (at + count)] === segment &&\n',
    after: '',
    bug: 'aliases to consecutive slots of two segments are read from the first',
  },
  {
    name: 'equal-run-across-segments',
    file: 'src/pool/bulk-import.ts',
    before: 'const run = addressRun(this.#equal, done, count)',
    after: `let run = 1
        const slot = this.#equal[2 * done + 1]
        while (done + run < count && this.#equal[2 * (done + run) + 1] === slot + run) run += 1`,
    bug: 'an import refers to the right slots of the wrong segment: other data',
  },
  {
    name: 'frames-by-segment-id',
    file: 'src/segment/frame-cache.ts',
    before: 'return state.serial * KEY_FACTOR + offsetBytes',
    after: 'return state.id * KEY_FACTOR + offsetBytes',
    bug: 'after a segment was settled again, frames of its old file are read',
  },
  {
    name: 'frame-over-the-edge',
    file: 'src/segment/settled-read.ts',
    before: 'this.#count >= STREAM_BLOCK_COUNT && blocks === frameBlockCount(word1)',
    after: 'this.#count >= STREAM_BLOCK_COUNT',
    bug: 'a frame of which a part was asked for is decoded over what lies beside it',
  },
  {
    name: 'settled-read-unchecked',
    file: 'src/segment/settled-read.ts',
    before: '    if (!areSound) this.#verify()\n',
    after: '',
    bug: 'a block of a settled segment is not held against its checksum: I8',
  },
  {
    name: 'raw-read-unchecked',
    file: 'src/segment/block-read.ts',
    before: 'if (this.#store.isReady(state, this.#slot, this.#count)) this.#verifySoon(state)',
    after: 'if (this.#store.isReady(state, this.#slot, this.#count)) this.#finish(0)',
    bug: 'a block is not held against its checksum: I8',
  },
  {
    name: 'batch-not-verified',
    file: 'src/segment/verify-batch.ts',
    before: 'read.verified(bad === -1)',
    after: 'read.verified(true)',
    bug: 'short reads are not held against their checksums: I8',
  },
]
