/**
 * Who uses a device or what is mounted from it: processes with files open, mapped or as their
 * folder there, mounts (in other mount namespaces too), swap, and devices made on top.
 *
 * Everything is read from /proc and /sys as text; nothing of what is named there is opened or
 * looked at, for it may be ours to serve.
 */
import { readFile, readdir, readlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { LoopDevice } from './loop-devices.ts'
import { isBelow, parseMountTable } from '../base/mount-table.ts'

/** What is to be let go of. Paths without symbolic links. */
export interface Place {
  devices: readonly string[]
  /** Mount points. */
  directories: readonly string[]
}

/** Enough for anyone to see what is going on. */
const USER_COUNT_MAX = 20
const PROCESS_COUNT_MAX = 65536

/**
 * Each user in words, empty when there is none; mounts at `directories` of `devices` are not users
 * but the thing itself. Who uses a device's partition uses the device.
 */
export async function findUsers(asked: Place, loops: readonly LoopDevice[]): Promise<string[]> {
  const users = new Set<string>()
  const place = { ...asked, devices: await withPartitions(asked.devices) }
  for (const device of place.devices) {
    for (const holder of await holdersOf(device)) users.add(`${holder}, made on ${device}`)
  }
  for (const { path, backingPath } of loops) {
    if (place.devices.includes(path)) continue
    if (isAt(backingPath, place)) users.add(`${path}, made on ${backingPath}`)
  }
  for (const device of await swapDevices()) {
    if (place.devices.includes(device)) users.add(`swap on ${device}`)
  }
  await addProcesses(place, users)
  const named = [...users]
  if (named.length <= USER_COUNT_MAX) return named
  const rest = named.length - USER_COUNT_MAX
  return [...named.slice(0, USER_COUNT_MAX), `and ${rest} more`]
}

async function withPartitions(devices: readonly string[]): Promise<string[]> {
  const found: string[] = []
  for (const device of devices) {
    const disk = basename(device)
    const names = await tryList(`/sys/block/${disk}`)
    const partitions = names.filter((name) => name.startsWith(disk))
    found.push(device, ...partitions.map((name) => `/dev/${name}`))
  }
  return found
}

async function holdersOf(device: string): Promise<string[]> {
  const names = await tryList(`/sys/class/block/${basename(device)}/holders`)
  return names.map((name) => `/dev/${name}`)
}

async function swapDevices(): Promise<string[]> {
  const lines = (await tryRead('/proc/swaps')).split('\n').slice(1)
  return lines.map((line) => line.split(/\s/)[0]).filter((path) => path !== '')
}

async function addProcesses(place: Place, users: Set<string>): Promise<void> {
  const namespaces = new Set<string>()
  const ids = (await tryList('/proc')).filter((name) => /^\d+$/.test(name))
  for (const id of ids.slice(0, PROCESS_COUNT_MAX)) {
    const folder = join('/proc', id)
    const used = await firstPathIn(folder, place)
    const isOwn = Number(id) === process.pid
    if (used !== null && !isOwn) users.add(`${await nameOf(folder)} (${id}) uses ${used}`)
    const namespace = await tryLink(join(folder, 'ns/mnt'))
    if (namespace === null || namespaces.has(namespace)) continue
    namespaces.add(namespace)
    const where = isOwn || namespace === (await tryLink('/proc/self/ns/mnt')) ? null : id
    for (const mount of await otherMounts(folder, place, where)) users.add(mount)
  }
}

/** One is enough to name the process. */
async function firstPathIn(folder: string, place: Place): Promise<string | null> {
  for (const name of ['cwd', 'root']) {
    const path = await tryLink(join(folder, name))
    if (path !== null && isAt(path, place)) return path
  }
  for (const name of await tryList(join(folder, 'fd'))) {
    const path = await tryLink(join(folder, 'fd', name))
    if (path !== null && isAt(path, place)) return path
  }
  // address perms offset dev inode path
  for (const line of (await tryRead(join(folder, 'maps'))).split('\n')) {
    const at = line.indexOf('/')
    if (at > 0 && isAt(line.slice(at), place)) return line.slice(at)
  }
  return null
}

function isAt(path: string, place: Place): boolean {
  if (!path.startsWith('/')) return false
  const plain = path.replace(/ \(deleted\)$/, '')
  if (place.devices.includes(plain)) return true
  return place.directories.some((directory) => isBelow(plain, directory))
}

/** Mounts of the devices elsewhere, and mounts of other things below the directories. */
async function otherMounts(
  folder: string,
  place: Place,
  namespaceOf: string | null,
): Promise<string[]> {
  const text = await tryRead(join(folder, 'mountinfo'))
  const numbers = await deviceNumbersOf(place.devices)
  return parseMountTable(text).flatMap((mount) => {
    const { directory } = mount
    const isOfDevice = place.devices.includes(mount.source) || numbers.has(mount.deviceNumber)
    if (namespaceOf !== null) {
      if (!isOfDevice) return []
      return [`mount on ${directory} in the namespace of process ${namespaceOf}`]
    }
    if (place.directories.includes(directory)) return []
    if (isOfDevice) return [`mount on ${directory}`]
    const isInside = place.directories.some((outer) => isBelow(directory, outer))
    return isInside ? [`mount of ${mount.source} on ${directory}`] : []
  })
}

async function deviceNumbersOf(devices: readonly string[]): Promise<Set<string>> {
  const numbers = new Set<string>()
  for (const device of devices) {
    const text = (await tryRead(`/sys/class/block/${basename(device)}/dev`)).trim()
    if (text !== '') numbers.add(text)
  }
  return numbers
}

async function nameOf(folder: string): Promise<string> {
  return (await tryRead(join(folder, 'comm'))).trim() || 'a process'
}

/** Processes end while they are looked at: what is not there says nothing. */
async function tryRead(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch {
    return ''
  }
}

async function tryList(path: string): Promise<string[]> {
  try {
    return await readdir(path)
  } catch {
    return []
  }
}

async function tryLink(path: string): Promise<string | null> {
  try {
    return await readlink(path)
  } catch {
    return null
  }
}
