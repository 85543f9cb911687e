/** Half a minute of the soak; `npm run soak` is an hour of it. */
import t from 'tap'
import { runSoak } from '../../tools/soak/run-soak.ts'

const MINUTES = Number(process.env.VARVE_SOAK_MINUTES ?? 0.3)
const SEED = Number(process.env.VARVE_SOAK_SEED ?? Date.now() % 1_000_000)

t.setTimeout(300_000 + 300_000 * MINUTES)

t.test(`${MINUTES} minutes of everything at once leave nothing wrong (seed ${SEED})`, async (t) => {
  const say = (line: string): unknown => t.comment(line)
  const report = await runSoak({ minutes: MINUTES, seed: SEED, say })
  t.strictSame(report.complaints, [])
  t.ok(report.killCount + report.stopCount > 0, 'the server died')
  t.ok(report.writtenBlocks > 0, 'there was load')
  t.comment(JSON.stringify(report))
})
