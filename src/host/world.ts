/** All that is known and done of the host's devices and mounts, so that tests can be that host. */
import { readFile } from 'node:fs/promises'
import { runCommand } from './command.ts'
import type { RunCommand } from './command.ts'
import { readLoopDevices } from './loop-devices.ts'
import type { LoopDevice } from './loop-devices.ts'
import { parseMountTable } from '../base/mount-table.ts'
import type { MountEntry } from '../base/mount-table.ts'
import { freeNbdDevice } from './nbd-devices.ts'
import { findUsers } from './users.ts'
import type { Place } from './users.ts'

export interface HostWorld {
  isRoot(): boolean
  readonly run: RunCommand
  mounts(): Promise<MountEntry[]>
  loops(): Promise<LoopDevice[]>
  /** Each in words. */
  users(place: Place): Promise<string[]>
  /** `/dev/nbd0`; null where the kernel's nbd module is not loaded or all are taken. */
  freeNbd(): Promise<string | null>
  /** Waits. */
  pause(durationMs: number): Promise<void>
}

/** The host that this process runs on. */
export function openHostWorld(): HostWorld {
  return {
    isRoot: () => process.geteuid?.() === 0,
    run: runCommand,
    mounts: async () => parseMountTable(await readFile('/proc/self/mountinfo', 'utf8')),
    loops: () => readLoopDevices(),
    users: async (place) => findUsers(place, await readLoopDevices()),
    freeNbd: () => freeNbdDevice(),
    pause: (durationMs) => new Promise((resolve) => setTimeout(resolve, durationMs)),
  }
}
