/** `varve import`. */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { ImportRequest } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp, parseLabel, parseSize } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { addProgressOption, startProgress } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  size?: number
  label?: Record<string, string>
  progress: ProgressMode
}

/** A read of a FIFO; the pool takes a megabyte at a time. */
const STREAM_CHUNK_BYTES = 1048576

export function registerImport(program: Command, cli: Cli): void {
  const command = program
    .command('import')
    .summary('a volume from a raw image')
    .description(
      'Makes a volume from a raw image. Holes and zeros take no space. The volume is as large as ' +
        'the image, rounded up to 512 bytes; a pipe has no size, so --size says it. The volume ' +
        'appears when it is whole; a failure or Ctrl-C leaves nothing behind.',
    )
    .argument('<file>', 'a file, a block device, a FIFO, or - for standard input')
    .argument('<name>', 'the new volume')
    .option('-s, --size <size>', 'of the volume; not less than the image', parseSize)
    .option('--label <key=value>', 'may be given several times', parseLabel)
    .action(async (file: string, name: string, options: Options) => {
      const source = await openSource(cli, file)
      const sizeBytes = options.size ?? source.sizeBytes
      const labels = options.label ?? {}
      const request: ImportRequest = { name, path: source.path, sizeBytes, labels }
      const report = await withService(cli, command, (service) =>
        interruptible(cli, async (signal) => {
          const display = await startProgress(cli, options.progress, 'import')
          const progress = display.update
          const { input } = source
          try {
            const call = { signal, progress, ...(input === null ? {} : { input }) }
            return await service.importImage(request, call)
          } finally {
            display.end()
          }
        }),
      )
      const { volume, dataBytes } = report
      const sentence =
        `imported ${name}: ${formatSize(volume.sizeBytes)}, ` +
        `${formatSize(dataBytes)} read, ${formatSize(volume.mappedBytes)} mapped`
      await writeResult(cli, options, 'import', report, sentence)
    })
  addProgressOption(addResultOptions(command))
  addHelp(command, [
    'varve import golden.img golden',
    'zstd -dc golden.img.zst | varve import - golden --size 10G',
  ])
}

interface Source {
  /** Null: `input` is read here and sent. */
  path: string | null
  sizeBytes: number | null
  input: AsyncIterable<Uint8Array> | null
}

/** What has a size and offsets is opened by whoever has the pool open; a pipe only we have. */
async function openSource(cli: Cli, file: string): Promise<Source> {
  if (file === '-') {
    if (cli.terminal.stdin) {
      throw new OperatingError('usage', 'standard input is a terminal', {
        hint: 'Pipe an image into it, or name a file.',
      })
    }
    const sizeBytes = cli.stdinSizeBytes()
    const rounded = sizeBytes === null ? null : Math.ceil(sizeBytes / 512) * 512
    return { path: null, sizeBytes: rounded, input: cli.stdin as AsyncIterable<Uint8Array> }
  }
  const path = resolve(file)
  if (!(await isFifo(path))) return { path, sizeBytes: null, input: null }
  const input = createReadStream(path, { highWaterMark: STREAM_CHUNK_BYTES })
  return { path: null, sizeBytes: null, input: input as AsyncIterable<Uint8Array> }
}

/** A file that is not there is left to the import, which says so. */
async function isFifo(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFIFO()
  } catch {
    return false
  }
}
