/**
 * Pools that builds of their time wrote: each is checked, opened, read and written by this one,
 * closed, opened again, and settled. None of them is ever changed.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { must } from '../../src/base/assert.ts'
import type { CheckReport } from '../../src/check/check.ts'
import { checkPool } from '../../src/check/check.ts'
import { PAGE_SIZE_BYTES } from '../../src/format/page.ts'
import { SUPERBLOCK_FILE, decodeSuperblock } from '../../src/format/superblock.ts'
import { tryLoadBinding } from '../../src/native/binding.ts'
import { inlineCodecs } from '../../src/native/native-codecs.ts'
import { projectRoot } from '../../tools/project.ts'
import { POOL, SimWorld } from '../unit/pool/sim-pool.ts'
import type { Manifest } from './archive.ts'
import { unpackPool } from './archive.ts'
import { GOLDEN_KINDS } from './golden-names.ts'
import { describe } from './life.ts'

t.setTimeout(600_000)

const codecs = inlineCodecs(must(tryLoadBinding(), 'the addon'))
const GOLDEN = join(projectRoot, 'test/golden')
const FOLDERS = readdirSync(GOLDEN).filter((name) => /^v\d+$/.test(name))

async function faultsOf(world: SimWorld): Promise<string[]> {
  const checked: Promise<CheckReport> = checkPool(world.io, world.checksum, codecs, POOL)
  const { errors } = await world.run(checked)
  return errors.map(({ code, where, message }) => `${code} ${where} ${message}`)
}

async function unpack(path: string): Promise<[SimWorld, Manifest]> {
  const world = await SimWorld.empty({ seed: 1 })
  return [world, await world.run(unpackPool(world.io, POOL, readFileSync(path)))]
}

/** Of both pages of the superblock. */
function refuseFeaturesOf({ io, checksum }: SimWorld): number[] {
  const { data } = io.disk.openFile(`${POOL}/${SUPERBLOCK_FILE}`, 'read')
  return [0, PAGE_SIZE_BYTES].map((offsetBytes) => {
    const page = new Uint8Array(PAGE_SIZE_BYTES)
    data.read(offsetBytes, page)
    const verdict = decodeSuperblock(page, checksum)
    return verdict.kind === 'valid' ? verdict.superblock.refuseFeatures : -1
  })
}

for (const folder of FOLDERS) {
  for (const file of readdirSync(join(GOLDEN, folder)).sort()) {
    t.test(`${folder}/${file} holds what it held, and goes on`, async (t) => {
      const [world, manifest] = await unpack(join(GOLDEN, folder, file))
      const { refuseFeatures } = manifest
      t.strictSame(refuseFeaturesOf(world), [refuseFeatures, refuseFeatures])
      t.strictSame(await faultsOf(world), [])
      await world.open({ codecs })
      const { disks, holds, labels } = manifest
      t.strictSame(await describe(world), { disks, holds, labels })
      const web = world.disk('web')
      t.equal(await web.fill(4096, 8192, 0x77), 0)
      t.equal(await web.flush(), 0)
      web.close()
      const changed = await describe(world)
      t.strictNotSame(changed.disks, disks)
      await world.close()
      t.strictSame(await faultsOf(world), [])
      await world.open({ codecs })
      t.strictSame(await describe(world), changed)
      await world.run(world.pool.settle('zstd'))
      t.strictSame(await describe(world), changed)
      await world.close()
      t.strictSame(await faultsOf(world), [])
      t.strictSame(world.damage, [])
    })
  }
}

t.test('there is a golden pool of every kind that this build writes', (t) => {
  const newest = must(FOLDERS.sort().at(-1), 'a folder of golden pools')
  const files = readdirSync(join(GOLDEN, newest))
  for (const { name } of GOLDEN_KINDS) t.ok(files.includes(`${name}.tar.gz`), name)
  t.end()
})
