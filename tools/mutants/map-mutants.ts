/** Bugs in maps and in what leads guests' requests to them. */
import type { Mutant } from './mutant.ts'

const MAPS: readonly Mutant[] = [
  {
    name: 'clone-keeps-the-epoch',
    file: 'src/pool/catalogue.ts',
    before: '    source.epoch = this.newEpoch()\n',
    after: '',
    bug: 'a volume that was cloned changes nodes that the clone shares: I5',
  },
  {
    name: 'shared-child-not-counted',
    file: 'src/map/dirty-nodes.ts',
    before: '        child.references += 1\n',
    after: '',
    bug: 'a dirty node that two maps hold is dropped when one of them lets go: I5',
  },
  {
    name: 'lent-leaf-taken',
    file: 'src/map/dirty-nodes.ts',
    before: 'node.level === 0 && !node.isLent',
    after: 'node.level === 0',
    bug: 'a walk of what a checkpoint wrote meets leaves that were changed since',
  },
  {
    name: 'same-run-too-long',
    file: 'src/map/update.ts',
    before: 'return span - (block % span)',
    after: 'return span',
    bug: 'a trim that begins inside a hole passes over mapped blocks behind it',
  },
  {
    name: 'huge-entry-from-its-start',
    file: 'src/map/lookup.ts',
    before: '(word1 & SLOT_MASK) + offset : 0',
    after: '(word1 & SLOT_MASK) : 0',
    bug: 'a read inside a huge entry gets the blocks of its beginning',
  },
  {
    name: 'huge-entry-expanded-flat',
    file: 'src/map/dirty-nodes.ts',
    before: 'const step = kind === KIND_HUGE ? 1 : 0\n  let word',
    after: 'const step = 0\n  let word',
    bug: 'a write into a huge entry makes all its other blocks the first one',
  },
  {
    name: 'leaf-folds-at-a-zero',
    file: 'src/map/dirty-nodes.ts',
    before: 'if (this.#run.count < NODE_ENTRY_COUNT) return false',
    after: 'if (this.#run.count < NODE_ENTRY_COUNT - 1) return false',
    bug: 'a leaf whose last block lies elsewhere is stored as one run',
  },
  {
    name: 'stale-leaf-after-trim',
    file: 'src/map/page-tables.ts',
    before: `'a kind without an address')
    this.#lastRoot = null`,
    after: "'a kind without an address')",
    bug: 'reads after a trim look into the leaf that was remembered from before',
  },
  {
    name: 'shrink-leaves-a-block',
    file: 'src/pool/catalogue.ts',
    before: 'const blockIndex = Math.ceil(operation.sizeBytes / BLOCK_SIZE_BYTES)',
    after: 'const blockIndex = Math.floor(operation.sizeBytes / BLOCK_SIZE_BYTES) + 1',
    bug: 'the block behind a shrunken volume’s end comes back when it grows',
  },
  {
    name: 'copy-skips-too-far',
    file: 'src/pool/copy-range.ts',
    before: 'return { operation: null, count: there.run[0] }',
    after: 'return { operation: null, count: first.run[0] }',
    bug: 'a hole is copied only as far as the target begins with one: old blocks stay behind it',
  },
]

const GUESTS: readonly Mutant[] = [
  {
    name: 'overlaps-pass-by',
    file: 'src/pool/write-queue.ts',
    before: "if (this.#held.length > 0 && op.lock === null && this.#isTaken(op)) return 'held'\n",
    after: '',
    bug: 'writes overtake a read-modify-write of the same block: its neighbours’ bytes are lost',
  },
  {
    name: 'edge-page-not-cleared',
    file: 'src/pool/edge-pages.ts',
    before: '    memory.fill(0, page, page + BLOCK_SIZE_BYTES)\n',
    after: '',
    bug: 'a partial write to a hole shows bytes of somebody else’s block around it',
  },
  {
    name: 'tail-not-zeroed',
    file: 'src/pool/resize.ts',
    before: 'if (isZeroed) await zeroTail(writes, disk, sizeBytes, lock)\n',
    after: '',
    bug: 'what was cut off within a block comes back when the volume grows',
  },
  {
    name: 'reserve-never-released',
    file: 'src/pool/space.ts',
    before: 'if (this.#releaseCount === releaseCount) await this.#inTurn(() => this.#release())',
    after: '',
    bug: 'on a full disk what makes room is refused, too: I9',
  },
  {
    name: 'reserve-piece-remembered',
    file: 'src/pool/reserve.ts',
    before: `    // Gone, also when the sync fails (seed 1695).
    this.#pieces.delete(name)
`,
    after: '',
    bug: 'a piece of the reserve that was given up is given up again: I9',
  },
]

export const MAP_MUTANTS: readonly Mutant[] = [...MAPS, ...GUESTS]
