/**
 * Whether others than its owner can get at a pool past everything that varve asks of its clients:
 * by the modes and owners of its folder and files. Varve makes files 0600 and folders 0700; a copy,
 * a restore or a chmod may have left something else.
 */
import { lstat, readdir, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'

export interface AccessFinding {
  fact: string
  /** The line that mends it; null where that is for a person to decide. */
  remedy: string | null
}

const OTHERS_MASK = 0o077
const OTHERS_WRITE_MASK = 0o022
const STICKY = 0o1000
/** Folders of a pool in which there are files. */
const FOLDERS: readonly string[] = ['', 'segments', 'reserve']

/** Nothing for a pool that is not there: others say that. */
export async function poolAccessFindings(path: string): Promise<AccessFinding[]> {
  const stats = await stat(path).catch(() => null)
  if (stats?.isDirectory() !== true) return []
  const findings: AccessFinding[] = []
  const userId = process.geteuid?.()
  if (stats.uid !== userId && stats.uid !== 0) {
    const fact = `${path} is the folder of user ${stats.uid}, who can change whatever is in it`
    findings.push({ fact, remedy: null })
  }
  if ((stats.mode & OTHERS_MASK) !== 0) {
    const isWritable = (stats.mode & OTHERS_WRITE_MASK) !== 0
    const what = isWritable ? 'changed' : 'entered'
    findings.push({ fact: `${path} may be ${what} by others`, remedy: `chmod 700 ${path}` })
  }
  const openCount = await countOpen(path)
  if (openCount > 0) {
    const fact = `others may read or write ${openCount} files and folders of the pool`
    findings.push({ fact, remedy: `chmod -R go= ${path}` })
  }
  return findings
}

async function countOpen(path: string): Promise<number> {
  let count = 0
  for (const folder of FOLDERS) {
    const names = await readdir(join(path, folder)).catch(() => [])
    for (const name of names) {
      const stats = await lstat(join(path, folder, name)).catch(() => null)
      // A socket asks who is there.
      if (stats === null || !(stats.isFile() || stats.isDirectory())) continue
      if ((stats.mode & OTHERS_MASK) !== 0) count += 1
    }
  }
  return count
}

/** In a folder that others may change, another socket may come in the place of ours. */
export async function socketFolderFinding(folder: string): Promise<AccessFinding | null> {
  const real = await realpath(folder).catch(() => null)
  const stats = real === null ? null : await stat(real).catch(() => null)
  if (stats === null) return null
  const isShared = (stats.mode & OTHERS_WRITE_MASK) !== 0 && (stats.mode & STICKY) === 0
  const isOurs = stats.uid === process.geteuid?.() || stats.uid === 0
  if (isOurs && !isShared) return null
  const fact = `others may put a socket of theirs in the place of ours in ${folder}`
  return { fact, remedy: null }
}
