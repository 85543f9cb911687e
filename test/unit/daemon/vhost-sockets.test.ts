/** A socket for every disk, as they come and go; and those asked for. */
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { VhostSockets } from '../../../src/daemon/vhost-sockets.ts'
import { VhostUserServer } from '../../../src/export/vhost-user/server.ts'
import { openIo } from '../../../src/io/open-io.ts'

const probe = await openIo()
const skip = VhostUserServer.isPossible(probe) ? false : 'takes io_uring'
await probe.shutdown()

interface Rig {
  names: Set<string>
  folder: string
  pool: string
  warned: string[]
  sockets: VhostSockets
}

async function rig(t: Test, isForAll: boolean, names: string[] = [], countMax = 100): Promise<Rig> {
  const work = mkdtempSync(join(tmpdir(), 'varve-sockets-'))
  const io = await openIo({ kind: 'ring' })
  const server = new VhostUserServer(io, { mode: 0o600, directoryOf: () => null })
  const folder = join(work, 'folder')
  const pool = join(work, 'pool')
  const disks = new Set(names)
  const directory = {
    open: () => null,
    list: () => [...disks].map((name) => ({ name, sizeBytes: 4096, readOnly: name.includes('@') })),
  }
  const warned: string[] = []
  const log = {
    info: () => undefined,
    error: () => undefined,
    warn: (fields: Record<string, unknown>) => warned.push(String(fields.export)),
  }
  const place = isForAll ? folder : null
  const sockets = await VhostSockets.start(server, directory, pool, place, log, countMax)
  t.teardown(async () => {
    await sockets.close()
    await server.close(0)
    await io.shutdown()
    rmSync(work, { recursive: true, force: true })
  })
  return { names: disks, folder, pool, warned, sockets }
}

t.test('sockets follow the disks', { skip }, async (t) => {
  const { names, folder, sockets } = await rig(t, true, ['web', 'web@s1'])
  t.same(readdirSync(folder).sort(), ['web.sock', 'web@s1.sock'])
  t.same(
    sockets.list().map(({ name, readOnly }) => [name, readOnly]),
    [
      ['web', false],
      ['web@s1', true],
    ],
  )
  names.delete('web@s1')
  names.add('mail')
  await sockets.refresh()
  t.same(readdirSync(folder).sort(), ['mail.sock', 'web.sock'])
})

t.test(
  'a disk for which there can be no socket is told once, and others have theirs',
  {
    skip,
  },
  async (t) => {
    const long = 'x'.repeat(120)
    const { names, folder, warned, sockets } = await rig(t, true, [long, 'web'])
    await sockets.refresh()
    t.same(readdirSync(folder), ['web.sock'])
    t.same(warned, [long])
    names.delete(long)
    await sockets.refresh()
    names.add(long)
    await sockets.refresh()
    t.same(warned, [long, long], 'and again when it is another disk')
  },
)

t.test('of very many disks the volumes come first, and it is told once', { skip }, async (t) => {
  const { names, folder, warned, sockets } = await rig(t, true, ['a@s', 'a', 'b@s', 'b', 'c@s'], 3)
  await sockets.refresh()
  t.same(readdirSync(folder).sort(), ['a.sock', 'a@s.sock', 'b.sock'])
  t.equal(warned.length, 1)
  names.delete('a')
  await sockets.refresh()
  t.same(readdirSync(folder).sort(), ['a@s.sock', 'b.sock', 'b@s.sock'], 'who comes next')
})

t.test('what is asked for stays until it is taken back or the disk goes', { skip }, async (t) => {
  const { names, pool, folder, sockets } = await rig(t, false, ['web', 'web@s1'])
  const ask = { name: 'web', path: null, readOnly: false }
  const place = join(pool, 'vhost-user')
  t.same(await sockets.offer(ask), { name: 'web', path: join(place, 'web.sock'), readOnly: false })
  t.same(await sockets.offer(ask), { name: 'web', path: join(place, 'web.sock'), readOnly: false })
  const readOnly = await sockets.offer({ ...ask, readOnly: true })
  t.same(readOnly, { name: 'web', path: join(place, 'web@.sock'), readOnly: true })
  const snapshot = await sockets.offer({ ...ask, name: 'web@s1', path: join(folder, 's') })
  t.equal(snapshot.readOnly, true, 'a snapshot is read-only, asked or not')
  await t.rejects(sockets.offer({ ...ask, name: 'nix' }), { code: 'not-found' })
  await t.rejects(sockets.offer({ ...ask, path: join(folder, 's') }), { code: 'exists' })
  writeFileSync(join(folder, 'file'), 'kept')
  await t.rejects(sockets.offer({ ...ask, path: join(folder, 'file') }), { code: 'busy' })
  t.equal((await sockets.withdraw('web')).length, 2)
  await t.rejects(sockets.withdraw('web'), { code: 'not-found' })
  t.same(readdirSync(place), [])
  names.delete('web@s1')
  await sockets.refresh()
  t.notOk(existsSync(join(folder, 's')))
})

t.test('a socket of the folder that was asked for, too, is there again', { skip }, async (t) => {
  const { folder, sockets } = await rig(t, true, ['web'])
  const { path } = await sockets.offer({ name: 'web', path: null, readOnly: false })
  t.equal(path, join(folder, 'web.sock'))
  await sockets.withdraw('web')
  t.ok(existsSync(path))
})
