/** Bugs in what may be taken away, and in imports, which refer to what may be. */
import type { Mutant } from './mutant.ts'

const RECLAIM: readonly Mutant[] = [
  {
    name: 'grace-skipped',
    file: 'src/pool/reclaim.ts',
    before: '    await core.cohorts.grace()\n',
    after: '',
    bug: 'slots are swept that a reader has looked up already',
  },
  {
    name: 'one-checkpoint',
    file: 'src/pool/reclaim.ts',
    before: '  await checkpointer.run()\n',
    after: '',
    bug: 'the older superblock page names what is swept: with the newer one damaged all is lost',
  },
  {
    name: 'imports-not-marked',
    file: 'src/pool/reclaim.ts',
    before: '      for (const { root } of imports) roots.push(rootAddress(root))\n',
    after: '',
    bug: 'what an import refers to that has no name yet is swept',
  },
  {
    name: 'sweeps-what-came-later',
    file: 'src/pool/reclaim.ts',
    before: 'await sweep.run(fixed.sweepableIds)',
    after: 'await sweep.run(core.store.ids().filter((id) => core.store.get(id).sealed))',
    bug: 'segments sealed since the state was fixed are swept by marks that do not know them',
  },
  {
    name: 'aliases-not-marked',
    file: 'src/pool/mark.ts',
    before: '      marked.mark(targetSegment, targetSlot)\n',
    after: '',
    bug: 'what only an alias refers to is swept',
  },
  {
    name: 'alias-to-what-is-swept',
    file: 'src/pool/references.ts',
    before: `    if (this.#sweepableIds?.has(segment) !== true) return false
    return this.#marked?.isMarked(segment, slot) === true`,
    after: '    return this.#sweepableIds?.has(segment) === true',
    bug: 'an alias is made to a slot that the same run takes away',
  },
  {
    name: 'alias-to-what-is-not-durable',
    file: 'src/pool/references.ts',
    before: 'if (this.#sweepableIds?.has(segment) !== true) return false',
    after: 'if (this.#sweepableIds?.has(segment) !== true) return true',
    bug: 'an alias is made to a block that a power cut may take away: I6',
  },
  {
    name: 'punches-one-too-many',
    file: 'src/pool/sweep.ts',
    before: '      start = slot + 1\n',
    after: '      start = slot\n',
    bug: 'the live block before a dead run is punched out with it',
  },
  {
    name: 'last-dead-run-kept',
    file: 'src/pool/sweep.ts',
    before: 'slot <= DATA_SLOT_END; slot += 1) {\n      if (slot < DATA_SLOT_END && !',
    after: 'slot < DATA_SLOT_END; slot += 1) {\n      if (slot < DATA_SLOT_END && !',
    bug: 'the dead blocks at the end of a segment are never given back',
  },
]

const IMPORTS: readonly Mutant[] = [
  {
    name: 'import-not-synced',
    file: 'src/segment/bulk-writer.ts',
    before: '    await Promise.all(this.#syncs)\n',
    after: '',
    bug: 'an import’s name is durable before its blocks are: I4',
  },
  {
    name: 'import-admits-once',
    file: 'src/pool/bulk-import.ts',
    before: '      if (!this.#admits(segment, slot + i)) return false\n',
    after: '',
    bug: 'an import refers to what a reclaim that began since has not marked',
  },
  {
    name: 'refers-to-unfinished',
    file: 'src/pool/references.ts',
    before: '    if (importing !== undefined && importing !== owner) return false\n',
    after: '',
    bug: 'an import refers to blocks of another, which may be taken back',
  },
  {
    name: 'admits-while-marking',
    file: 'src/pool/references.ts',
    before: `    if (this.#sweepableIds?.has(segment) !== true) return true
    return this.#marked?.isMarked(segment, slot) === true`,
    after: `    if (this.#sweepableIds?.has(segment) !== true) return true
    return this.#marked?.isMarked(segment, slot) !== false`,
    bug: 'while a reclaim is marking, an import refers to what it will find dead',
  },
]

export const RECLAIM_MUTANTS: readonly Mutant[] = [...RECLAIM, ...IMPORTS]
