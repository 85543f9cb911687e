/** A sample of the hostile NBD clients, and that their judge is not blind. */
import t from 'tap'
import { must } from '../../src/base/assert.ts'
import type { DiskFacts } from './nbd-facts.ts'
import { fuzzNbd } from './nbd-fuzz.ts'
import type { Session } from './nbd-oracle.ts'
import { NbdOracle } from './nbd-oracle.ts'
import { fuzzNbdSockets } from './nbd-socket-fuzz.ts'

const EXECUTIONS = 60_000

interface Kept {
  session: Session
  disks: readonly DiskFacts[]
}

const kept: Kept[] = []

t.test('hostile clients get what the protocol says and harm nobody', async (t) => {
  const total = await fuzzNbd({
    seed: 1,
    executions: EXECUTIONS,
    onSession: (session, disks) => {
      if (session.isComplete && kept.length < 400) kept.push({ session, disks })
    },
  })
  t.ok(total.requests > EXECUTIONS / 4, `${total.requests} requests were understood`)
  t.ok(total.replies > EXECUTIONS / 4, `${total.replies} replies`)
  t.ok(Object.keys(total.endings).length > 10, 'they end in many ways')
})

t.test('and so they do on real sockets', async (t) => {
  const total = await fuzzNbdSockets({ seed: 1, executions: 4000 })
  t.ok(total.replies > 1000 && total.secured > 5, JSON.stringify(total))
})

/** How many of the sessions are found wrong once `spoil` has changed what was received. */
function foundCount(spoil: (received: Buffer) => Buffer | null): [found: number, tried: number] {
  let found = 0
  let tried = 0
  for (const { session, disks } of kept) {
    const received = spoil(Buffer.from(session.received))
    if (received === null) continue
    tried += 1
    try {
      new NbdOracle(disks, { ...session, received }).judge()
    } catch {
      found += 1
    }
  }
  return [found, tried]
}

const SIMPLE = Buffer.from('67446698', 'hex')
const CHUNK = Buffer.from('668e33ef', 'hex')

t.test('the judge sees what a server could do wrong', (t) => {
  t.ok(kept.length > 100, 'there are sessions to spoil')
  const atSimple = (bytes: Buffer): number => bytes.indexOf(SIMPLE)
  const spoilers: Record<string, (bytes: Buffer) => Buffer | null> = {
    'another greeting': (bytes) => {
      bytes[3] ^= 1
      return bytes
    },
    'a byte too many': (bytes) =>
      bytes.length === 0 ? null : Buffer.concat([bytes, Buffer.of(0)]),
    'the last reply again': (bytes) => {
      const at = bytes.lastIndexOf(SIMPLE)
      return at < 0 ? null : Buffer.concat([bytes, bytes.subarray(at, at + 16)])
    },
    'an error that was none': (bytes) => {
      const at = atSimple(bytes)
      if (at < 0) return null
      bytes[at + 7] ^= 0x40
      return bytes
    },
    'an answer to nobody': (bytes) => {
      const at = atSimple(bytes)
      if (at < 0) return null
      bytes[at + 8] ^= 0x55
      return bytes
    },
    'a chunk of no known type': (bytes) => {
      const at = bytes.indexOf(CHUNK)
      if (at < 0) return null
      bytes[at + 6] = 0x40
      return bytes
    },
    'an option reply left out': (bytes) => {
      return bytes.length < 60 ? null : Buffer.concat([bytes.subarray(0, 18), bytes.subarray(38)])
    },
  }
  for (const [name, spoil] of Object.entries(spoilers)) {
    const [found, tried] = foundCount(spoil)
    t.ok(tried > 20 && found > 0.7 * tried, `${name}: ${found} of ${tried} found`)
  }
  t.end()
})

t.test('the judge knows the data of a disk that nobody writes', (t) => {
  let seen = 0
  let tried = 0
  for (const { session, disks } of kept) {
    const { content } = must(
      disks.find(({ name }) => name === 'fixed'),
      'the disk',
    )
    // A piece of its content that was sent as it is.
    const at = session.received.length - 300
    const piece = session.received.subarray(at, at + 8)
    if (at < 200 || content?.includes(piece.subarray(0, 8)) !== true) continue
    const received = Buffer.from(session.received)
    received[at] ^= 0x80
    tried += 1
    try {
      new NbdOracle(disks, { ...session, received }).judge()
    } catch {
      seen += 1
    }
  }
  t.ok(tried >= 5 && seen > 0.8 * tried, `${seen} of ${tried}`)
  t.end()
})
