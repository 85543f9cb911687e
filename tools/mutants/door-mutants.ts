/** Bugs in the protocol core through which guests come in. */
import type { Mutant } from './mutant.ts'

export const DOOR_MUTANTS: readonly Mutant[] = [
  {
    name: 'nbd-fua-dropped',
    file: 'src/export/nbd/transmission.ts',
    before: `    const flags = request.has(CommandFlag.FUA) ? WRITE_FUA : 0
    const { offsetBytes, lengthBytes, tag } = operation`,
    after: `    const flags = 0
    const { offsetBytes, lengthBytes, tag } = operation`,
    bug: 'a FUA write over NBD is answered before it is durable: I2',
  },
  {
    name: 'nbd-payload-not-pinned',
    file: 'src/export/nbd/transmission.ts',
    before: '    operation.chunk = this.#input.pin()\n',
    after: '',
    bug: 'the next request is received over a payload that was not written yet',
  },
  {
    name: 'nbd-answers-at-the-first-piece',
    file: 'src/export/nbd/transmission.ts',
    before: 'request.pendingCount === 0 && request.issuedBytes === request.lengthBytes',
    after: 'request.pendingCount === 0',
    bug: 'a long write is answered when its first pieces are written',
  },
]
