/**
 * Power cuts by hand:
 *
 *     npm run power-cuts                              2,000 images on the best Io of this host
 *     npm run power-cuts -- --images 200 --seed 7     fewer, from another seed
 *     npm run power-cuts -- --io node                 on plain Node
 *     npm run power-cuts -- --trace FILE              the images of a trace that was kept
 *
 * Ends at the first image that is not legal with exit code 1; with 2 for options without sense.
 */
import { parseArgs } from 'node:util'
import { replayPowerCuts, runPowerCuts } from './power-cuts.ts'

function count(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
  throw new RangeError(`a whole number from 1 to 999999999 is wanted, not "${text}"`)
}

function optionsOf(args: string[]): {
  imageCount: number
  seed: number
  ioKind: 'auto' | 'ring' | 'node'
  trace: string | undefined
} {
  const { values } = parseArgs({
    args,
    options: {
      images: { type: 'string', default: '2000' },
      seed: { type: 'string', default: '1' },
      io: { type: 'string', default: 'auto' },
      trace: { type: 'string' },
    },
  })
  const { io, trace } = values
  if (io !== 'auto' && io !== 'ring' && io !== 'node') throw new RangeError(`no such Io: "${io}"`)
  return { imageCount: count(values.images), seed: count(values.seed), ioKind: io, trace }
}

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

async function main(): Promise<number> {
  let options
  try {
    options = optionsOf(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`power-cuts: ${(error as Error).message}\n`)
    return 2
  }
  try {
    if (options.trace !== undefined) await replayPowerCuts(options.trace, options.ioKind)
    else say(JSON.stringify(await runPowerCuts({ ...options, say }), null, 1))
    return 0
  } catch (error) {
    const { message, cause } = error as Error
    process.stderr.write(`${message}\n${cause instanceof Error ? (cause.stack ?? '') : ''}\n`)
    return 1
  }
}

process.exitCode = await main()
