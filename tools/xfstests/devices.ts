/** The two devices xfstests works on: attached volumes, or plain files to compare with. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { serveVarve, varve } from '../bench/servers.ts'
import { run } from '../command.ts'

export interface Devices {
  testDevice: string
  scratchDevice: string
  /** Gives the devices back and ends what serves them. */
  detach: () => Promise<void>
}

const NAMES = ['test', 'scratch'] as const

/** Two volumes of a new pool, by `varve attach`. */
export async function attachVolumes(folder: string, size: string): Promise<Devices> {
  const pool = join(folder, 'pool')
  const mountPath = join(folder, 'mount')
  mkdirSync(mountPath)
  await varve(pool, 'init')
  for (const name of NAMES) await varve(pool, 'create', name, size)
  const server = await serveVarve(pool, '--fuse', mountPath)
  const [testDevice, scratchDevice] = await attachBoth(pool).catch(async (error: unknown) => {
    await server.stop()
    throw error
  })
  return {
    testDevice,
    scratchDevice,
    detach: async () => {
      for (const name of NAMES) await varve(pool, 'detach', name)
      const exitCode = await server.stop()
      if (exitCode !== 0) throw new Error(`serve ended with ${exitCode}: ${server.said.trim()}`)
      // Fails when anything is damaged.
      await varve(pool, 'check')
    },
  }
}

async function attachBoth(pool: string): Promise<string[]> {
  const devices: string[] = []
  for (const name of NAMES) devices.push((await varve(pool, 'attach', name)).trim())
  return devices
}

/**
 * Two sparse files of the host's filesystem. Their devices are made non-rotational, as those of
 * volumes are: a loop device takes that from the disk below its file, and ext4 chooses blocks by
 * it (generic/223 passes on rotational devices only, on files and volumes alike).
 */
export async function attachPlainFiles(folder: string, size: string): Promise<Devices> {
  const paths = NAMES.map((name) => join(folder, `${name}.raw`))
  for (const path of paths) await run('truncate', ['-s', size, path])
  const devices: string[] = []
  const detach = async (): Promise<void> => {
    for (const device of devices) await run('losetup', ['--detach', device])
  }
  try {
    for (const path of paths) {
      const args = ['--find', '--show', '--direct-io=on', path]
      const device = (await run('losetup', args)).stdout.trim()
      devices.push(device)
      // The kernel sets it anew for the next file of this device.
      writeFileSync(join('/sys/block', basename(device), 'queue/rotational'), '0')
    }
  } catch (error) {
    await detach()
    throw error
  }
  const [testDevice, scratchDevice] = devices
  return { testDevice, scratchDevice, detach }
}
