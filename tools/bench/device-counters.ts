/** What the kernel says has gone to and come from the block device below a folder. */
import { readFileSync, statSync } from 'node:fs'

const SECTOR_SIZE_BYTES = 512

export interface DeviceCounters {
  readBytes: number
  writtenBytes: number
}

/** Totals since the machine was started; null when `folder` is on no block device. */
export function deviceCounters(folder: string): DeviceCounters | null {
  const device = statSync(folder).dev
  // Linux's dev_t: minor in bits 0-7 and 20-31, major in bits 8-19.
  const major = (device >>> 8) & 0xfff
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00)
  for (const line of readFileSync('/proc/diskstats', 'utf8').split('\n')) {
    const fields = line.trim().split(/\s+/)
    if (Number(fields[0]) === major && Number(fields[1]) === minor) {
      const [readSectors, writtenSectors] = [Number(fields[5]), Number(fields[9])]
      return {
        readBytes: readSectors * SECTOR_SIZE_BYTES,
        writtenBytes: writtenSectors * SECTOR_SIZE_BYTES,
      }
    }
  }
  return null
}
