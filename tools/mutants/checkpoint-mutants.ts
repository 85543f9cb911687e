/** Bugs in checkpoints: what they name, when, and in what. */
import type { Mutant } from './mutant.ts'

export const CHECKPOINT_MUTANTS: readonly Mutant[] = [
  {
    name: 'position-at-the-end',
    file: 'src/pool/checkpoint.ts',
    before: 'position: fixed.position satisfies LogPosition,',
    after: 'position: log.position() satisfies LogPosition,',
    bug: 'records written while the checkpoint was synced are in neither: lost writes, I2',
  },
  {
    name: 'next-segment-not-kept',
    file: 'src/pool/checkpoint.ts',
    before: 'nextSegmentId: fixed.nextSegmentId,',
    after: 'nextSegmentId: before.nextSegmentId,',
    bug: 'segments of imports that the checkpoint holds look newer than it, and are removed',
  },
  {
    name: 'one-superblock-page',
    file: 'src/pool/superblock-file.ts',
    before: '(superblock.generation % PAGE_COUNT) * PAGE_SIZE_BYTES',
    after: '(PAGE_COUNT - 1) * PAGE_SIZE_BYTES',
    bug: 'the superblock is written over itself: torn by a power cut, none is left',
  },
  {
    name: 'superblock-not-synced',
    file: 'src/pool/superblock-file.ts',
    before: 'await ioResult((completion) => this.#io.sync(this.#file, completion, 0))',
    after: '0',
    bug: 'what only the old checkpoint needs is deleted before the new one is durable: I4',
  },
  {
    name: 'superblock-read-is-durable',
    file: 'src/pool/superblock-file.ts',
    before: '      await self.#makeDurable()\n',
    after: '',
    bug: 'a superblock that only the page cache has is relied on while the other is overwritten',
  },
  {
    name: 'removal-in-no-delta',
    file: 'src/pool/catalogue.ts',
    before: '    this.#removedIds.push(disk.id)\n',
    after: '',
    bug: 'a disk that was removed comes back when the pool is opened after a checkpoint',
  },
  {
    name: 'rename-in-no-delta',
    file: 'src/pool/catalogue.ts',
    before: `    names.set(name, disk)
    disk.changed = true`,
    after: '    names.set(name, disk)',
    bug: 'a rename is forgotten by the next checkpoint, if nothing else changes the disk',
  },
  {
    name: 'restored-size-kept',
    file: 'src/pool/catalogue.ts',
    before: '    volume.sizeBytes = snapshot.sizeBytes\n',
    after: '',
    bug: 'a volume that was resized since keeps its size when it is restored',
  },
]
