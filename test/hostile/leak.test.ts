/**
 * Nothing grows with the number of requests. A sample by default; VARVE_LEAK_REQUESTS=1000000 makes
 * it as many.
 */
import t from 'tap'
import { MIB } from '../../src/base/units.ts'
import { fuzzFuse } from './fuse-fuzz.ts'
import { growthOf } from './live-bytes.ts'
import type { Held } from './live-bytes.ts'
import { fuzzNbd } from './nbd-fuzz.ts'
import { NbdLoad } from './nbd-load.ts'

const REQUESTS = Number(process.env.VARVE_LEAK_REQUESTS ?? 60_000)
const WARM_UP_REQUESTS = 20_000
/** What compiled code and caches still gain after warming up. */
const NOISE_BYTES = 3 * MIB
/** Of what is resident: the allocator gives little back. */
const RESIDENT_BYTES_MAX = 64 * MIB
const PLANTED_BYTES = 200
t.setTimeout(120_000 + REQUESTS / 2)

function hasGrown({ heapBytes, externalBytes, residentBytes, descriptorCount }: Held): boolean {
  const isLarger = heapBytes > NOISE_BYTES || externalBytes > NOISE_BYTES
  return isLarger || residentBytes > RESIDENT_BYTES_MAX || descriptorCount > 0
}

t.test('a server on a socket holds after many requests what it held before', async (t) => {
  const load = await NbdLoad.open()
  await load.run(WARM_UP_REQUESTS)
  const usedBytes = load.io.arena.usedBytes
  const startMs = performance.now()
  const growth = await growthOf(() => load.run(REQUESTS))
  const rate = Math.round(REQUESTS / ((performance.now() - startMs) / 1000))
  t.notOk(hasGrown(growth), JSON.stringify(growth))
  t.equal(load.io.arena.usedBytes, usedBytes, 'every byte of the arena is back')
  t.comment(`${REQUESTS} requests, ${rate} a second: ${JSON.stringify(growth)}`)

  const planted: Buffer[] = []
  load.target.fault = () => {
    planted.push(Buffer.from('x'.repeat(PLANTED_BYTES)))
    return 0
  }
  const leaking = await growthOf(() => load.run(60_000))
  t.ok(hasGrown(leaking), `a leak that was planted is seen: ${JSON.stringify(leaking)}`)
  t.ok(planted.length > 0)
  await load.close()
})

t.test('nor do the cores grow among hostile clients', async (t) => {
  const fuzz = async (seed: number, executions: number): Promise<void> => {
    await fuzzNbd({ seed, executions })
    await fuzzFuse({ seed, executions: executions / 2 })
  }
  await fuzz(1, WARM_UP_REQUESTS)
  const growth = await growthOf(() => fuzz(2, REQUESTS / 2))
  t.notOk(hasGrown(growth), JSON.stringify(growth))
  t.comment(JSON.stringify(growth))
})
