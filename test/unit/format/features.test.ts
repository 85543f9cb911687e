/** A pool of a later version: each class of features, and a foreign version, opened and checked. */
import t from 'tap'
import { checkPool } from '../../../src/check/check.ts'
import type { CheckReport } from '../../../src/check/check.ts'
import { missingCodecs } from '../../../src/base/codec.ts'
import { sealPage } from '../../../src/format/page.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import { decodeSuperblock, encodeSuperblock } from '../../../src/format/superblock.ts'
import { Pool } from '../../../src/pool/pool.ts'
import { BLOCK, POOL, SimWorld } from '../pool/sim-pool.ts'

const SUPERBLOCK = `${POOL}/superblock`

/** Hands both pages of a closed pool out, and takes them back. */
function changePages(world: SimWorld, change: (page: Uint8Array) => void): void {
  const { data } = world.io.disk.openFile(SUPERBLOCK, 'write')
  for (const offsetBytes of [0, BLOCK]) {
    const page = new Uint8Array(BLOCK)
    data.read(offsetBytes, page)
    change(page)
    data.write(offsetBytes, page)
  }
}

/** A closed pool whose superblock pages were changed, with good checksums. */
async function poolWith(change: (page: Uint8Array, world: SimWorld) => void): Promise<SimWorld> {
  const world = await SimWorld.create({ seed: 2 })
  await world.close()
  changePages(world, (page) => change(page, world))
  return world
}

function superblockOf(page: Uint8Array, { checksum }: SimWorld): Superblock {
  const verdict = decodeSuperblock(page, checksum)
  if (verdict.kind !== 'valid') throw new Error('a closed pool has two sound pages')
  return verdict.superblock
}

function poolWithFields(change: (superblock: Superblock) => void): Promise<SimWorld> {
  return poolWith((page, world) => {
    const superblock = superblockOf(page, world)
    change(superblock)
    encodeSuperblock(superblock, page, world.checksum)
  })
}

const open = (world: SimWorld): Promise<Pool> =>
  world.run(Pool.open(world.io, world.checksum, POOL))
const check = (world: SimWorld): Promise<CheckReport> =>
  world.run(checkPool(world.io, world.checksum, missingCodecs(), POOL))

t.test(
  'a feature of the class refuse that is unknown is named, by open and by check',
  async (t) => {
    for (const [flags, named] of [
      [0x4, /bit 2$/],
      [0x80000008, /bits 3 and 31$/],
      [0x70, /bits 4, 5 and 6$/],
    ] as const) {
      const world = await poolWithFields(
        (one) => (one.refuseFeatures = (one.refuseFeatures | flags) >>> 0),
      )
      const expected = { code: 'unsupported', message: named, hint: /version of Varve/ }
      await t.rejects(open(world), { ...expected, details: { class: 'refuse', features: flags } })
      await t.rejects(check(world), expected)
      t.equal(world.io.arena.usedBytes, 0)
    }
  },
)

t.test(
  'one of the class read-only is checked and not opened, and nothing is written',
  async (t) => {
    const world = await poolWithFields((one) => (one.readOnlyFeatures = 0x12))
    const before: Uint8Array[] = []
    changePages(world, (page) => before.push(page.slice()))
    const expected = {
      code: 'unsupported',
      message: /not write: bits 1 and 4$/,
      hint: /varve check/,
    }
    await t.rejects(open(world), expected)
    const after: Uint8Array[] = []
    changePages(world, (page) => after.push(page.slice()))
    t.strictSame(after, before)
    const { errors, warnings } = await check(world)
    t.strictSame(errors, [])
    t.match(warnings, [{ code: 'features-unknown', message: /bits 1 and 4 are unknown/ }])
  },
)

t.test('one of the class ignore stays set whatever is written', async (t) => {
  const world = await poolWithFields((one) => (one.ignoreFeatures = 0xf0000001))
  await world.open()
  await world.run(world.pool.create({ name: 'a', sizeBytes: BLOCK, labels: {} }))
  await world.close()
  const kept: number[] = []
  changePages(world, (page) => kept.push(superblockOf(page, world).ignoreFeatures))
  t.strictSame(kept, [0xf0000001, 0xf0000001])
  t.strictSame((await check(world)).errors, [])
})

t.test('another version of the format is told, even by one page only', async (t) => {
  for (const version of [0, 2, 0xffffffff]) {
    let isFirst = true
    const world = await poolWith((page, { checksum }) => {
      if (isFirst) new DataView(page.buffer, page.byteOffset).setUint32(8, version, true)
      isFirst = false
      sealPage(page, 0, checksum)
    })
    const message = new RegExp(`format (version )?${version}\\b`)
    await t.rejects(open(world), { code: 'unsupported', message, hint: /reads format 1/ })
    await t.rejects(check(world), { code: 'unsupported', message })
  }
})
