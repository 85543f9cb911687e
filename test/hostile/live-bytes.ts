/** What a process holds once everything dead was collected. */
import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

export interface Held {
  heapBytes: number
  /** Buffers outside the heap. */
  externalBytes: number
  /** What the kernel counts, with what the allocator keeps. */
  residentBytes: number
  descriptorCount: number
}

export async function held(): Promise<Held> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  // What finalizers let go of is collected the next time.
  for (let round = 0; round < 3; round += 1) {
    collect()
    await sleep(5)
  }
  const { heapUsed, external, rss } = process.memoryUsage()
  const descriptorCount = readdirSync('/proc/self/fd').length
  return { heapBytes: heapUsed, externalBytes: external, residentBytes: rss, descriptorCount }
}

/** What is more after `work` than before it. */
export async function growthOf(work: () => Promise<void>): Promise<Held> {
  const before = await held()
  await work()
  const after = await held()
  return {
    heapBytes: after.heapBytes - before.heapBytes,
    externalBytes: after.externalBytes - before.externalBytes,
    residentBytes: after.residentBytes - before.residentBytes,
    descriptorCount: after.descriptorCount - before.descriptorCount,
  }
}
