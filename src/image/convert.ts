/**
 * A disk into an image of another format: qemu-img reads it from an NBD server of ours, which
 * tells it the holes, and writes a file aside that takes its name when it is whole and durable.
 */
import { open, stat } from 'node:fs/promises'
import { OperatingError } from '../base/errors.ts'
import { GIB, formatSize } from '../base/units.ts'
import { AsideFile, findPlace } from './aside-file.ts'
import { throwIfCanceled } from './import-raw.ts'
import type { CopyOptions } from './import-raw.ts'
import { LimitedProcess } from './limited-process.ts'
import { driverOf, nodeName } from './qemu-node.ts'
import { systemError } from './system-error.ts'

export type WrittenFormat = 'qcow2' | 'vmdk' | 'vhd' | 'vhdx' | 'vdi'

export interface ConvertRequest {
  /** Of the NBD server, and the name of its export. */
  socketPath: string
  exportName: string
  sizeBytes: number
  path: string
  overwrite: boolean
  format: WrittenFormat
  isCompressed: boolean
}

/** What a VHD can be at most, by its specification. */
const VHD_SIZE_BYTES_MAX: number = 2040 * GIB

interface Flavour {
  /** Of `qemu-img -o`. */
  options: string | null
  /** Null: the format knows no compression that QEMU writes. */
  compressed: string | null
}

const FLAVOURS: Record<WrittenFormat, Flavour> = {
  // Of the two compressions the one that every reader of qcow2 knows.
  qcow2: { options: 'compat=1.1', compressed: 'compat=1.1,compression_type=zlib' },
  vmdk: { options: 'subformat=monolithicSparse', compressed: 'subformat=streamOptimized' },
  // Else the size would be rounded to cylinders.
  vhd: { options: 'subformat=dynamic,force_size=on', compressed: null },
  vhdx: { options: 'subformat=dynamic', compressed: null },
  vdi: { options: null, compressed: null },
}

/** Throws `usage` or `out-of-range` for what cannot be written, before anything is. */
export function verifyConvertible(
  format: WrittenFormat,
  isCompressed: boolean,
  sizeBytes: number,
): void {
  if (isCompressed && FLAVOURS[format].compressed === null) {
    throw new OperatingError('usage', `${format} images cannot be compressed`, {
      hint: 'Compress qcow2 or vmdk, or the file afterwards.',
    })
  }
  if (format === 'vhd' && sizeBytes > VHD_SIZE_BYTES_MAX) {
    throw new OperatingError('out-of-range', `a VHD cannot hold ${formatSize(sizeBytes)}`, {
      hint: 'The most is 2040 GiB; use vhdx.',
    })
  }
}

/**
 * Resolves to the size of the file that was written. Rejects `exists`, `canceled`, and `io` with
 * what qemu-img says; nothing is left then.
 */
export async function convert(request: ConvertRequest, options: CopyOptions): Promise<number> {
  const { path, overwrite } = request
  const place = await findPlace(path, overwrite)
  if (place.kind !== 'file') {
    throw new OperatingError('usage', `${path} is not a file`, {
      hint: 'A block device takes raw images only.',
    })
  }
  const { aside, file } = await AsideFile.create(place.path, overwrite)
  try {
    await file.close()
    await runConvert(request, aside.temporaryPath, options)
    await makeDurable(aside.temporaryPath, path)
    throwIfCanceled(options.signal)
    const { size } = await stat(aside.temporaryPath)
    await aside.commit()
    return size
  } catch (error) {
    await aside.abort()
    throw error
  }
}

async function runConvert(
  request: ConvertRequest,
  temporaryPath: string,
  options: CopyOptions,
): Promise<void> {
  const { signal } = options
  const args = convertArguments(request, temporaryPath)
  throwIfCanceled(signal)
  const program = LimitedProcess.start('qemu-img', args, { isWriter: true, stdout: 'pipe' })
  const kill = (): void => void program.kill()
  signal?.addEventListener('abort', kill)
  try {
    await followProgress(program, request.sizeBytes, options)
    const { exitCode } = await program.exited
    throwIfCanceled(signal)
    if (exitCode === 0) return
    const said = program.complaint().replaceAll(temporaryPath, request.path)
    const code = said.includes('No space left') ? 'no-space' : 'io'
    throw new OperatingError(code, `${request.path} cannot be written: ${said}`, {
      details: { path: request.path },
    })
  } finally {
    signal?.removeEventListener('abort', kill)
    await program.kill()
  }
}

function convertArguments(request: ConvertRequest, temporaryPath: string): string[] {
  const { socketPath, exportName, format, isCompressed } = request
  const server = { type: 'unix', path: socketPath }
  const source = { driver: 'raw', file: { driver: 'nbd', server, export: exportName } }
  const flavour = FLAVOURS[format]
  const options = isCompressed ? flavour.compressed : flavour.options
  return [
    'convert',
    '-p',
    ...(isCompressed ? ['-c'] : []),
    ...(options === null ? [] : ['-o', options]),
    '-O',
    driverOf(format),
    nodeName(source),
    // A name that begins like a protocol is a file all the same.
    `file:${temporaryPath}`,
  ]
}

/** `    (12.34/100%)\r`, again and again. */
async function followProgress(
  program: LimitedProcess,
  totalBytes: number,
  options: CopyOptions,
): Promise<void> {
  for await (const bytes of program.stdout as AsyncIterable<Buffer>) {
    const told = [...bytes.toString('latin1').matchAll(/\((\d+(?:\.\d+)?)\/100%\)/g)].at(-1)
    if (told === undefined) continue
    const doneBytes = Math.min(totalBytes, Math.floor((Number(told[1]) / 100) * totalBytes))
    options.progress?.({ doneBytes, totalBytes })
  }
}

async function makeDurable(temporaryPath: string, path: string): Promise<void> {
  try {
    const file = await open(temporaryPath, 'r+')
    try {
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    throw systemError(`cannot write ${path}`, error)
  }
}
