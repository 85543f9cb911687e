/** The corpus in a btrfs of its own, compressed, then deduplicated by duperemove. Wants root. */
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../command.ts'
import { MIB } from '../../src/base/units.ts'
import type { CorpusImage, Stored } from './corpus-images.ts'

/** The smallest that duperemove knows; with parts of extents, as below, it finds the most. */
const DEDUPE_BLOCK_BYTES = 4096

export async function storeInBtrfs(
  images: readonly CorpusImage[],
  folder: string,
  codec: string,
): Promise<Stored> {
  const device = join(folder, 'btrfs.img')
  const root = join(folder, 'root')
  mkdirSync(root)
  const dataBytes = images.reduce((sum, image) => sum + image.dataBytes, 0)
  // Room for all of it uncompressed and once more for copies being rewritten.
  const sizeMib = Math.ceil((2 * dataBytes) / MIB) + 1024
  await run('truncate', ['--size', `${sizeMib}M`, device])
  // One copy of the metadata, as ours has.
  await run('mkfs.btrfs', ['--quiet', '--metadata', 'single', device])
  // Forced: without that, btrfs gives a whole file up at its first part that does not compress.
  await run('mount', ['-t', 'btrfs', '-o', `loop,noatime,compress-force=${codec}`, device, root])
  // When a signal ends us a copy may still be running; the mount goes when that has ended.
  const detach = (): void => {
    spawnSync('umount', ['--lazy', root])
  }
  process.once('exit', detach)
  try {
    return await storeMounted(images, folder, root)
  } finally {
    process.removeListener('exit', detach)
    await run('umount', [root])
    await rm(device)
  }
}

async function storeMounted(
  images: readonly CorpusImage[],
  folder: string,
  root: string,
): Promise<Stored> {
  const startMs = performance.now()
  for (const image of images) {
    const copy = join(root, `${image.name}.img`)
    await run('cp', ['--sparse=always', '--reflink=never', image.path, copy])
  }
  await run('sync', ['-f', root])
  const compressed = await usedBytes(root)
  // The hashes lie outside: they are no part of what is stored.
  const hashes = `--hashfile=${join(folder, 'hashes')}`
  const blockSize = String(DEDUPE_BLOCK_BYTES)
  const words = ['-dr', '-q', '-b', blockSize, '--dedupe-options=partial', hashes]
  await run('duperemove', [...words, root])
  await run('sync', ['-f', root])
  const tookMs = performance.now() - startMs
  const deduplicated = await usedBytes(root)
  const sum = Object.values(deduplicated).reduce((total, bytes) => total + bytes, 0)
  return { tookMs, physicalBytes: sum, details: { compressed, deduplicated } }
}

/** What the filesystem counts as used, by kind: data, system, metadata. */
async function usedBytes(root: string): Promise<Record<string, number>> {
  const { stdout } = await run('btrfs', ['filesystem', 'df', '--raw', root])
  const used: Record<string, number> = {}
  for (const [, kind, bytes] of stdout.matchAll(/^(\w+),.*used=(\d+)$/gm)) {
    // Set aside for the filesystem's own use; empty.
    if (kind !== 'GlobalReserve') used[kind.toLowerCase()] = Number(bytes)
  }
  return used
}
