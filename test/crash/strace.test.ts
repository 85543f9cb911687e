/**
 * The trace against the kernel's own account: strace of a pool at work on Node's I/O sees the same
 * calls on the same files, in the same order for each of them. (What io_uring does, strace does not
 * see.)
 */
import { execFile, spawnSync } from 'node:child_process'
import { mkdtemp, readFile, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

const CHILD = fileURLToPath(new URL('./strace-child.js', import.meta.url))
const CALLS = 'pwrite64,pwritev,fdatasync,fsync,rename,unlink,mkdir,fallocate,openat'
const TIMEOUT_MS = 100_000
const noStrace: string | false =
  spawnSync('strace', ['-f', '-o', '/dev/null', 'true']).status === 0 ? false : 'no strace here'

/** What was done, by file: `write 4096+8192`, `sync`, … */
type Account = Map<string, string[]>

function note(account: Account, path: string, what: string): void {
  const known = account.get(path)
  if (known === undefined) account.set(path, [what])
  else known.push(what)
}

/** Lines of strace -f -y, those of calls that another thread's interrupted put together. */
function callsOf(text: string): string[] {
  const begun = new Map<string, string>()
  const calls: string[] = []
  for (const line of text.split('\n')) {
    const match = /^(\d+) +(.*)$/.exec(line)
    if (match === null) continue
    const [, pid, rest] = match
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest)
    if (rest.endsWith(' <unfinished ...>')) begun.set(pid, rest.slice(0, -17))
    else calls.push(resumed === null ? rest : `${begun.get(pid) ?? ''}${resumed[1]}`)
  }
  return calls.filter((call) => !/= -1 E/.test(call))
}

function noteCall(account: Account, root: string, call: string): void {
  const name = call.slice(0, call.indexOf('('))
  const inside = (path: string | undefined): string | null =>
    path === root ? '' : path?.startsWith(`${root}/`) === true ? path.slice(root.length + 1) : null
  const handle = inside(/^\w+\(\d+<([^>]*)>/.exec(call)?.[1].replace(' (deleted)', ''))
  const named = inside(/"([^"]*)"/.exec(call)?.[1])
  if (name === 'fdatasync' && handle !== null) note(account, handle, 'sync')
  if (name === 'fsync' && handle !== null) note(account, handle, 'syncdir')
  if (name.startsWith('pwrite') && handle !== null) {
    const [, offset, length] = /, (\d+)\) += (\d+)/.exec(call) ?? []
    note(account, handle, `write ${offset}+${length}`)
  }
  if (name === 'fallocate' && handle !== null) {
    const kind = call.includes('PUNCH_HOLE') ? 'punch' : 'allocate'
    const [, offset, length] = /, (\d+), (\d+)\) += 0/.exec(call) ?? []
    note(account, handle, `${kind} ${offset}+${length}`)
  }
  if (name === 'openat' && named !== null && call.includes('O_EXCL')) note(account, named, 'create')
  if (name === 'unlink' && named !== null) note(account, named, 'remove')
  if (name === 'mkdir' && named !== null) note(account, named, 'mkdir')
  if (name === 'rename' && named !== null) note(account, named, 'rename')
}

t.test('strace sees what the trace says', { skip: noStrace }, async (t) => {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'varve-strace-')))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const output = join(folder, 'strace')
  const pool = join(folder, 'pool')
  const args = ['-f', '-y', '-s', '4096', '-e', `trace=${CALLS}`, '-e', 'signal=none', '-o', output]
  const { stdout } = await promisify(execFile)('strace', [...args, process.execPath, CHILD, pool], {
    timeout: TIMEOUT_MS,
    maxBuffer: 64 << 20,
  })
  const told: Account = new Map(JSON.parse(stdout) as [string, string[]][])
  const seen: Account = new Map()
  for (const call of callsOf(await readFile(output, 'utf8'))) noteCall(seen, pool, call)
  seen.delete('lock')
  const kinds = new Set([...told.values()].flat().map((what) => what.split(' ')[0]))
  for (const kind of ['write', 'sync', 'syncdir', 'create', 'rename', 'remove', 'allocate']) {
    t.ok(kinds.has(kind), `the pool did ${kind}`)
  }
  t.strictSame([...seen.keys()].sort(), [...told.keys()].sort(), 'the same files')
  for (const [path, whats] of told) t.strictSame(seen.get(path), whats, path)
})
