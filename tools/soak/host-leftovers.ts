/** Mounts and loop devices below a folder: of nobody else's is anything touched. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { parseMountTable } from '../../src/base/mount-table.ts'
import { readLoopDevices } from '../../src/host/loop-devices.ts'

const COMMAND_TIMEOUT_MS = 30_000

/** Mount points, then devices. */
export async function leftBelow(root: string): Promise<string[]> {
  const mounts = parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'))
  const loops = await readLoopDevices()
  return [
    ...mounts.filter(({ directory }) => directory.startsWith(root)).map((one) => one.directory),
    ...loops.filter(({ backingPath }) => backingPath.startsWith(root)).map((one) => one.path),
  ]
}

/** What a server that was killed could not take away. */
export async function clearBelow(root: string): Promise<void> {
  for (const left of (await leftBelow(root)).toReversed()) {
    const isDevice = left.startsWith('/dev/')
    const [command, args] = isDevice ? ['losetup', ['-d', left]] : ['umount', ['-l', left]]
    const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }
    // What is gone by itself meanwhile is no failure; what stays is told at the end.
    await promisify(execFile)(command, args, { timeout: COMMAND_TIMEOUT_MS, env }).catch(
      () => undefined,
    )
  }
}
