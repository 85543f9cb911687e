/**
 * A folder that only we may enter, for the socket of a child. Its name says whose it is, so that
 * the next one to need such a folder removes what a killed process left.
 */
import { lstat, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemError } from './system-error.ts'

const NAME = /^varve-image-(\d+)-[A-Za-z0-9]{6}$/

export interface PrivateFolder {
  readonly path: string
  remove(): Promise<void>
}

export async function makePrivateFolder(): Promise<PrivateFolder> {
  const parent = tmpdir()
  await removeStale(parent)
  try {
    const path = await mkdtemp(join(parent, `varve-image-${process.pid}-`))
    return { path, remove: () => rm(path, { recursive: true, force: true }) }
  } catch (error) {
    throw systemError(`cannot make a folder in ${parent}`, error)
  }
}

/** Only our own user's, and only where no such process is. Failing to is not worth an error. */
async function removeStale(parent: string): Promise<void> {
  try {
    for (const name of await readdir(parent)) {
      const processId = Number(NAME.exec(name)?.[1])
      if (Number.isNaN(processId) || isAlive(processId)) continue
      const path = join(parent, name)
      const stats = await lstat(path)
      if (!stats.isDirectory() || stats.uid !== process.geteuid?.()) continue
      await rm(path, { recursive: true })
    }
  } catch {
    return
  }
}

function isAlive(processId: number): boolean {
  try {
    process.kill(processId, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
