/**
 * Loop devices as sysfs shows them. Not `losetup -l`: it asks the filesystem of the backing file,
 * which is us, or nobody any more.
 */
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'

export interface LoopDevice {
  /** `/dev/loop3` */
  path: string
  /** Of all that devices have shown since boot; 0 on kernels before 5.15, which do not count. */
  sequence: number
  /** As the kernel names it now: without its mount when that is gone, " (deleted)" cut off. */
  backingPath: string
  offsetBytes: number
  /** 0: to the end of the file. */
  sizeLimitBytes: number
  sizeBytes: number
  sectorSizeBytes: number
  readOnly: boolean
  directIo: boolean
  /** It is to go as soon as its last user does. */
  isDraining: boolean
}

const SECTOR_UNIT_BYTES = 512

/** Those that have a backing file. `root`: of sysfs. */
export async function readLoopDevices(root = '/sys'): Promise<LoopDevice[]> {
  const folder = join(root, 'block')
  const names = (await readdir(folder)).filter((name) => /^loop\d+$/.test(name))
  const devices: LoopDevice[] = []
  for (const name of names.toSorted((a, b) => Number(a.slice(4)) - Number(b.slice(4)))) {
    const device = await tryLoopDevice(join(folder, name), `/dev/${name}`)
    if (device !== null) devices.push(device)
  }
  return devices
}

async function tryLoopDevice(folder: string, path: string): Promise<LoopDevice | null> {
  try {
    const read = async (name: string): Promise<string> => {
      return (await readFile(join(folder, name), 'utf8')).replace(/\n$/, '')
    }
    const backing = await read('loop/backing_file')
    if (backing === '') return null
    return {
      path,
      sequence: Number(await read('diskseq').catch(() => '0')),
      backingPath: backing.replace(/ \(deleted\)$/, ''),
      offsetBytes: Number(await read('loop/offset')),
      sizeLimitBytes: Number(await read('loop/sizelimit')),
      sizeBytes: Number(await read('size')) * SECTOR_UNIT_BYTES,
      sectorSizeBytes: Number(await read('queue/logical_block_size')),
      readOnly: (await read('ro')) === '1',
      directIo: (await read('loop/dio')) === '1',
      isDraining: (await read('loop/autoclear')) === '1',
    }
  } catch {
    // No backing file, or it went while we looked.
    return null
  }
}

/** Where a device shows one stretch of its file and not all of it. */
export interface Window {
  offsetBytes: number
  sizeBytes: number
}

export interface LoopSettings {
  readOnly: boolean
  sectorSizeBytes: number
  window: Window | null
  directIo: boolean
}

/** For `losetup`, which prints the device that it found. */
export function losetupArguments(path: string, settings: LoopSettings): string[] {
  const { readOnly, sectorSizeBytes, window, directIo } = settings
  const args = ['--find', '--show', '--sector-size', String(sectorSizeBytes)]
  if (directIo) args.push('--direct-io=on')
  if (readOnly) args.push('--read-only')
  if (window === null) args.push('--partscan')
  else args.push('--offset', String(window.offsetBytes), '--sizelimit', String(window.sizeBytes))
  return [...args, '--', path]
}
