/**
 * A private folder for what an import needs for a while. Its name says whose it is, so that one
 * that a killed process left is found and removed by the next.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { lstat, mkdir, readdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { systemError } from '../system-error.ts'

/** prefix, namespace of process numbers, process, when that began, random. */
const NAME = /^varve-rootfs\.(\d+)\.(\d+)\.(\d+)\.[0-9a-f]{12}$/

export function temporaryFolder(): string {
  const { TMPDIR } = process.env
  // Not /tmp, which may be in memory: a root filesystem need not fit.
  return resolve(TMPDIR === undefined || TMPDIR === '' ? '/var/tmp' : TMPDIR)
}

/** The absolute path of a new folder that only we may enter. */
export async function makeWorkFolder(parent: string): Promise<string> {
  await removeStale(parent)
  const { pid } = process
  const random = randomBytes(6).toString('hex')
  const name = `varve-rootfs.${namespaceNumber()}.${pid}.${startTicks(pid) ?? 0}.${random}`
  const path = join(parent, name)
  try {
    await mkdir(path, { mode: 0o700 })
  } catch (error) {
    throw systemError(`cannot make a temporary folder in ${parent}`, error)
  }
  return path
}

export async function removeWorkFolder(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 3 })
}

/** Those of processes that have ended, if they are ours; what cannot be removed stays. */
export async function removeStale(parent: string): Promise<void> {
  const names = await readdir(parent).catch(() => [])
  for (const name of names) {
    const match = NAME.exec(name)
    if (match === null) continue
    const [, namespace, pid, ticks] = match.map(Number)
    // Of processes in another container nothing can be told from here.
    if (namespace !== namespaceNumber() || startTicks(pid) === ticks) continue
    const path = join(parent, name)
    const stats = await lstat(path).catch(() => null)
    if (stats === null || !stats.isDirectory() || stats.uid !== process.geteuid?.()) continue
    await removeWorkFolder(path).catch(() => undefined)
  }
}

function namespaceNumber(): number {
  try {
    return Number(/\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? 0)
  } catch {
    return 0
  }
}

/** When a process began, in ticks since the machine did; null: there is no such process. */
function startTicks(pid: number): number | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name, in parentheses, may hold blanks: fields are counted behind it.
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[19])
  } catch {
    return null
  }
}
