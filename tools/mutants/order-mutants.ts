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
  {
    name: 'order-looks-before-the-lock',
    file: 'src/pool/order.ts',
    before: 'if (!(await this.#survey(volume, firstBlock)) || !this.#stretch.isScattered) return\n',
    after: '\n',
    bug: 'what was written while the lock was waited for is undone',
  },
  {
    name: 'rewrite-of-another-state',
    file: 'src/pool/write-queue.ts',
    before: 'if (op.isRewrite && !this.#isAsFound(op)) {',
    after: 'if (op.isRewrite && op.isEnded) {',
    bug: 'a volume that was restored while blocks were moved gets them back; a removed one, too',
  },
  {
    name: 'order-takes-what-is-unread',
    file: 'src/pool/order.ts',
    before: 'if (result !== 0) stretch.fix(index, count)',
    after: 'if (result > 0) stretch.fix(index, count)',
    bug: 'a block that failed its check is written anew, with a checksum that says it is right',
  },
]
