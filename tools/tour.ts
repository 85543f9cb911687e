/**
 * `npm start`: Varve in two minutes, on this machine, with real clients. Builds a golden image of
 * local files (or takes one), clones, serves, breaks and restores it, and verifies every step.
 *
 *     npm start                    then keeps serving until Ctrl-C
 *     npm start -- --exit          ends when all is verified; leaves nothing behind
 *     npm start -- --image FILE    with your own image, raw or anything qemu-img reads
 *     npm start -- --pool FOLDER   elsewhere than in your data folder
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { formatSize } from '../src/base/units.ts'
import { takesConnections, type Server } from './command.ts'
import { projectRoot } from './project.ts'
import { buildGoldenImage } from './tour/golden-image.ts'
import { showFiles } from './tour/files.ts'
import { breakAndRestore, rawImage, serveClones, showAttaching, showSpace } from './tour/journey.ts'
import { Narrator } from './tour/narrator.ts'

/** Of the server's output, shown when something fails. */
const FAILURE_LINE_COUNT = 20

interface TourOptions {
  exit: boolean
  image: string | undefined
  pool: string | undefined
}

async function main(options: TourOptions): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'varve-tour-'))
  const servers: Server[] = []
  const interrupted = new Promise<void>((done) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => done())
  })
  try {
    const pool = options.pool ?? (options.exit ? join(scratch, 'pool') : await ownPool())
    const narrator = new Narrator(pool)
    const imagePath = await goldenImage(options, scratch, narrator)
    const toured = (async () => {
      const server = await serveClones(narrator, pool, imagePath)
      servers.push(server)
      await breakAndRestore(narrator, pool, imagePath)
      await showFiles(narrator, imagePath)
      await showSpace(narrator, pool, imagePath)
      server.mustRun()
    })()
    const isFinished = await Promise.race([toured.then(() => true), interrupted.then(() => false)])
    if (!isFinished) return
    showAttaching(narrator, pool)
    console.log(`\n${narrator.verifiedCount} facts verified, none failed.`)
    if (options.exit) {
      console.log('That pool is removed now; without --exit it stays and is served.')
      return
    }
    console.log(`Serving until Ctrl-C. In another terminal:

    export VARVE_POOL=${pool}
    alias varve=${join(projectRoot, 'dist/src/cli/main.js')}
    varve tree`)
    await interrupted
  } catch (error) {
    // The server's own words are worth more than what its clients saw.
    for (const server of servers) process.stderr.write(`\n${lastLines(server.said)}\n`)
    throw error
  } finally {
    for (const server of servers) await server.stop()
    rmSync(scratch, { recursive: true, force: true })
  }
}

function lastLines(text: string): string {
  return text.trimEnd().split('\n').slice(-FAILURE_LINE_COUNT).join('\n')
}

/** A pool of the tour's own: an earlier one is replaced, but not while it is being served. */
async function ownPool(): Promise<string> {
  const data = process.env.XDG_DATA_HOME ?? join(homedir(), '.local/share')
  const pool = join(data, 'varve/tour')
  if (await takesConnections(join(pool, 'control.sock'))) {
    throw new Error(`${pool} is being served, perhaps by another tour: stop that one first`)
  }
  rmSync(pool, { recursive: true, force: true })
  mkdirSync(join(data, 'varve'), { recursive: true })
  return pool
}

async function goldenImage(
  options: TourOptions,
  scratch: string,
  narrator: Narrator,
): Promise<string> {
  narrator.heading('A golden image')
  if (options.image !== undefined) {
    narrator.say(options.image)
    return rawImage(resolve(options.image), scratch)
  }
  const { path, fileCount, fileBytes } = await buildGoldenImage(scratch)
  narrator.say(`ext4 with ${fileCount} files of this machine, ${formatSize(fileBytes)}`)
  return path
}

async function start(): Promise<number> {
  try {
    const { values } = parseArgs({
      options: {
        exit: { type: 'boolean', default: false },
        image: { type: 'string' },
        pool: { type: 'string' },
      },
    })
    const pool = values.pool === undefined ? undefined : resolve(values.pool)
    await main({ exit: values.exit, image: values.image, pool })
    return 0
  } catch (error) {
    process.stderr.write(`\ntour: ${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  }
}

process.exitCode = await start()
