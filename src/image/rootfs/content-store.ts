/** Contents of files under numbers, in a folder of ours; blocks of zeros become holes. */
import { closeSync, ftruncateSync, mkdirSync, openSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { runsOf } from '../zeros.ts'
import { systemError } from '../system-error.ts'
import type { TarChunk } from './tar-reader.ts'

export interface StoredContent {
  contentNumber: number
  /** Of blocks that were not all zeros. */
  dataBytes: number
}

/** Calls are synchronous: they are many and short, and nothing else runs in this process. */
export class ContentStore {
  readonly #folder: string
  #nextNumber = 1

  private constructor(folder: string) {
    this.#folder = folder
  }

  /** In a new folder. */
  static create(folder: string): ContentStore {
    const store = new ContentStore(folder)
    store.#try(() => mkdirSync(folder, { mode: 0o700 }))
    return store
  }

  pathOf(contentNumber: number): string {
    return join(this.#folder, String(contentNumber))
  }

  async add(chunks: AsyncIterable<TarChunk>, sizeBytes: number): Promise<StoredContent> {
    const contentNumber = this.#nextNumber
    this.#nextNumber += 1
    const fd = this.#try(() => openSync(this.pathOf(contentNumber), 'wx', 0o600))
    try {
      let dataBytes = 0
      for await (const { offsetBytes, bytes } of chunks) {
        for (const { startBytes, endBytes, zero } of runsOf(bytes)) {
          if (zero) continue
          this.#write(fd, bytes.subarray(startBytes, endBytes), offsetBytes + startBytes)
          dataBytes += endBytes - startBytes
        }
      }
      this.#try(() => ftruncateSync(fd, sizeBytes))
      return { contentNumber, dataBytes }
    } finally {
      closeSync(fd)
    }
  }

  remove(contentNumber: number): void {
    this.#try(() => unlinkSync(this.pathOf(contentNumber)))
  }

  #write(fd: number, bytes: Buffer, offsetBytes: number): void {
    for (let done = 0; done < bytes.length;) {
      const left = bytes.length - done
      done += this.#try(() => writeSync(fd, bytes, done, left, offsetBytes + done))
    }
  }

  #try<T>(call: () => T): T {
    try {
      return call()
    } catch (error) {
      throw systemError(`cannot unpack into ${this.#folder}`, error)
    }
  }
}
