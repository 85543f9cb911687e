/**
 * A server killed at every named point of its life: each is reached, each leaves a pool that
 * `check` finds sound and that the next process opens with everything it had answered for.
 *
 * VARVE_KILL_POINTS=all runs all of them on both kinds of I/O; without it each kind has a twelfth,
 * and VARVE_KILL_POINTS_SEED, by default the time, says which.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { checkOffline, initPool } from '../../src/daemon/embedded.ts'
import { KILL_POINTS } from './kill-points.ts'
import type { KillPoint } from './kill-points.ts'
import { KillRun } from './kill-run.ts'

const IS_ALL = process.env.VARVE_KILL_POINTS === 'all'
const SEED = Number(process.env.VARVE_KILL_POINTS_SEED ?? Date.now() % 1000)
const CAPACITY_BYTES = 512 << 20

t.setTimeout(1_200_000)

for (const [share, ioKind] of (['auto', 'node'] as const).entries()) {
  const points = KILL_POINTS.filter((_point, index) => IS_ALL || isShare(index, share))
  t.test(`${points.length} named points, on ${ioKind} I/O (seed ${SEED})`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'varve-points-'))
    t.teardown(() => rm(folder, { recursive: true, force: true }))
    const poolPath = join(folder, 'pool')
    await initPool(poolPath, ioKind, { capacityBytes: CAPACITY_BYTES })
    await rm(join(poolPath, 'reserve'), { recursive: true, force: true })
    const imagePath = join(folder, 'image.raw')
    await writeFile(imagePath, KillRun.image())
    const run = new KillRun(poolPath, ioKind, imagePath)
    for (const point of points) await reach(t, run, point)
    await run.verify()
    await run.end()
    t.strictSame(await complaints(poolPath), [], 'sound at the end')
    t.comment(`${run.verifiedCount} times all contents verified, ${run.writeCount} writes`)
  })
}

/** What has to be left behind by a point before it, is tried in both. */
function isShare(index: number, share: number): boolean {
  const { during, role, kind } = KILL_POINTS[index]
  const isFound = during === 'open' && (role === 'reserve' || role === 'settling')
  // Leaves the file aside that the next open removes.
  const isLeft = isFound || (role === 'settling' && kind === 'sync')
  return (index + SEED) % 12 === share || isLeft
}

async function reach(t: Test, run: KillRun, point: KillPoint): Promise<void> {
  const isHit = await run.reach(point)
  t.ok(isHit, point.name)
  t.strictSame(await complaints(run.poolPath), [], `${point.name}: check`)
}

async function complaints(poolPath: string): Promise<string[]> {
  const { errors } = await checkOffline(poolPath, 'auto')
  return errors.map(({ code, where, message }) => `${code} ${where}: ${message}`)
}
