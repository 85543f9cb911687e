/**
 * What a transport of the FUSE filesystem must do, as tests that run on each: system calls and
 * ordinary programs on the mounted folder, from other processes. What a transport cannot do stands
 * in its capabilities, and is asserted to be refused, or done the long way, as they say.
 */
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { assert } from '../../src/base/assert.ts'
import { PoolFilesystem } from '../../src/export/fuse/filesystem.ts'
import type { FuseMount, StartFuseMount } from '../../src/export/fuse/transport.ts'
import type { Io } from '../../src/io/io.ts'
import { openIo } from '../../src/io/open-io.ts'
import { MemoryTree } from '../support/memory-tree.ts'
import { mustTool, Probe, tool } from '../support/probe.ts'
import { accessConformance } from './fuse-conformance-access.ts'
import { dataConformance } from './fuse-conformance-data.ts'
import { lifeConformance } from './fuse-conformance-life.ts'
import { rangeConformance } from './fuse-conformance-ranges.ts'
import { treeConformance } from './fuse-conformance-tree.ts'

export interface FuseCapabilities {
  ioKind: 'ring' | 'node'
  /** fallocate(2); without it EOPNOTSUPP. */
  fallocate: boolean
  /** lseek(2) finds holes; without it a whole file is data, with its end the only hole. */
  seekHole: boolean
  /** copy_file_range(2) is an operation of the map; without it the kernel reads and writes. */
  sharedCopy: boolean
  /** The modification time can be set without the access time; else that is ignored. */
  modifiedTimeAlone: boolean
  /** When a disk was made is told by statx(2). */
  birthTime: boolean
  /** A force ends what was unmounted by others while files were open. */
  endsUnseen: boolean
}

export interface FuseUnderTest {
  io: Io
  tree: MemoryTree
  filesystem: PoolFilesystem
  mount: FuseMount
  /** For another mount. */
  start: StartFuseMount
  /** The mounted folder. */
  path: string
  probe: Probe
  capabilities: FuseCapabilities
  /** Path of a volume's file. */
  volume: (name: string) => string
  /** Path of a snapshot's file. */
  snapshot: (volumeName: string, name: string) => string
}

export interface FuseOptions {
  allowOther?: boolean
  capacityBytes?: number
}

/** Makes a pool, mounts it, and takes everything away when `t` has ended. */
export type MakeFuse = (t: Test, options?: FuseOptions) => Promise<FuseUnderTest>

/** As `serve` has it; memory that is not used takes none. */
const ARENA_BYTES = 168 << 20
export const SOURCE_NAME = '/pools/one, two'

/** Null, or why nothing can be mounted here. */
export function whyNoFuse(): string | null {
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK)
  } catch {
    return '/dev/fuse is not there or not ours to use'
  }
  return process.geteuid?.() === 0 ? null : 'mounting for other users is tested as root'
}

export async function fuseConformance(
  t: Test,
  start: StartFuseMount,
  capabilities: FuseCapabilities,
): Promise<void> {
  const make: MakeFuse = (t, options) => makeFuse(t, start, capabilities, options)
  await t.test('tree', (t) => treeConformance(t, make))
  await t.test('data', (t) => dataConformance(t, make))
  await t.test('ranges', (t) => rangeConformance(t, make))
  await t.test('access', (t) => accessConformance(t, make))
  await t.test('life', (t) => lifeConformance(t, make))
}

async function makeFuse(
  t: Test,
  start: StartFuseMount,
  capabilities: FuseCapabilities,
  { allowOther = false, capacityBytes }: FuseOptions = {},
): Promise<FuseUnderTest> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-fuse-'))
  const path = join(folder, 'mount')
  // Others may pass, so that it is the mount that keeps them out.
  await mustTool('chmod', '711', folder)
  await mustTool('mkdir', '-m', '755', path)
  const io = await openIo({ kind: capabilities.ioKind, arenaBytes: ARENA_BYTES })
  const { arena } = io
  const tree = new MemoryTree({
    arena,
    ...(capacityBytes === undefined ? {} : { capacityBytes }),
  })
  const owner = { userId: process.geteuid?.() ?? 0, groupId: process.getegid?.() ?? 0 }
  const startedMs = Date.now()
  const filesystem = new PoolFilesystem(tree, owner, { allowOther, startedMs, arena })
  const options = { mountPath: path, sourceName: SOURCE_NAME, allowOther, io }
  let mount: FuseMount
  try {
    mount = await start(filesystem, options)
  } catch (error) {
    await io.shutdown()
    // By another process: who knows what is mounted there now.
    await tool('rmdir', path, folder)
    throw error
  }
  const probe = new Probe()
  t.teardown(async () => {
    await probe.close()
    await mount.unmount(true)
    assert(filesystem.openHandles().length === 0, 'nothing stays open')
    assert(arena.usedBytes === 0, 'the arena is whole again')
    await io.shutdown()
    rmSync(folder, { recursive: true, force: true })
  })
  return {
    io,
    tree,
    filesystem,
    mount,
    start,
    path,
    probe,
    capabilities,
    volume: (name) => join(path, 'volumes', name),
    snapshot: (volumeName, name) => join(path, 'snapshots', volumeName, name, 'disk'),
  }
}
