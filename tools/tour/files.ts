/** The disks as files, where this host lets us mount: the same bytes, by cp's and cmp's ways. */
import { mkdtempSync, rmdirSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Narrator } from './narrator.ts'

export async function showFiles(narrator: Narrator, imagePath: string): Promise<void> {
  narrator.heading('5. Every disk is a file, too')
  // On its own: nothing that removes folders with what is in them may find a pool in there.
  const folder = mkdtempSync(join(tmpdir(), 'varve-files-'))
  try {
    if (!(await tryMount(narrator, folder))) return
    try {
      await compareAndSnapshot(narrator, folder, imagePath)
    } finally {
      await narrator.varve('fuse', '--unmount', folder)
    }
  } finally {
    rmdirSync(folder)
  }
}

async function tryMount(narrator: Narrator, folder: string): Promise<boolean> {
  try {
    await narrator.varve('fuse', folder)
    return true
  } catch (error) {
    narrator.say(`not on this host: ${error instanceof Error ? error.message : String(error)}`)
    return false
  }
}

async function compareAndSnapshot(
  narrator: Narrator,
  folder: string,
  imagePath: string,
): Promise<void> {
  const imageBytes = String(statSync(imagePath).size)
  const golden = join(folder, 'volumes/golden')
  await narrator.client('cmp', '--bytes', imageBytes, imagePath, golden)
  narrator.verify(true, 'volumes/golden is the golden image, says cmp')
  const snapshots = join(folder, 'snapshots/db')
  await narrator.client('mkdir', join(snapshots, 'now'))
  await narrator.client('cmp', join(folder, 'volumes/db'), join(snapshots, 'now/disk'))
  narrator.verify(true, 'mkdir has taken a snapshot of db')
  await narrator.client('rmdir', join(snapshots, 'now'))
  const { stdout } = await narrator.client('ls', snapshots)
  narrator.verify(stdout === '', 'and rmdir has removed it')
}
