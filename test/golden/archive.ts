/**
 * A pool as one small file: a tar archive with gzip, without the holes.
 *
 *     manifest.json        what the pool holds, and the size of each of its files
 *     PATH@OFFSET          bytes of the file PATH from OFFSET on; what no entry has is zeros
 */
import { gunzipSync, gzipSync } from 'node:zlib'
import { isZero } from '../../src/base/bytes.ts'
import { ByteReader } from '../../src/image/rootfs/byte-reader.ts'
import { TarReader } from '../../src/image/rootfs/tar-reader.ts'
import type { Io, IoFile } from '../../src/io/io.ts'
import { ioResult } from '../../src/io/io.ts'
import type { TarPart } from '../support/tar-writer.ts'
import { tarOf } from '../support/tar-writer.ts'

const PAGE_BYTES = 4096
const PIECE_BYTES = 2 ** 20

export interface GoldenDisk {
  /** `volume` or `volume@snapshot`. */
  name: string
  sizeBytes: number
  /** Of all bytes of the disk. */
  sha256: string
}

export interface Manifest {
  /** What is special about it, for people. */
  about: string
  formatVersion: number
  /** Of the superblock. */
  refuseFeatures: number
  disks: GoldenDisk[]
  /** Tags by snapshot. */
  holds: Record<string, string[]>
  labels: Record<string, Record<string, string>>
  /** Bytes by path. */
  files: Record<string, number>
}

/** Of a closed pool, or of one that nobody will open again. The lock is not part of it. */
export async function packPool(io: Io, pool: string, manifest: Manifest): Promise<Buffer> {
  const parts: TarPart[] = []
  const files: Record<string, number> = {}
  for (const path of await filesOf(io, pool)) {
    const file = await io.open(`${pool}/${path}`, 'read')
    const { sizeBytes } = await io.stat(file)
    files[path] = sizeBytes
    for await (const [offsetBytes, body] of runsOf(io, file, sizeBytes)) {
      parts.push({ name: `${path}@${offsetBytes}`, body })
    }
    await io.close(file)
  }
  const text = JSON.stringify({ ...manifest, files }, null, 1)
  return gzipSync(tarOf({ name: 'manifest.json', body: text }, ...parts), { level: 9 })
}

async function filesOf(io: Io, pool: string): Promise<string[]> {
  const names = (await io.list(pool)).filter((name) =>
    ['superblock', 'fingerprints'].includes(name),
  )
  const segments = await io.list(`${pool}/segments`)
  return [...names, ...segments.map((name) => `segments/${name}`)]
}

/** Runs of pages that are not zeros, of at most a piece each. */
async function* runsOf(io: Io, file: IoFile, sizeBytes: number): AsyncGenerator<[number, Buffer]> {
  const at = io.arena.allocate(PIECE_BYTES)
  for (let from = 0; from < sizeBytes; from += PIECE_BYTES) {
    const lengthBytes = await ioResult((completion) => {
      io.read(file, from, at, Math.min(PIECE_BYTES, sizeBytes - from), completion, 0)
    })
    const bytes = Buffer.from(io.arena.memory.subarray(at, at + lengthBytes))
    let start = -1
    for (let page = 0; page <= lengthBytes; page += PAGE_BYTES) {
      const isBlank =
        page >= lengthBytes || isZero(bytes, page, Math.min(page + PAGE_BYTES, lengthBytes))
      if (!isBlank && start < 0) start = page
      if (!isBlank || start < 0) continue
      yield [from + start, bytes.subarray(start, Math.min(page, lengthBytes))]
      start = -1
    }
    if (start >= 0) yield [from + start, bytes.subarray(start, lengthBytes)]
  }
  io.arena.free(at, PIECE_BYTES)
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes)
}

/** Writes the pool of an archive to a folder that does not exist yet. */
export async function unpackPool(io: Io, pool: string, archive: Uint8Array): Promise<Manifest> {
  const tar = new TarReader(new ByteReader(once(gunzipSync(archive))))
  await io.createDirectory(pool)
  await io.createDirectory(`${pool}/segments`)
  const open = new Map<string, IoFile>()
  let manifest: Manifest | null = null
  for (let entry = await tar.next(); entry !== null; entry = await tar.next()) {
    const pieces: Buffer[] = []
    for await (const { bytes } of tar.body()) pieces.push(bytes)
    const body = Buffer.concat(pieces)
    if (entry.name === 'manifest.json') {
      manifest = JSON.parse(body.toString()) as Manifest
      for (const [path, sizeBytes] of Object.entries(manifest.files)) {
        const file = await io.open(`${pool}/${path}`, 'create')
        await io.truncate(file, sizeBytes)
        open.set(path, file)
      }
      continue
    }
    const [path, offset] = entry.name.split('@')
    const file = open.get(path)
    if (file === undefined) throw new Error(`${path} is not in the manifest`)
    writeAll(io, file, Number(offset), body)
  }
  for (const file of open.values()) {
    await ioResult((completion) => io.sync(file, completion, 0))
    await io.close(file)
  }
  for (const folder of [`${pool}/segments`, pool]) await io.syncDirectory(folder)
  if (manifest === null) throw new Error('the archive has no manifest')
  return manifest
}

function writeAll(io: Io, file: IoFile, offsetBytes: number, body: Buffer): void {
  const at = io.arena.allocate(body.length)
  io.arena.memory.set(body, at)
  const vector = { pairs: Uint32Array.of(at, body.length), count: 1 }
  const result = io.writeSync(file, offsetBytes, vector)
  io.arena.free(at, body.length)
  if (result !== body.length) throw new Error(`cannot write ${file.path}: ${result}`)
}
