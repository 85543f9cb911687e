/**
 * The real server killed under load, again and again, on the same pool. VARVE_CRASH_KILLS says how
 * often; VARVE_CRASH_SEED replays the load's choices (not the kernel's timing).
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { Prng } from '../../src/base/prng.ts'
import { FLAG_FUA, NbdClient } from '../support/nbd-client.ts'
import { ServedPool, mustVarve } from '../support/varve-process.ts'
import { BLOCK_BYTES, StampedDisk } from './stamped-disk.ts'

const KILL_COUNT = Number(process.env.VARVE_CRASH_KILLS ?? 12)
const SEED = Number(process.env.VARVE_CRASH_SEED ?? Date.now() % 1_000_000)
const BLOCK_COUNT = 2048
const QUEUE_DEPTH = 16
const LOAD_MS_MAX = 250
/** A dozen kills take half a minute on a quiet machine; more are asked for by hand. */
const TIMEOUT_MS = 120_000 + 10_000 * KILL_COUNT

t.setTimeout(TIMEOUT_MS)

/** Writes stamped blocks, some with FUA, and flushes, until the connection breaks. */
async function load(client: NbdClient, disk: StampedDisk, random: Prng): Promise<void> {
  const worker = async (): Promise<void> => {
    for (;;) {
      const block = random.below(disk.blockCount)
      const write = disk.begin(block)
      if (write === null) continue
      const isDurable = random.below(20) === 0
      await client.write(block * BLOCK_BYTES, write.bytes, isDurable ? FLAG_FUA : 0)
      write.answered()
      // FUA says nothing about other writes, so only a flush counts as one.
      if (random.below(40) === 0) {
        const answered = disk.beginFlush()
        await client.flush()
        answered()
      }
    }
  }
  await Promise.allSettled(Array.from({ length: QUEUE_DEPTH }, worker))
}

async function readAll(socketPath: string, disk: StampedDisk): Promise<Buffer> {
  const client = await NbdClient.connect(socketPath, disk.name)
  const step = 256 * BLOCK_BYTES
  const parts: Buffer[] = []
  for (let offset = 0; offset < disk.blockCount * BLOCK_BYTES; offset += step) {
    parts.push(await client.read(offset, step))
  }
  client.close()
  return Buffer.concat(parts)
}

t.test(`nothing acknowledged is lost by ${KILL_COUNT} kills (seed ${SEED})`, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'varve-kill-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const random = new Prng(SEED)
  const pool = join(folder, 'pool')
  await mustVarve(pool, 'init')
  const disks = ['one', 'two'].map((name) => new StampedDisk(name, BLOCK_COUNT))
  for (const disk of disks) {
    await mustVarve(pool, 'create', disk.name, String(BLOCK_COUNT * BLOCK_BYTES))
  }
  for (let round = 0; round < KILL_COUNT; round += 1) {
    const served = await ServedPool.start(pool)
    const loads = []
    for (const disk of disks) {
      const client = await NbdClient.connect(served.socketPath, disk.name)
      loads.push(load(client, disk, random))
    }
    if (random.below(3) === 0) await mustVarve(pool, 'snapshot', `one@s${round}`, `two@s${round}`)
    await delay(random.below(LOAD_MS_MAX))
    await served.kill()
    await Promise.all(loads)
    await mustVarve(pool, 'check')
    const again = await ServedPool.start(pool)
    for (const disk of disks) disk.verify(await readAll(again.socketPath, disk))
    // Every other time the next round begins from a clean close.
    if (round % 2 === 0) await again.kill()
    else t.equal(await again.stop(), 0, 'serve exits cleanly')
  }
  const writeCount = disks.reduce((sum, disk) => sum + disk.writeCount, 0)
  t.comment(`${writeCount} writes`)
  t.ok(writeCount > KILL_COUNT, 'there was load')
})
