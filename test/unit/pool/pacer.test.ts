/** Background work that waits for its turn is not waited for by those who have given it up. */
import t from 'tap'
import { missingCodecs } from '../../../src/base/codec.ts'
import type { Io } from '../../../src/io/io.ts'
import { Pacer } from '../../../src/pool/pacer.ts'

/** Whose timers never come: as in a process that is ending, which none of them keeps alive. */
const ENDING: Pick<Io, 'nowMs' | 'setTimer' | 'pause'> = {
  nowMs: () => 0,
  setTimer: () => () => undefined,
  pause: () => Promise.resolve(),
}

for (const what of ['guests are busy', 'it is paused']) {
  t.test(`while ${what}, work that is given up ends at once`, async (t) => {
    const guests = { operationCount: 0 }
    const signal = new AbortController()
    const codecs = { ...missingCodecs(), setGentle: () => undefined }
    const signals = [undefined, signal.signal]
    const pacer = new Pacer(ENDING as Io, codecs, guests, signals, () => what === 'it is paused')
    if (what === 'guests are busy') guests.operationCount += 1
    const step = pacer.pace().then(
      () => 'goes on',
      (error: unknown) => String(error),
    )
    await new Promise((resolve) => setImmediate(resolve))
    signal.abort()
    const late = new Promise((resolve) => setImmediate(() => setImmediate(() => resolve('hangs'))))
    t.match(await Promise.race([step, late]), /canceled/)
  })
}
