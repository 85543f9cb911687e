import fc from 'fast-check'
import t from 'tap'
import { PoolTree } from '../../../src/daemon/pool-tree.ts'
import { PoolFilesystem } from '../../../src/export/fuse/filesystem.ts'
import { batches, runBatches } from '../../support/file-model.ts'
import { FilesystemDriver, OWNER } from '../../support/filesystem-rig.ts'
import { SimWorld } from '../pool/sim-pool.ts'

t.test('a volume is as a plain file after any operations in flight together', async () => {
  const property = fc.asyncProperty(batches, fc.nat(), async (all, seed) => {
    const world = await SimWorld.create({ seed })
    const { arena } = world.io
    const tree = new PoolTree(world.pool)
    const options = { allowOther: false, startedMs: 0, arena }
    const driver = new FilesystemDriver(new PoolFilesystem(tree, OWNER, options), arena)
    const usedBytes = arena.usedBytes
    await world.run(tree.create('db'))
    await world.run(runBatches(driver, 'volumes/db', all, true))
    if (arena.usedBytes !== usedBytes) throw new Error('memory is lost')
    await world.close()
  })
  await fc.assert(property, { numRuns: 60 })
})
