/**
 * A raw image that is being written to a path. A file is written aside (`aside-file.ts`). A block
 * device is written in place, zeros included: nothing is known of what it holds.
 */
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { OperatingError } from '../base/errors.ts'
import { formatSize } from '../base/units.ts'
import { AsideFile, findPlace } from './aside-file.ts'
import type { ImageSink } from './export-raw.ts'
import { imageSize } from './image-file.ts'
import { systemError } from './system-error.ts'
import { ZEROS } from './zeros.ts'

export class FileSink implements ImageSink {
  readonly #file: FileHandle
  readonly #path: string
  /** Null for a block device. */
  readonly #aside: AsideFile | null
  #atBytes = 0
  #open = true

  private constructor(file: FileHandle, path: string, aside: AsideFile | null) {
    this.#file = file
    this.#path = path
    this.#aside = aside
  }

  /**
   * Refuses with `exists` what is there unless `overwrite`, and with `out-of-range` a device that
   * is too small.
   */
  static async create(path: string, sizeBytes: number, overwrite: boolean): Promise<FileSink> {
    const place = await findPlace(path, overwrite)
    if (place.kind === 'block-device') return FileSink.#onDevice(path, sizeBytes)
    const { aside, file } = await AsideFile.create(place.path, overwrite)
    try {
      await file.truncate(sizeBytes)
      return new FileSink(file, path, aside)
    } catch (error) {
      await file.close()
      await aside.abort()
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
      if (deviceBytes >= sizeBytes) return new FileSink(file, path, null)
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
    if (this.#aside !== null) {
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
    } catch (error) {
      throw systemError(`cannot write ${this.#path}`, error)
    }
    await this.#aside?.commit()
  }

  /** After a failure: leaves nothing behind but what a device has already been given. */
  async abort(): Promise<void> {
    await this.#close()
    await this.#aside?.abort()
  }

  async #close(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    await this.#file.close()
  }
}
