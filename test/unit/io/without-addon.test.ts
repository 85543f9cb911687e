/** What node-io does on a host without the addon, and locks between processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync } from 'node:fs'
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { BuddyArena } from '../../../src/io/buddy-arena.ts'
import type { Io } from '../../../src/io/io.ts'
import { ioResult } from '../../../src/io/io.ts'
import { NodeIo } from '../../../src/io/node-io.ts'
import { openIo } from '../../../src/io/open-io.ts'
import { fallocate } from '../../../src/io/fallocate.ts'
import { runHostTool } from '../../../src/base/host-tool.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-bare-'))
t.teardown(() => rmSync(folder, { recursive: true }))

function bareIo(): NodeIo {
  return new NodeIo(new BuddyArena(Buffer.alloc(1 << 20)), null)
}

t.test('punch and allocate work through the command of util-linux', async (t) => {
  const io = bareIo()
  const file = await io.open(join(folder, 'a'), 'create')
  const at = io.arena.allocate(65536)
  io.arena.memory.fill(1, at, at + 65536)
  t.equal(io.writeSync(file, 0, { pairs: Uint32Array.of(at, 65536), count: 1 }), 65536)
  await io.punch(file, 4096, 8192)
  await ioResult((completion) => io.read(file, 0, at, 65536, completion, 0))
  const expected = Buffer.alloc(65536, 1).fill(0, 4096, 12288)
  t.ok(io.arena.memory.subarray(at, at + 65536).equals(expected))
  await io.allocate(file, 0, 1 << 20)
  const stat = await io.stat(file)
  t.equal(stat.sizeBytes, 65536)
  t.ok(stat.allocatedBytes >= 1 << 20)
  const { path } = file
  await t.rejects(io.allocate(file, 0, Number.MAX_SAFE_INTEGER), { code: 'io', details: { path } })
  await io.close(file)
})

t.test('without the command either, punching is unsupported and says what to do', async (t) => {
  const path = join(folder, 'b')
  const fd = openSync(path, 'w')
  t.teardown(() => closeSync(fd))
  const range = { fd, path, offsetBytes: 0, lengthBytes: 4096 }
  const refused = fallocate('punch', range, null, { PATH: folder })
  await t.rejects(refused, { code: 'unsupported', hint: /build-native/ })
})

t.test("programs are not looked for in the caller's PATH", async (t) => {
  const planted = join(folder, 'planted')
  mkdirSync(planted)
  const trace = join(folder, 'trace')
  for (const tool of ['fallocate', 'stat']) {
    writeFileSync(join(planted, tool), `#!/bin/sh\ntouch ${trace}\n`, { mode: 0o755 })
  }
  const path = process.env['PATH']
  process.env['PATH'] = planted
  t.teardown(() => (process.env['PATH'] = path))
  const io = bareIo()
  const file = await io.open(join(folder, 'c'), 'create')
  await io.allocate(file, 0, 4096)
  t.ok((await io.stat(file)).allocatedBytes >= 4096)
  await io.close(file)
  t.equal((await runHostTool('stat', 'coreutils', ['-f', '/'], 10_000)).exitCode, 0)
  t.notOk(existsSync(trace))
})

/** A process that takes the lock, says so, and then sleeps. */
const HOLDER_PROGRAM = `
  const [ioModule, path] = process.argv.slice(1)
  const { openIo } = await import(ioModule)
  const io = await openIo({ arenaBytes: 4096 })
  await io.lock(path, 'process ' + process.pid)
  console.log('locked')
  setInterval(() => {}, 1000)
`

async function lockElsewhere(path: string): Promise<ReturnType<typeof spawn>> {
  const module = new URL('../../../src/io/open-io.js', import.meta.url).href
  const args = ['--input-type=module', '-e', HOLDER_PROGRAM, module, path]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  return child
}

t.test('a lock is seen with and without the addon, and SIGKILL releases it', async (t) => {
  const path = join(folder, 'lock')
  const ios: Io[] = [bareIo(), await openIo({ arenaBytes: 4096 })]
  for (const io of ios) {
    const child = await lockElsewhere(path)
    for (const contender of ios) {
      const holder = `process ${child.pid}`
      await t.rejects(contender.lock(path, 'us'), { code: 'busy', details: { holder } })
    }
    child.kill('SIGKILL')
    await once(child, 'exit')
    const lock = await io.lock(path, 'us')
    for (const contender of ios) {
      await t.rejects(contender.lock(path, 'another'), { code: 'busy', details: { holder: 'us' } })
    }
    await lock.release()
    await lock.release()
  }
  for (const io of ios) await io.shutdown()
})

t.test('an open Io with nothing in flight lets the process end', async (t) => {
  const module = new URL('../../../src/io/open-io.js', import.meta.url).href
  for (const kind of ['ring', 'node']) {
    const program = `
      const { openIo } = await import(${JSON.stringify(module)})
      const io = await openIo({ kind: '${kind}', arenaBytes: 4096 })
      await new Promise((resolve) => io.atTurnEnd({ turnEnd: resolve }))
    `
    const child = spawn(process.execPath, ['--input-type=module', '-e', program])
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000)
    const [status] = (await once(child, 'exit')) as [number | null]
    clearTimeout(timer)
    t.equal(status, 0, kind)
  }
})
