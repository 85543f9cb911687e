/** How a hostile client behaves on its connection, over whatever carries the bytes. */
import type { Prng } from '../../src/base/prng.ts'
import type { Session } from './nbd-oracle.ts'
import type { Script } from './nbd-script.ts'

/** A client's end of a connection; {@link SimPeer} is one. */
export interface ClientEnd {
  send(bytes: Uint8Array): void
  /** At least a byte; empty once the server has hung up. */
  receive(): Promise<Uint8Array>
  /** No more will be sent. */
  end(): void
  close(): void
}

export type Manner =
  'polite' | 'byte by byte' | 'deaf' | 'slow' | 'gone at once' | 'gone at some time' | 'silent'

const MANNERS: readonly Manner[] = [
  'polite',
  'byte by byte',
  'deaf',
  'slow',
  'gone at once',
  'gone at some time',
  'silent',
]
const WEIGHTS = [70, 6, 3, 3, 5, 12, 1]
/** Of scripts that are sent byte by byte: the beginning. */
const SINGLE_BYTES_MAX = 400

export function drawManner(prng: Prng): Manner {
  return MANNERS[prng.weighted(WEIGHTS)]
}

/**
 * Plays one session to its end; `wait` lets (virtual) milliseconds pass. `patienceMs` is longer
 * than the server's: a client that says nothing waits so long for being cut off.
 */
export async function playSession(
  end: ClientEnd,
  { bytes }: Script,
  manner: Manner,
  prng: Prng,
  wait: (delayMs: number) => Promise<void>,
  patienceMs: number,
): Promise<Session> {
  const received: Uint8Array[] = []
  const isLeaving = manner === 'gone at once' || manner === 'gone at some time'
  let isGone = false
  const reading = (async (): Promise<void> => {
    if (manner === 'deaf') await wait(prng.chance(0.5) ? patienceMs : prng.below(1000))
    for (;;) {
      const part = await end.receive()
      if (part.length === 0 || isGone) return
      received.push(part)
    }
  })()
  for (const piece of cut(bytes, manner, prng)) {
    end.send(piece)
    if (manner === 'slow') await wait(prng.below(patienceMs / 8))
    else if (prng.chance(0.5)) await wait(prng.nextFloat())
  }
  if (isLeaving) {
    if (manner === 'gone at some time') await wait(3 * prng.nextFloat())
    isGone = true
    end.close()
  } else {
    if (manner === 'silent') await wait(patienceMs)
    end.end()
    await reading
    end.close()
  }
  const isComplete = manner === 'polite' || manner === 'byte by byte'
  return { sent: bytes, received: Buffer.concat(received), isComplete }
}

function cut(bytes: Buffer, manner: Manner, prng: Prng): Buffer[] {
  if (manner === 'byte by byte') {
    const singles = Array.from(bytes.subarray(0, SINGLE_BYTES_MAX), (_, at) => {
      return bytes.subarray(at, at + 1)
    })
    return [...singles, bytes.subarray(SINGLE_BYTES_MAX)]
  }
  const ends = Array.from({ length: prng.below(6) }, () => prng.below(bytes.length + 1))
  if (manner === 'silent') ends.splice(0)
  ends.sort((a, b) => a - b)
  return [0, ...ends].map((start, index) => bytes.subarray(start, ends[index] ?? bytes.length))
}
