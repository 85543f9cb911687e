/** One run of xfstests' own `check`, in a mount namespace of its own. */
import { spawn } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { run } from '../command.ts'
import type { Devices } from './devices.ts'

export interface CheckResult {
  /** Without those that cannot run here. */
  ranCount: number
  skippedCount: number
  failed: string[]
  seconds: number
}

/** Users whom some tests act as; they exist only in the namespace. */
const TEST_USERS = ['fsgqa', 'fsgqa2', '123456-fsgqa']
const TEST_USER_ID_FIRST = 60_001

/** Runs the tests that `args` name to `check`, telling each on stderr as it ends. */
export async function runCheck(
  xfstests: string,
  folder: string,
  devices: Devices,
  args: readonly string[],
): Promise<CheckResult> {
  // Others than root must be able to enter it.
  chmodSync(folder, 0o755)
  const home = mkdtempSync(join(folder, 'run-'))
  chmodSync(home, 0o755)
  const configPath = writeConfiguration(home, devices)
  await run('mkfs.ext4', ['-q', '-F', devices.testDevice])
  const script =
    'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && ' +
    'cd "$1" && shift && exec ./check "$@"'
  const startMs = performance.now()
  // What a test leaves mounted goes with the namespace.
  const unshare = ['--mount', '--propagation', 'private', 'sh', '-c', script, home, xfstests]
  const child = spawn('unshare', [...unshare, ...args], {
    env: { ...process.env, HOST_OPTIONS: configPath },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', () => resolve())
  })
  const lists = new Map<string, string[]>()
  for await (const line of createInterface({ input: child.stdout })) {
    process.stderr.write(`${line}\n`)
    const list = /^(Ran|Not run|Failures): (.*)$/.exec(line)
    if (list !== null) lists.set(list[1], list[2].trim().split(/\s+/))
  }
  await ended
  const ran = lists.get('Ran')
  if (ran === undefined) throw new Error('check ended without a result')
  const skippedCount = lists.get('Not run')?.length ?? 0
  return {
    ranCount: ran.length - skippedCount,
    skippedCount,
    failed: lists.get('Failures') ?? [],
    seconds: (performance.now() - startMs) / 1000,
  }
}

/** Where mounts and results go, and the users of the namespace. Returns the path for `check`. */
function writeConfiguration(home: string, devices: Devices): string {
  for (const name of ['test', 'scratch', 'results']) mkdirSync(join(home, name))
  const settings: Record<string, string> = {
    FSTYP: 'ext4',
    TEST_DEV: devices.testDevice,
    TEST_DIR: join(home, 'test'),
    SCRATCH_DEV: devices.scratchDevice,
    SCRATCH_MNT: join(home, 'scratch'),
    RESULT_BASE: join(home, 'results'),
  }
  const lines = Object.entries(settings).map(([name, value]) => `export ${name}='${value}'\n`)
  const path = join(home, 'local.config')
  writeFileSync(path, lines.join(''))
  for (const name of ['passwd', 'group']) copyFileSync(join('/etc', name), join(home, name))
  for (const [index, user] of TEST_USERS.entries()) {
    const id = TEST_USER_ID_FIRST + index
    appendFileSync(join(home, 'passwd'), `${user}:x:${id}:${id}::/tmp:/bin/bash\n`)
    appendFileSync(join(home, 'group'), `${user}:x:${id}:\n`)
  }
  return path
}
