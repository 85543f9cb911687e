/**
 * Writes golden pools: small pools that every later build must open.
 *
 *     node dist/tools/golden.js FOLDER [NAME …]
 *
 * into test/golden/FOLDER (`v1`, and what comes after a change of the format). What is there is
 * never written again: a golden pool says what a build of its time wrote.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { must } from '../src/base/assert.ts'
import { FORMAT_VERSION } from '../src/format/page.ts'
import { REFUSE_FEATURES } from '../src/format/features.ts'
import { tryLoadBinding } from '../src/native/binding.ts'
import { inlineCodecs } from '../src/native/native-codecs.ts'
import { packPool } from '../test/golden/archive.ts'
import type { GoldenKind } from '../test/golden/golden-names.ts'
import { GOLDEN_KINDS } from '../test/golden/golden-names.ts'
import { describe, live, liveOn } from '../test/golden/life.ts'
import { POOL, SimWorld } from '../test/unit/pool/sim-pool.ts'
import { projectRoot } from './project.ts'

async function make({ about, compression, isCrashed }: GoldenKind): Promise<Buffer> {
  const codecs = inlineCodecs(must(tryLoadBinding(), 'the addon'))
  const world = await SimWorld.create({ seed: 1 })
  await world.close()
  await world.open({ codecs })
  await live(world)
  if (compression !== null) await world.run(world.pool.settle(compression))
  await world.close()
  await world.open({ codecs })
  if (isCrashed) await liveOn(world)
  const contents = await describe(world)
  if (isCrashed) {
    world.io.crash({ kind: 'power' })
    world.io = world.io.reboot()
  } else {
    await world.close()
  }
  const facts = { about, formatVersion: FORMAT_VERSION, refuseFeatures: REFUSE_FEATURES }
  return world.run(packPool(world.io, POOL, { ...facts, ...contents, files: {} }))
}

const [folderName, ...names] = process.argv.slice(2)
if (folderName === undefined) throw new Error('golden FOLDER [NAME …]')
const folder = join(projectRoot, 'test/golden', folderName)
mkdirSync(folder, { recursive: true })
for (const kind of GOLDEN_KINDS) {
  if (names.length > 0 && !names.includes(kind.name)) continue
  const path = join(folder, `${kind.name}.tar.gz`)
  if (existsSync(path)) {
    process.stdout.write(`${path} is there already and stays as it is\n`)
    continue
  }
  const archive = await make(kind)
  writeFileSync(path, archive)
  process.stdout.write(`${path}: ${archive.length} bytes\n`)
}
