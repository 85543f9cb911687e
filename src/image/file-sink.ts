/**
 * An image that is being written to a path. A file is written aside, in the same folder, and
 * takes its name when it is whole and durable, so a failure leaves what was there before. A block
 * device is written in place, zeros included: nothing is known of what it holds.
 */
import { randomBytes } from 'node:crypto'
import { link, open, realpath, rename, stat, unlink } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { Stats } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { OperatingError } from '../base/errors.ts'
import { formatSize } from '../base/units.ts'
import type { ImageSink } from './export-raw.ts'
import { imageFileKind, imageSize } from './image-file.ts'
import { systemError } from './system-error.ts'
import { ZEROS } from './zeros.ts'

export class FileSink implements ImageSink {
  readonly #file: FileHandle
  readonly #path: string
  /** Null for a block device. */
  readonly #temporaryPath: string | null
  readonly #overwrite: boolean
  #atBytes = 0
  #open = true

  private constructor(
    file: FileHandle,
    path: string,
    temporaryPath: string | null,
    overwrite: boolean,
  ) {
    this.#file = file
    this.#path = path
    this.#temporaryPath = temporaryPath
    this.#overwrite = overwrite
  }

  /**
   * Refuses with `exists` what is there unless `overwrite`, and with `out-of-range` a device that
   * is too small.
   */
  static async create(path: string, sizeBytes: number, overwrite: boolean): Promise<FileSink> {
    const stats = await tryStat(path)
    if (stats === null) return FileSink.#beside(path, sizeBytes, overwrite)
    if (!overwrite) {
      throw new OperatingError('exists', `${path} already exists`, {
        hint: 'Use another name, or --force to overwrite it.',
      })
    }
    const kind = imageFileKind(stats)
    // The name may be a link: what it points to is replaced, not the link.
    if (kind === 'file') return FileSink.#beside(await realpath(path), sizeBytes, overwrite)
    if (kind === 'block-device') return FileSink.#onDevice(path, sizeBytes)
    throw new OperatingError('usage', `${path} is neither a file nor a block device`)
  }

  static async #beside(path: string, sizeBytes: number, overwrite: boolean): Promise<FileSink> {
    const mark = randomBytes(6).toString('hex')
    const temporaryPath = join(dirname(path), `.${basename(path)}.${mark}.partial`)
    let file: FileHandle | null = null
    try {
      file = await open(temporaryPath, 'wx', 0o666)
      await file.truncate(sizeBytes)
      return new FileSink(file, path, temporaryPath, overwrite)
    } catch (error) {
      await file?.close()
      if (file !== null) await unlink(temporaryPath)
      throw systemError(`cannot write ${path}`, error)
    }
  }

  static async #onDevice(path: string, sizeBytes: number): Promise<FileSink> {
    let file: FileHandle
    try {
      file = await open(path, 'r+')
    } catch (error) {
      throw systemError(`cannot write ${path}`, error)
    }
    try {
      const deviceBytes = await imageSize(file, path)
      if (deviceBytes >= sizeBytes) return new FileSink(file, path, null, true)
      throw new OperatingError(
        'out-of-range',
        `${path} holds ${formatSize(deviceBytes)}, the disk has ${formatSize(sizeBytes)}`,
      )
    } catch (error) {
      await file.close()
      throw error
    }
  }

  async data(bytes: Uint8Array): Promise<void> {
    let done = 0
    try {
      while (done < bytes.length) {
        const left = bytes.length - done
        const { bytesWritten } = await this.#file.write(bytes, done, left, this.#atBytes + done)
        done += bytesWritten
      }
    } catch (error) {
      throw systemError(`cannot write ${this.#path}`, error)
    }
    this.#atBytes += bytes.length
  }

  /** A new file reads as zeros where it was not written. */
  async zeros(lengthBytes: number): Promise<void> {
    if (this.#temporaryPath !== null) {
      this.#atBytes += lengthBytes
      return
    }
    for (let left = lengthBytes; left > 0; left -= ZEROS.length) {
      await this.data(ZEROS.subarray(0, Math.min(left, ZEROS.length)))
    }
  }

  /** Makes it durable and gives it its name. */
  async commit(): Promise<void> {
    try {
      await this.#file.sync()
      await this.#close()
      if (this.#temporaryPath === null) return
      if (this.#overwrite) {
        await rename(this.#temporaryPath, this.#path)
      } else {
        // Unlike a rename, a link does not replace what has appeared in the meantime.
        await link(this.#temporaryPath, this.#path)
        await unlink(this.#temporaryPath)
      }
      await syncDirectory(dirname(this.#path))
    } catch (error) {
      throw systemError(`cannot write ${this.#path}`, error)
    }
  }

  /** After a failure: leaves nothing behind but what a device has already been given. */
  async abort(): Promise<void> {
    await this.#close()
    if (this.#temporaryPath === null) return
    try {
      await unlink(this.#temporaryPath)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw systemError(`cannot remove ${this.#temporaryPath}`, error)
      }
    }
  }

  async #close(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    await this.#file.close()
  }
}

async function tryStat(path: string): Promise<Stats | null> {
  try {
    return await stat(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw systemError(`cannot write ${path}`, error)
  }
}

async function syncDirectory(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
