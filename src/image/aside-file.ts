/**
 * A file that is written aside, in the same folder, and takes its name when it is whole and
 * durable: a failure leaves what was there before.
 */
import { randomBytes } from 'node:crypto'
import { link, open, realpath, rename, stat, unlink } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { Stats } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { OperatingError } from '../base/errors.ts'
import { imageFileKind } from './image-file.ts'
import { systemError } from './system-error.ts'

export interface Place {
  kind: 'file' | 'block-device'
  /** Of the file to be replaced, or of none. */
  path: string
}

/** Where `path` leads. Refuses with `exists` what is there unless `overwrite`. */
export async function findPlace(path: string, overwrite: boolean): Promise<Place> {
  const stats = await tryStat(path)
  if (stats === null) return { kind: 'file', path }
  if (!overwrite) {
    throw new OperatingError('exists', `${path} already exists`, {
      hint: 'Use another name, or --force to overwrite it.',
    })
  }
  const kind = imageFileKind(stats)
  // The name may be a link: what it points to is replaced, not the link.
  if (kind === 'file') return { kind, path: await realpath(path) }
  if (kind === 'block-device') return { kind, path }
  throw new OperatingError('usage', `${path} is neither a file nor a block device`)
}

export class AsideFile {
  readonly temporaryPath: string
  readonly #path: string
  readonly #overwrite: boolean

  private constructor(path: string, temporaryPath: string, overwrite: boolean) {
    this.#path = path
    this.temporaryPath = temporaryPath
    this.#overwrite = overwrite
  }

  /** The file is open and empty; the caller closes it. */
  static async create(
    path: string,
    overwrite: boolean,
  ): Promise<{ aside: AsideFile; file: FileHandle }> {
    const mark = randomBytes(6).toString('hex')
    const temporaryPath = join(dirname(path), `.${basename(path)}.${mark}.partial`)
    try {
      const file = await open(temporaryPath, 'wx', 0o666)
      return { aside: new AsideFile(path, temporaryPath, overwrite), file }
    } catch (error) {
      throw systemError(`cannot write ${path}`, error)
    }
  }

  /** Gives it its name, durably. Its bytes have to be durable before. */
  async commit(): Promise<void> {
    try {
      if (this.#overwrite) {
        await rename(this.temporaryPath, this.#path)
      } else {
        // Unlike a rename, a link does not replace what has appeared in the meantime.
        await link(this.temporaryPath, this.#path)
        await unlink(this.temporaryPath)
      }
      await syncDirectory(dirname(this.#path))
    } catch (error) {
      throw systemError(`cannot write ${this.#path}`, error)
    }
  }

  /** Idempotent. */
  async abort(): Promise<void> {
    try {
      await unlink(this.temporaryPath)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw systemError(`cannot remove ${this.temporaryPath}`, error)
      }
    }
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
