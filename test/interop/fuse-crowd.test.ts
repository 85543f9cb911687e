/**
 * A crowd on one mount: 64 processes create, write, map, rename, snapshot and remove files and read
 * back what must be in them, while the same pool's volumes are made and removed through the API, by
 * commands and by `mkdir` and `rm`. Nothing may fail that would not fail on a local filesystem,
 * except EBUSY for removing or renaming what is in use. `VARVE_CROWD_SECONDS` says for how long.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { HttpService } from '../../src/api/http-service.ts'
import { MIB } from '../../src/base/units.ts'
import { run as runProgram } from '../../tools/command.ts'
import { projectRoot } from '../../tools/project.ts'
import { noFuse, withTree } from '../support/mounted-tree.ts'
import type { MountedTree } from '../support/mounted-tree.ts'
import { mustVarve } from '../support/varve-process.ts'

const SECONDS = Number(process.env.VARVE_CROWD_SECONDS ?? 15)
const WORKER_COUNT = 64
/** For the workers to finish and clean up after their time, on a machine that does other things. */
const GRACE_MS = 120_000

t.setTimeout(SECONDS * 1000 + 2 * GRACE_MS)

interface CrowdCounts {
  own: number
  shared: number
  snapshots: number
  busy: number
  failed: number
}

const programs = mkdtempSync(join(tmpdir(), 'varve-crowd-'))
t.teardown(() => rmSync(programs, { recursive: true, force: true }))
const crowdProgram = join(programs, 'file-crowd')
const source = join(projectRoot, 'test/support/file-crowd.c')
execFileSync('cc', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-o', crowdProgram, source])

/** What else changes the pool; each round leaves nothing behind. */
interface Bystander {
  name: string
  round: (tree: MountedTree, poolPath: string, index: number) => Promise<void>
}

const BYSTANDERS: Bystander[] = [
  {
    name: 'through the API',
    round: async (_, poolPath, index) => {
      const name = `api-${index % 8}`
      const service = new HttpService(join(poolPath, 'control.sock'))
      try {
        await service.create({ name, sizeBytes: 64 * MIB })
        await service.snapshot([`${name}@s`])
        await service.clone(`${name}@s`, [`${name}-clone`])
        await service.rename(`${name}-clone`, `${name}-copy`)
        await service.remove({ names: [`${name}-copy`], recursive: false, dryRun: false })
        await service.remove({ names: [name], recursive: true, dryRun: false })
      } finally {
        await service.close()
      }
    },
  },
  {
    name: 'by commands',
    round: async ({ run, volume }, poolPath) => {
      await mustVarve(poolPath, 'create', 'cli', '64M')
      await run('dd', 'if=/dev/urandom', `of=${volume('cli')}`, 'bs=1M', 'count=2', 'conv=notrunc')
      await mustVarve(poolPath, 'snapshot', 'cli@s')
      await mustVarve(poolPath, 'rm', '-y', '-r', 'cli')
    },
  },
  {
    name: 'by mkdir and rm',
    round: async ({ run, mountPath, volume }) => {
      await run('dd', 'if=/dev/urandom', `of=${volume('shell')}`, 'bs=64k', 'count=9', 'conv=fsync')
      const snapshot = join(mountPath, 'snapshots/shell/now')
      await run('mkdir', snapshot)
      await run('cmp', volume('shell'), join(snapshot, 'disk'))
      await run('rmdir', snapshot)
      await run('rm', volume('shell'))
    },
  },
]

async function crowd(t: Test, tree: MountedTree): Promise<void> {
  const { poolPath } = tree
  let isOver = false
  const seed = process.env.VARVE_CROWD_SEED ?? '1'
  t.comment(`seed ${seed}`)
  const workers = runProgram(
    crowdProgram,
    [tree.mountPath, String(SECONDS), String(WORKER_COUNT), seed],
    { timeoutMs: SECONDS * 1000 + GRACE_MS, exitCodes: [0, 1] },
  ).finally(() => (isOver = true))
  const rounds = BYSTANDERS.map(async ({ name, round }) => {
    let count = 0
    for (; !isOver && poolPath !== null; count += 1) await round(tree, poolPath, count)
    return `${count} rounds ${name}`
  })
  // All of them end before anything is judged: the pool is not taken away under one.
  const [result, ...bystanders] = await Promise.allSettled([workers, ...rounds])
  for (const bystander of bystanders) {
    if (bystander.status === 'rejected') t.error(bystander.reason)
    else t.comment(bystander.value)
  }
  if (result.status === 'rejected') throw result.reason
  t.equal(result.value.stderr, '', 'no worker found anything wrong')
  const counts = JSON.parse(result.value.stdout) as CrowdCounts
  t.comment(JSON.stringify(counts))
  t.equal(counts.failed, 0)
  t.ok(counts.own > WORKER_COUNT && counts.shared > WORKER_COUNT, 'all did something')
  t.equal(await tree.run('ls', tree.volumesPath), '', 'no volume is left')
  if (poolPath === null) return
  t.ok(counts.snapshots > 0, 'snapshots were taken')
  t.equal(await tree.run('ls', join(tree.mountPath, 'snapshots')), '', 'nor a snapshot')
  const listed = JSON.parse(await mustVarve(poolPath, 'list', '-o', 'json')) as object
  t.match(listed, { volumes: [] })
}

t.test('64 processes and everything around them agree on every byte', { skip: noFuse }, (t) =>
  withTree(t, 'native', (tree) => crowd(t, tree)),
)
