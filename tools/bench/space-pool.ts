/** The corpus in a pool of ours: imported, settled, and compared with what it was made from. */
import { join } from 'node:path'
import { run } from '../command.ts'
import { physicalBytes, stored, type CorpusImage, type Stored } from './corpus-images.ts'
import { serveVarve, varve, varveUri } from './servers.ts'

/**
 * `settle` is the command that comes after the imports, if any. Throws when any disk is not byte
 * for byte its image: a pool that lost data would be smaller.
 */
export async function storeInPool(
  images: readonly CorpusImage[],
  folder: string,
  settle: readonly string[] | null,
): Promise<Stored> {
  const pool = join(folder, 'pool')
  await varve(pool, 'init')
  const imports: Record<string, unknown>[] = []
  let settleMs = 0
  const result = await stored(pool, async () => {
    for (const image of images) imports.push(await importOne(pool, image))
    if (settle === null) return
    const startMs = performance.now()
    await varve(pool, ...settle)
    settleMs = performance.now() - startMs
  })
  await verifyPool(images, pool)
  const info: unknown = JSON.parse(await varve(pool, 'info', '--output', 'json'))
  return { ...result, details: { imports, settleMs, info } }
}

async function importOne(pool: string, image: CorpusImage): Promise<Record<string, unknown>> {
  const beforeBytes = await physicalBytes(pool)
  const startMs = performance.now()
  await varve(pool, 'import', '--progress', 'none', image.path, image.name)
  const tookMs = performance.now() - startMs
  return { name: image.name, tookMs, grownBytes: (await physicalBytes(pool)) - beforeBytes }
}

/** Compares what a client of the server reads with the images. */
async function verifyPool(images: readonly CorpusImage[], pool: string): Promise<void> {
  const server = await serveVarve(pool)
  try {
    for (const image of images) {
      const uri = varveUri(pool, image.name)
      await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image.path, uri])
    }
    server.mustRun()
  } finally {
    await server.stop()
  }
}
