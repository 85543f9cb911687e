/**
 * A golden image of real data: an ext4 filesystem with programs, libraries and settings of this
 * machine, as many as fit a budget. Needs no privileges: what cannot be read is left out.
 */
import { constants, copyFileSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import type { Dirent } from 'node:fs'
import { dirname, join } from 'node:path'
import { MIB } from '../../src/base/units.ts'
import { run } from '../command.ts'

const FILE_BYTES_BUDGET = 256 * MIB
/** Of one source, so that every kind of file is there. */
const SOURCE_BYTES_BUDGET = 96 * MIB
const FILE_SIZE_BYTES_MAX = 32 * MIB
const SOURCES = ['/etc', '/usr/bin', '/usr/lib', '/usr/share']

/** Larger than its files, as any disk is: the rest costs nothing. */
export const GOLDEN_SIZE_MIB = 1024

export interface GoldenImage {
  path: string
  fileCount: number
  fileBytes: number
}

export async function buildGoldenImage(folder: string): Promise<GoldenImage> {
  const tree = join(folder, 'tree')
  mkdirSync(tree)
  let fileCount = 0
  let fileBytes = 0
  for (const source of SOURCES) {
    let sourceBytes = 0
    for (const path of regularFiles(source)) {
      const bytes = tryCopy(path, join(tree, path))
      if (bytes === null) continue
      sourceBytes += bytes
      fileBytes += bytes
      fileCount += 1
      if (fileBytes >= FILE_BYTES_BUDGET || sourceBytes >= SOURCE_BYTES_BUDGET) break
    }
  }
  const path = join(folder, 'golden.img')
  await run('mke2fs', ['-q', '-t', 'ext4', '-d', tree, path, `${GOLDEN_SIZE_MIB}M`], {
    env: { PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` },
  })
  rmSync(tree, { recursive: true })
  return { path, fileCount, fileBytes }
}

/** Paths of regular files below a folder; folders that may not be listed are passed over. */
function* regularFiles(folder: string): Generator<string> {
  const folders = [folder]
  for (let next = folders.pop(); next !== undefined; next = folders.pop()) {
    for (const entry of tryList(next)) {
      const path = join(next, entry.name)
      if (entry.isDirectory()) folders.push(path)
      else if (entry.isFile()) yield path
    }
  }
}

function tryList(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
  } catch {
    return []
  }
}

/** Bytes copied; null when the file is too large, or not ours to read, or gone meanwhile. */
function tryCopy(from: string, to: string): number | null {
  try {
    const { size } = statSync(from)
    if (size > FILE_SIZE_BYTES_MAX) return null
    mkdirSync(dirname(to), { recursive: true })
    copyFileSync(from, to, constants.COPYFILE_FICLONE)
    return size
  } catch {
    return null
  }
}
