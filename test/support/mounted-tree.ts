/**
 * A pool served as files, as tests of foreign tools see it. Everything on the mount is done by
 * other processes with a time limit: the server is one too, but a call that hangs must not take
 * the test along.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import { mustVarve, ServedPool, varve } from './varve-process.ts'

export type Transport = 'native' | 'fuse-native'

const COMMAND_TIMEOUT_MS = 300_000
const OUTPUT_BYTES_MAX = 16 << 20
const runFile = promisify(execFile)

/** Why the host has no FUSE mounts; false where it has. */
export const noFuse: string | false = !existsSync('/dev/fuse')
  ? 'no /dev/fuse here'
  : process.getuid?.() === 0
    ? false
    : 'mounting needs root here'

export interface MountedTree {
  /** `volumes` of the mount. */
  volumesPath: string
  mountPath: string
  /** Null on a plain folder. */
  poolPath: string | null
  /** For what is not in the pool; removed afterwards. */
  scratchPath: string
  /** Path of a volume's file. */
  volume: (name: string) => string
  /** Path in the scratch folder. */
  scratch: (name: string) => string
  /** Runs a program to its end; rejects with what it said when it fails. Resolves to stdout. */
  run: (command: string, ...args: string[]) => Promise<string>
}

/**
 * Runs `body` on a served new pool, or on a plain folder where VARVE_PLAIN_TREE is set: that tells
 * a tool's or a test's fault from ours. Afterwards the server ends by itself within its time, no
 * mount is left, and `varve check` finds nothing.
 */
export async function withTree(
  t: Test,
  transport: Transport,
  body: (tree: MountedTree) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-files-'))
  const mountPath = join(folder, 'mount')
  const scratchPath = join(folder, 'scratch')
  mkdirSync(mountPath)
  mkdirSync(scratchPath)
  const poolPath = process.env.VARVE_PLAIN_TREE === undefined ? join(folder, 'pool') : null
  const volumesPath = join(mountPath, 'volumes')
  const tree: MountedTree = {
    mountPath,
    volumesPath,
    poolPath,
    scratchPath,
    volume: (name) => join(volumesPath, name),
    scratch: (name) => join(scratchPath, name),
    run: (command, ...args) => runCommand(scratchPath, command, args),
  }
  try {
    if (poolPath === null) {
      mkdirSync(volumesPath)
      await body(tree)
    } else {
      await serveTree(t, transport, poolPath, tree, body)
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function serveTree(
  t: Test,
  transport: Transport,
  poolPath: string,
  tree: MountedTree,
  body: (tree: MountedTree) => Promise<void>,
): Promise<void> {
  await mustVarve(poolPath, 'init')
  const fuse = ['--fuse', tree.mountPath, '--fuse-transport', transport]
  const served = await ServedPool.start(poolPath, ...fuse)
  try {
    await body(tree)
    t.equal(await served.stop(), 0, 'the server ends in order')
    t.notOk(isMounted(tree.mountPath), 'nothing is mounted any more')
    const check = await varve(poolPath, 'check')
    t.equal(check.code, 0, `check: ${check.stdout}${check.stderr}`)
  } finally {
    // After a failure only; a mount of a killed server would keep the folder from being removed.
    await served.kill()
    if (isMounted(tree.mountPath)) await runFile('umount', ['-l', tree.mountPath])
  }
}

export function isMounted(path: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${path} `)
}

async function runCommand(cwd: string, command: string, args: readonly string[]): Promise<string> {
  const PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`
  const options = {
    cwd,
    env: { ...process.env, PATH, LC_ALL: 'C' },
    timeout: COMMAND_TIMEOUT_MS,
    // One that hangs in the kernel would not hear anything else.
    killSignal: 'SIGKILL' as const,
    maxBuffer: OUTPUT_BYTES_MAX,
  }
  const { stdout } = await runFile(command, [...args], options)
  return stdout
}
