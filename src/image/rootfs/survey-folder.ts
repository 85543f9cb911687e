/** A survey of a folder of the host, from which a filesystem will be made as it is. */
import { lstatSync, readdirSync, readlinkSync } from 'node:fs'
import type { Stats } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { OperatingError } from '../../base/errors.ts'
import { systemError } from '../system-error.ts'
import type { Budget } from './limits.ts'
import { rawBytes, shownPath, splitPath } from './raw-path.ts'
import { Surveyor } from './survey.ts'
import type { Survey } from './survey.ts'

/** Between looks at whether the work has been given up. */
const TURN_COUNT = 1000

/** Folders of other filesystems within it are refused: nobody means `/proc`. */
export async function surveyFolder(
  folder: string,
  budget: Budget,
  signal: AbortSignal,
): Promise<Survey> {
  const base = Buffer.from(folder).toString('latin1')
  const root = look(base)
  const surveyor = new Surveyor(attributesOf(root))
  const seen = new Map<string, number>()
  const waiting = ['']
  let count = 0
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    const names = namesIn(`${base}${path}`).sort()
    surveyor.addFolder(names.map((name) => name.length))
    for (const name of names) {
      count += 1
      if (count % TURN_COUNT === 0) await nextTurn()
      if (signal.aborted) throw new OperatingError('canceled', 'canceled')
      const below = `${path}/${name}`
      const stats = look(`${base}${below}`)
      if (stats.dev !== root.dev) throw otherFilesystem(below)
      addOne(surveyor, seen, base, below, stats, budget)
      if (stats.isDirectory()) waiting.push(below)
    }
  }
  return surveyor.finish()
}

function addOne(
  surveyor: Surveyor,
  seen: Map<string, number>,
  base: string,
  path: string,
  stats: Stats,
  budget: Budget,
): void {
  budget.takeEntry()
  splitPath(path.slice(1))
  const { mode, uid, gid, size } = stats
  const attributes = attributesOf(stats)
  const serial = seen.get(String(stats.ino))
  const facts: (string | number)[] = [mode, uid, gid, attributes.mtimeSeconds, stats.rdev]
  if (serial !== undefined) facts.push(serial)
  if (stats.isFile()) facts.push(size)
  const target = stats.isSymbolicLink() ? targetOf(`${base}${path}`) : ''
  surveyor.addName(path, target, facts)
  if (serial !== undefined) return
  if (stats.nlink > 1 && stats.isFile()) seen.set(String(stats.ino), seen.size)
  // Attributes are not looked at here: a block for each that may have them is little.
  surveyor.addInode(attributes, 0)
  surveyor.addTarget(target.length)
  if (!stats.isFile()) return
  const dataBytes = Math.min(stats.blocks * 512, size)
  budget.takeUnpacked(dataBytes)
  surveyor.addFile(dataBytes, size)
}

function attributesOf({ mode, uid, gid, mtimeMs }: Stats): {
  mode: number
  userId: number
  groupId: number
  mtimeSeconds: number
} {
  const mtimeSeconds = Math.max(0, Math.floor(mtimeMs / 1000))
  return { mode: mode & 0o7777, userId: uid, groupId: gid, mtimeSeconds }
}

function look(path: string): Stats {
  return readable(path, () => lstatSync(rawBytes(path)))
}

function namesIn(path: string): string[] {
  return readable(path, () => readdirSync(rawBytes(path), { encoding: 'latin1' }))
}

function targetOf(path: string): string {
  return readable(path, () => readlinkSync(rawBytes(path), { encoding: 'latin1' }))
}

function readable<T>(path: string, call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw systemError(`cannot read ${shownPath(path)}`, error)
  }
}

function otherFilesystem(path: string): OperatingError {
  const shown = shownPath(path.slice(1))
  return new OperatingError('usage', `another filesystem is mounted at ${shown} in the folder`, {
    hint: 'Bind-mount the folder elsewhere (`mount --bind`) and import that.',
  })
}
