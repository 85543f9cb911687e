/** Bugs in bringing blocks in order: the same bytes, unless somebody was in between. */
import type { Mutant } from './mutant.ts'

export const ORDER_MUTANTS: readonly Mutant[] = [
  {
    name: 'order-locks-nothing',
    file: 'src/pool/order.ts',
    before: 'this.#writes.lock([{ disk: volume.disk, firstBlock, endBlock }])',
    after: 'this.#writes.lock([])',
    bug: 'what a guest writes to a block while it is being moved is undone',
  },
]
