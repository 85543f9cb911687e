/** Where a pool is mounted, by whom, and how that ends, with the real program. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { noFuse } from '../support/mounted-tree.ts'
import { mustTool, tool } from '../support/probe.ts'
import { mustVarve, ServedPool, varve } from '../support/varve-process.ts'

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
const EXIT_USAGE = 2
const EXIT_NOT_FOUND = 3
const EXIT_REFUSED = 4
const NOBODY = 65_534

t.setTimeout(120_000)

interface Place {
  folder: string
  poolPath: string
  mountPath: string
}

async function makePlace(t: Test): Promise<Place> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-places-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const poolPath = join(folder, 'pool')
  const mountPath = join(folder, 'mount')
  mkdirSync(mountPath)
  await mustVarve(poolPath, 'init')
  return { folder, poolPath, mountPath }
}

/** What ends with the test if not before. */
function run(t: Test, command: string, args: readonly string[]): ChildProcess {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

async function isMounted(path: string): Promise<boolean> {
  return (await tool('mountpoint', '-q', path)).code === 0
}

await t.test(
  'a mount that hides the pool or lies in it is refused',
  { skip: noFuse },
  async (t) => {
    const { folder, poolPath, mountPath } = await makePlace(t)
    const served = await ServedPool.start(poolPath, '--fuse', mountPath)
    t.teardown(() => served.kill())
    await mustTool('truncate', '-s', '1M', join(mountPath, 'volumes', 'v'))
    const alias = join(folder, 'alias')
    symlinkSync(poolPath, alias)
    const inPool = join(poolPath, 'folder')
    mkdirSync(inPool)
    for (const path of [poolPath, folder, alias, inPool, join(mountPath, 'snapshots', 'v')]) {
      t.equal((await varve(poolPath, 'fuse', path)).code, EXIT_USAGE, path)
    }
    t.equal(
      (await varve(poolPath, 'fuse', mountPath)).code,
      EXIT_REFUSED,
      'nor is it mounted twice',
    )
    await mustTool('dd', 'if=/dev/zero', `of=${join(mountPath, 'volumes', 'v')}`, 'count=1')
    t.equal(await served.stop(), 0)
    t.notOk(await isMounted(mountPath))
  },
)

await t.test('symbolic links lead to a mount and away from it', { skip: noFuse }, async (t) => {
  const { folder, poolPath, mountPath } = await makePlace(t)
  const alias = join(folder, 'alias')
  symlinkSync(mountPath, alias)
  const served = await ServedPool.start(poolPath, '--fuse', alias)
  t.teardown(() => served.kill())
  t.ok(await isMounted(mountPath))
  t.equal((await varve(poolPath, 'fuse', '--unmount', join(alias, 'volumes'))).code, EXIT_NOT_FOUND)
  await mustVarve(poolPath, 'fuse', '--unmount', alias)
  t.notOk(await isMounted(mountPath))
})

const unshared = 'another namespace that sees the mount puts the end off, and not for ever'
await t.test(unshared, { skip: noFuse }, async (t) => {
  const { poolPath, mountPath } = await makePlace(t)
  const served = await ServedPool.start(poolPath, '--fuse', mountPath)
  t.teardown(() => served.kill())
  const script = 'echo ready; exec sleep 100'
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', script]
  const other = run(t, 'unshare', args)
  await new Promise((resolve) => other.stdout?.once('data', resolve))
  const exited = served.stop()
  // Signals on the way at the same time would be one.
  await sleep(1000)
  process.kill(served.pid, 'SIGTERM')
  t.equal(await exited, 0, 'the second signal takes it')
  t.notOk(await isMounted(mountPath))
})

/** Why nobody else can mount here; false where it works. */
async function noOtherUser(): Promise<string | false> {
  if (noFuse !== false) return noFuse
  if (!existsSync('/usr/bin/fusermount3')) return 'no fusermount3 here'
  // Without udev the kernel makes the device for root alone.
  const device = await tool('setpriv', ...asNobody().slice(0, 3), 'test', '-w', '/dev/fuse')
  if (device.code !== 0) return '/dev/fuse is for root alone here'
  const { code } = await tool('setpriv', ...asNobody('--version'))
  return code === 0 ? false : 'the program lies where other users cannot run it'
}

function asNobody(...args: string[]): string[] {
  const who = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups']
  return [...who, process.execPath, MAIN, ...args]
}

const skip = await noOtherUser()
await t.test('without root it is mounted and unmounted by fusermount3', { skip }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-places-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const poolPath = join(folder, 'pool')
  const mountPath = join(folder, 'mount')
  mkdirSync(mountPath)
  for (const path of [folder, mountPath]) chownSync(path, NOBODY, NOBODY)
  await mustTool('setpriv', ...asNobody('--pool', poolPath, 'init'))
  const options = ['--pool', poolPath, 'serve', '--log-level', 'silent', '--fuse', mountPath]
  const server = run(t, 'setpriv', asNobody(...options))
  t.teardown(() => tool('umount', '-q', '-l', mountPath))
  const exited = new Promise<number | null>((resolve) => server.on('exit', resolve))
  await new Promise<void>((resolve) => {
    server.stdout?.on('data', (bytes: Buffer) => {
      if (bytes.includes('ready:')) resolve()
    })
    void exited.then(() => resolve())
  })
  const nobody = asNobody().slice(0, -2)
  const file = join(mountPath, 'volumes', 'v')
  await mustTool('setpriv', ...nobody, 'truncate', '-s', '1M', file)
  await mustTool('setpriv', ...nobody, 'dd', 'if=/dev/zero', `of=${file}`, 'bs=64k', 'count=2')
  t.not((await tool('ls', mountPath)).code, 0, 'root is another user, too')
  server.kill('SIGTERM')
  t.equal(await exited, 0)
  t.notOk(await isMounted(mountPath))
})
