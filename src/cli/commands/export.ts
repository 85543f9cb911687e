/** `varve export`. */
import { createWriteStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Writable } from 'node:stream'
import { Option } from 'commander'
import type { Command } from 'commander'
import { WRITTEN_FORMATS } from '../../api/image-formats.ts'
import type { ByteOutput } from '../../api/service.ts'
import type { WrittenFormat } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp, parseSeconds } from '../arguments.ts'
import { streamOutput } from '../byte-stream.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { addProgressOption, startProgress } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  force?: boolean
  format: WrittenFormat | 'vpc'
  compress?: boolean
  timeout?: number
  progress: ProgressMode
}

export function registerExport(program: Command, cli: Cli): void {
  const command = program
    .command('export')
    .summary('an image from a volume or snapshot')
    .description(
      'Writes a disk as an image: raw, of exactly its size, or another format. A file becomes ' +
        'sparse and gets its name when it is whole; a failure or Ctrl-C leaves nothing behind. A ' +
        'volume that clients use is refused: export a snapshot of it.',
    )
    .argument('<disk>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('<file>', 'a file, a block device, a FIFO, or - for standard output')
    .option('-f, --force', 'replace a file, or write over a block device')
    .addOption(
      new Option('--format <format>', 'of the image')
        .choices([...WRITTEN_FORMATS, 'vpc'])
        .default('raw'),
    )
    .option('-c, --compress', 'a qcow2 or vmdk image (vmdk: streamOptimized)')
    .option('--timeout <seconds>', 'give up after that', parseSeconds)
    .action(async (name: string, file: string, options: Options) => {
      const target = await openTarget(cli, file)
      const overwrite = options.force === true
      const format = options.format === 'vpc' ? 'vhd' : options.format
      const { compress, timeout } = options
      const request = {
        name,
        path: target.path,
        overwrite,
        format,
        isCompressed: compress === true,
        ...(timeout === undefined ? {} : { timeoutMs: timeout * 1000 }),
      }
      const report = await withService(cli, command, (service) =>
        interruptible(cli, async (signal) => {
          const display = await startProgress(cli, options.progress, 'export')
          const progress = display.update
          const { output } = target
          try {
            const call = { signal, progress, ...(output === null ? {} : { output }) }
            return await service.exportImage(request, call)
          } finally {
            display.end()
          }
        }),
      )
      await target.end()
      // Standard output holds the image: nothing else may go there.
      if (file === '-') return
      const size = formatSize(report.imageBytes)
      const sentence = `exported ${name}: ${size}, ${formatSize(report.dataBytes)} written`
      await writeResult(cli, options, 'export', report, sentence)
    })
  addProgressOption(addResultOptions(command))
  addHelp(command, [
    'varve export vm1@monday vm1.img',
    'varve export vm1@monday - | zstd > vm1.img.zst',
    'varve export --format qcow2 --compress vm1@monday vm1.qcow2',
    'varve export --format vmdk --compress vm1@monday vm1.vmdk',
    'varve export --force vm1 /dev/vg0/vm1',
  ])
}

interface Target {
  /** Null: the image comes here, to `output`. */
  path: string | null
  output: ByteOutput | null
  end(): Promise<void>
}

async function openTarget(cli: Cli, file: string): Promise<Target> {
  if (file === '-') {
    if (cli.terminal.stdout) {
      throw new OperatingError('usage', 'standard output is a terminal', {
        hint: 'Pipe the image somewhere, or name a file.',
      })
    }
    return { path: null, output: streamOutput(cli.stdout), end: () => Promise.resolve() }
  }
  const path = resolve(file)
  if (!(await isStream(path))) return { path, output: null, end: () => Promise.resolve() }
  const stream = createWriteStream(path)
  return { path: null, output: streamOutput(stream), end: () => ended(stream) }
}

function ended(stream: Writable): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.on('error', reject)
    stream.end(resolve)
  })
}

/** FIFOs and the like of /dev/null have no size and no offsets. */
async function isStream(path: string): Promise<boolean> {
  try {
    const stats = await stat(path)
    return stats.isFIFO() || stats.isCharacterDevice()
  } catch {
    return false
  }
}
