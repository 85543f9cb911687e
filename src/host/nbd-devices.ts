/**
 * The kernel's own NBD client, for hosts without FUSE whose kernel has the module. The socket of
 * `varve serve` is handed to the kernel by nbd-client, which then ends.
 */
import { readFile, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** A server that is gone makes errors after this long, not processes that hang. */
const NBD_TIMEOUT_S = 30

/** A device without a client. `root`: of sysfs. */
export async function freeNbdDevice(root = '/sys'): Promise<string | null> {
  const names = (await readdir(join(root, 'block'))).filter((name) => /^nbd\d+$/.test(name))
  for (const name of names.toSorted((a, b) => Number(a.slice(3)) - Number(b.slice(3)))) {
    const folder = join(root, 'block', name)
    // The file `pid` is there while a client is.
    const isTaken = await stat(join(folder, 'pid')).then(
      () => true,
      () => false,
    )
    if (!isTaken && Number(await readFile(join(folder, 'size'), 'utf8')) === 0) {
      return `/dev/${name}`
    }
  }
  return null
}

export function nbdConnectArguments(
  socketPath: string,
  name: string,
  device: string,
  settings: { readOnly: boolean; sectorSizeBytes: number },
): string[] {
  const args = ['-unix', socketPath, device, '-N', name]
  args.push('-b', String(settings.sectorSizeBytes), '-t', String(NBD_TIMEOUT_S))
  return settings.readOnly ? [...args, '-R'] : args
}
