/** `varve import`. */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Option } from 'commander'
import type { Command } from 'commander'
import { IMAGE_FORMATS } from '../../api/image-formats.ts'
import type { ImageFormat, ImportRequest } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp, parseLabel, parseSeconds, parseSize } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { addProgressOption, startProgress } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { interruptible, withService } from '../with-service.ts'
import { addRootfsOptions, rootfsRequest } from './import-rootfs.ts'
import type { RootfsOptions } from './import-rootfs.ts'

interface Options extends OutputOptions, RootfsOptions {
  size?: number
  label?: Record<string, string>
  format?: ImageFormat | 'vpc'
  allowBacking?: string
  maxSize?: number
  timeout?: number
  progress: ProgressMode
}

/** A read of a FIFO; the pool takes a megabyte at a time. */
const STREAM_CHUNK_BYTES = 1048576

export function registerImport(program: Command, cli: Cli): void {
  const command = program
    .command('import')
    .summary('a volume from an image')
    .description(
      'Makes a volume from an image: raw, compressed raw (gz, zst, xz), qcow2, VMDK, VHD, VHDX, ' +
        'VDI. Holes and zeros take no space. The volume is as large as the disk in the image, ' +
        'rounded up to 512 bytes; a raw pipe has no size, so --size says it. The volume appears ' +
        'when it is whole; a failure or Ctrl-C leaves nothing behind.\n\n' +
        'Without --format the format is what the name of the file and its first bytes agree on, ' +
        'and raw where neither says anything. An image that refers to other files, as to a ' +
        'backing file, is refused unless --allow-backing names the folder that holds all of them.',
    )
    .argument('<file>', 'a file, a block device, a FIFO, or - for standard input; see --rootfs')
    .argument('<name>', 'the new volume')
    .option('-s, --size <size>', 'of the volume; not less than the image', parseSize)
    .option('--label <key=value>', 'may be given several times', parseLabel)
    .addOption(
      new Option(
        '--format <format>',
        'of the image; it is never guessed from its bytes alone',
      ).choices([...IMAGE_FORMATS, 'vpc']),
    )
    .option('--allow-backing <folder>', 'that holds the files the image may refer to')
    .option('--max-size <size>', 'refuse a larger disk, or files that unpack to more', parseSize)
    .option('--timeout <seconds>', 'give up after that', parseSeconds)
    .action(async (file: string, name: string, options: Options) => {
      const source = await openSource(cli, file)
      const rootfs = rootfsRequest(options)
      // Only a raw image is as large as the disk in it.
      const isRaw = rootfs === undefined && (options.format ?? 'raw') === 'raw'
      const sizeBytes = options.size ?? (isRaw ? source.sizeBytes : null)
      const labels = options.label ?? {}
      const image = { path: source.path, sizeBytes, ...imageRequest(options) }
      const request: ImportRequest = { name, rootfs, labels, ...image }
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
      for (const warning of report.warnings ?? []) cli.stderr.write(`varve: ${warning}\n`)
      await writeResult(cli, options, 'import', report, sentence)
    })
  addRootfsOptions(command)
  addProgressOption(addResultOptions(command))
  addHelp(command, [
    'varve import golden.img golden',
    'varve import debian-12.qcow2 debian',
    'varve import --format qcow2 cloud.img cloud --max-size 100G',
    'varve import --allow-backing /srv/images /srv/images/web.qcow2 web',
    'varve import golden.img.zst golden',
    'curl -s https://host/golden.xz | varve import --format raw+xz - golden',
    'varve import --rootfs rootfs.tar.zst web --size 10G',
    'docker export web | varve import --rootfs - web',
    'varve import --rootfs --platform linux/arm64 oci-layout.tar web',
  ])
}

function imageRequest(options: Options): Partial<ImportRequest> {
  const { format, allowBacking, maxSize, timeout } = options
  if (options.rootfs === true && (format !== undefined || allowBacking !== undefined)) {
    throw new OperatingError('usage', '--format and --allow-backing are of an image', {
      hint: 'Give them without --rootfs.',
    })
  }
  return {
    // QEMU's name for it.
    ...(format === undefined ? {} : { format: format === 'vpc' ? 'vhd' : format }),
    ...(allowBacking === undefined ? {} : { allowBacking: resolve(allowBacking) }),
    ...(maxSize === undefined ? {} : { sizeBytesMax: maxSize }),
    ...(timeout === undefined ? {} : { timeoutMs: timeout * 1000 }),
  }
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
