/**
 * Every image of a folder through an import, and back against `qemu-img compare`: meant for the
 * samples that QEMU's own tests keep (tests/qemu-iotests/sample_images), .bz2 or not.
 *
 *     npm run samples -- DIR
 *
 * Exits 1 when an image that qemu-img can read does not come in equal. The folder is trusted:
 * QEMU is asked what each image is.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import type { ImageFormat } from '../src/api/shapes.ts'
import { IMAGE_FORMATS } from '../src/api/image-formats.ts'
import type { PoolService } from '../src/api/service.ts'
import { formatSize } from '../src/base/units.ts'
import { initPool } from '../src/daemon/embedded.ts'
import { openService } from '../src/daemon/open-service.ts'
import { run } from './command.ts'
import { table } from './table.ts'

interface Verdict {
  image: string
  /** What QEMU says it is; null: it cannot read it. */
  driver: string | null
  outcome: string
  isGood: boolean
}

/** By the end of its name: what an image is meant to be that QEMU refuses. */
function formatByName(name: string): ImageFormat {
  const ending = /\.([a-z0-9]+)$/.exec(name)?.[1] ?? 'raw'
  return IMAGE_FORMATS.find((format) => format === ending) ?? 'parallels'
}

async function driverOf(image: string): Promise<string | null> {
  const { exitCode, stdout } = await run('qemu-img', ['info', '--output=json', image], {
    exitCodes: [0, 1],
  })
  if (exitCode !== 0) return null
  return (JSON.parse(stdout) as { format: string }).format
}

async function judge(service: PoolService, image: string, folder: string): Promise<Verdict> {
  const name = basename(image)
  const driver = await driverOf(image)
  const said = driver === 'vpc' ? 'vhd' : driver
  const format = said === null ? formatByName(name) : IMAGE_FORMATS.find((known) => known === said)
  if (format === undefined) {
    return { image: name, driver, outcome: 'a format that is not imported', isGood: false }
  }
  const request = { name: 'sample', path: image, sizeBytes: null, labels: {}, format }
  try {
    const { imageBytes, dataBytes } = await service.importImage(request, {})
    const out = join(folder, 'out.raw')
    await service.exportImage({ name: 'sample', path: out, overwrite: true }, {})
    const compare = ['compare', '-f', driver ?? 'raw', '-F', 'raw', image, out]
    const { exitCode } = await run('qemu-img', compare, { exitCodes: [0, 1, 2, 3, 4] })
    const sizes = `${formatSize(imageBytes)}, ${formatSize(dataBytes)} read`
    const isGood = driver !== null && exitCode === 0
    return { image: name, driver, outcome: isGood ? `equal: ${sizes}` : 'NOT EQUAL', isGood }
  } catch (error) {
    const outcome = `refused: ${(error as Error).message.replaceAll(image, name)}`
    return { image: name, driver, outcome, isGood: driver === null }
  } finally {
    await service.remove({ names: ['sample'], recursive: false, dryRun: false }).catch(() => null)
  }
}

async function unpacked(image: string, folder: string): Promise<string> {
  if (!image.endsWith('.bz2')) return image
  const plain = join(folder, basename(image, '.bz2'))
  await run('cp', [image, `${plain}.bz2`])
  await run('bzip2', ['-d', '-f', `${plain}.bz2`])
  return plain
}

async function judgeAll(samples: string, folder: string): Promise<Verdict[]> {
  const pool = join(folder, 'pool')
  mkdirSync(join(folder, 'plain'))
  await initPool(pool, 'auto', {})
  const service = await openService(pool, 'auto')
  const verdicts: Verdict[] = []
  try {
    for (const name of readdirSync(samples).sort()) {
      if (name === 'README' || name.endsWith('.sh')) continue
      const image = await unpacked(join(samples, name), join(folder, 'plain'))
      verdicts.push(await judge(service, image, folder))
    }
  } finally {
    await service.close()
  }
  return verdicts
}

const samples = process.argv.at(2)
if (samples === undefined) throw new Error('usage: npm run samples -- DIR')
const folder = mkdtempSync(join(tmpdir(), 'varve-samples-'))
try {
  const verdicts = await judgeAll(resolve(samples), folder)
  const rows = verdicts.map(({ image, driver, outcome }) => {
    return [image, `  ${driver ?? 'unreadable'}`, `  ${outcome}`]
  })
  console.log(table(['image', 'qemu-img', 'here'], rows))
  process.exitCode = verdicts.length > 0 && verdicts.every(({ isGood }) => isGood) ? 0 : 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
