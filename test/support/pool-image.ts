/** The files of a simulated pool, to be laid out again and again, each time damaged otherwise. */
import type { Io } from '../../src/io/io.ts'
import { ioResult } from '../../src/io/io.ts'

export const IMAGE_PAGE_BYTES = 4096
const ZERO_PAGE = Buffer.alloc(IMAGE_PAGE_BYTES)
const READ_BYTES = 256 * IMAGE_PAGE_BYTES

export interface ImageFile {
  sizeBytes: number
  /** By index; what is not here is zeros. */
  pages: Map<number, Uint8Array>
}

/** Names are relative to the pool's folder. */
export class PoolImage {
  readonly folders: string[] = []
  readonly files: Map<string, ImageFile> = new Map<string, ImageFile>()

  /** Reads a closed pool; `folders`: those in it. */
  static async take(io: Io, path: string, folders: readonly string[]): Promise<PoolImage> {
    const image = new PoolImage()
    image.folders.push(...folders)
    for (const folder of ['', ...folders]) {
      const here = folder === '' ? path : `${path}/${folder}`
      for (const name of await io.list(here)) {
        const file = folder === '' ? name : `${folder}/${name}`
        if (folders.includes(name) || name === 'lock' || name === 'reserve') continue
        image.files.set(file, await readWhole(io, `${path}/${file}`))
      }
    }
    return image
  }

  page(name: string, index: number): Uint8Array {
    return this.files.get(name)?.pages.get(index) ?? new Uint8Array(IMAGE_PAGE_BYTES)
  }

  /** `damaged`: a page in place of the one that was taken. */
  async lay(
    io: Io,
    path: string,
    damaged?: { file: string; page: number; bytes: Uint8Array },
  ): Promise<void> {
    await io.createDirectory(path)
    for (const folder of this.folders) await io.createDirectory(`${path}/${folder}`)
    const piece = io.arena.allocate(IMAGE_PAGE_BYTES)
    for (const [name, { sizeBytes, pages }] of this.files) {
      const file = await io.open(`${path}/${name}`, 'create')
      await io.truncate(file, sizeBytes)
      const all = new Map(pages)
      if (damaged?.file === name) all.set(damaged.page, damaged.bytes)
      for (const [index, bytes] of all) {
        const lengthBytes = Math.min(IMAGE_PAGE_BYTES, sizeBytes - index * IMAGE_PAGE_BYTES)
        io.arena.memory.set(bytes, piece)
        const vector = { pairs: Uint32Array.of(piece, lengthBytes), count: 1 }
        io.writeSync(file, index * IMAGE_PAGE_BYTES, vector)
      }
      await io.close(file)
    }
    io.arena.free(piece, IMAGE_PAGE_BYTES)
  }
}

async function readWhole(io: Io, path: string): Promise<ImageFile> {
  const file = await io.open(path, 'read')
  const { sizeBytes } = await io.stat(file)
  const pages = new Map<number, Uint8Array>()
  const piece = io.arena.allocate(READ_BYTES)
  for (let at = 0; at < sizeBytes; at += READ_BYTES) {
    io.arena.memory.fill(0, piece, piece + READ_BYTES)
    await ioResult((completion) => io.read(file, at, piece, READ_BYTES, completion, 0))
    for (let from = 0; from < READ_BYTES; from += IMAGE_PAGE_BYTES) {
      const start = piece + from
      const bytes = io.arena.memory.subarray(start, start + IMAGE_PAGE_BYTES)
      if (ZERO_PAGE.equals(bytes)) continue
      pages.set((at + from) / IMAGE_PAGE_BYTES, Uint8Array.from(bytes))
    }
  }
  io.arena.free(piece, READ_BYTES)
  await io.close(file)
  return { sizeBytes, pages }
}
