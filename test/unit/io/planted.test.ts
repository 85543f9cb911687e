/** What somebody else has put in the place of a file, a lock or a socket of ours. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openMountPoint } from '../../../src/export/fuse/mount-point.ts'
import { makePrivateFolder } from '../../../src/image/private-folder.ts'
import { BuddyArena } from '../../../src/io/buddy-arena.ts'
import type { Io, OpenMode } from '../../../src/io/io.ts'
import { NodeIo } from '../../../src/io/node-io.ts'
import { openIo } from '../../../src/io/open-io.ts'
import { setSocketMode } from '../../../src/io/socket-mode.ts'

const ARENA_BYTES = 1 << 20
const folder = mkdtempSync(join(tmpdir(), 'varve-planted-'))
t.teardown(() => rmSync(folder, { recursive: true }))

let count = 0
function scratch(): string {
  const path = join(folder, String(++count))
  mkdirSync(path)
  return path
}

async function ios(): Promise<[string, Io][]> {
  const bare = new NodeIo(new BuddyArena(Buffer.alloc(ARENA_BYTES)), null)
  const made: [string, Io][] = [['bare', bare]]
  for (const kind of ['node', 'ring'] as const) {
    const io = await openIo({ kind, arenaBytes: ARENA_BYTES }).catch(() => null)
    if (io !== null) made.push([kind, io])
  }
  return made
}

function modeOf(path: string): number {
  return statSync(path).mode & 0o777
}

for (const [name, io] of await ios()) {
  t.test(`${name}: in the place of a file nothing but a file is opened`, async (t) => {
    const place = scratch()
    const victim = join(place, 'victim')
    writeFileSync(victim, 'untouched')
    symlinkSync(victim, join(place, 'link'))
    symlinkSync(join(place, 'nowhere'), join(place, 'dangling'))
    symlinkSync('/dev/null', join(place, 'device'))
    execFileSync('mkfifo', [join(place, 'pipe')])
    for (const mode of ['read', 'write'] satisfies OpenMode[]) {
      for (const planted of ['link', 'device', 'pipe']) {
        const refused = io.open(join(place, planted), mode)
        await t.rejects(refused, { code: 'unsupported' }, `${planted}, ${mode}`)
      }
    }
    await t.rejects(io.open('/dev/null', 'write'), { code: 'unsupported' })
    await t.rejects(io.open(join(place, 'dangling'), 'create'), { code: 'exists' })
    t.notOk(existsSync(join(place, 'nowhere')))
    const file = await io.open(victim, 'write')
    await io.close(file)
  })

  t.test(`${name}: files and folders are for their owner, whatever the mask`, async (t) => {
    const place = scratch()
    for (const mask of [0o000, 0o022, 0o077]) {
      const before = process.umask(mask)
      try {
        await io.close(await io.open(join(place, `file-${mask}`), 'create'))
        await io.createDirectory(join(place, `folder-${mask}`))
        await (await io.lock(join(place, `lock-${mask}`), 'us')).release()
      } finally {
        process.umask(before)
      }
      t.equal(modeOf(join(place, `file-${mask}`)), 0o600)
      t.equal(modeOf(join(place, `folder-${mask}`)), 0o700)
      t.equal(modeOf(join(place, `lock-${mask}`)), 0o600)
    }
  })

  t.test(`${name}: taking a lock empties no other file`, async (t) => {
    const place = scratch()
    const victim = join(place, 'victim')
    writeFileSync(victim, 'untouched')
    symlinkSync(victim, join(place, 'link'))
    linkSync(victim, join(place, 'second-name'))
    symlinkSync(join(place, 'nowhere'), join(place, 'dangling'))
    execFileSync('mkfifo', [join(place, 'pipe')])
    for (const planted of ['link', 'second-name', 'dangling', 'pipe']) {
      await t.rejects(io.lock(join(place, planted), 'us'), /cannot|plain/, planted)
    }
    t.equal(readFileSync(victim, 'utf8'), 'untouched')
    t.notOk(existsSync(join(place, 'nowhere')))
  })

  t.test(
    `${name}: a socket has its mode, whatever the mask, and takes nobody's place`,
    async (t) => {
      const place = scratch()
      const path = join(place, 'socket')
      for (const mask of [0o000, 0o022, 0o077]) {
        for (const mode of [0o600, 0o660, 0o666]) {
          const before = process.umask(mask)
          try {
            const listener = await io.listen({ kind: 'unix', path, mode }, (socket) =>
              socket.close(),
            )
            t.equal(modeOf(path), mode)
            t.equal(process.umask(mask), mask, 'the mask is as it was')
            await listener.close()
          } finally {
            process.umask(before)
          }
        }
      }
      const refuse = async (what: string): Promise<void> => {
        const listening = io.listen({ kind: 'unix', path, mode: 0o600 }, (socket) => socket.close())
        await t.rejects(listening, { code: 'busy' }, what)
        unlinkSync(path)
      }
      symlinkSync(join(place, 'nowhere'), path)
      await refuse('a link to nothing')
      t.notOk(existsSync(join(place, 'nowhere')))
      writeFileSync(join(place, 'victim'), '', { mode: 0o644 })
      symlinkSync(join(place, 'victim'), path)
      await refuse('a link to a file')
      t.equal(modeOf(join(place, 'victim')), 0o644)
      await deadSocket(join(place, 'dead'))
      symlinkSync(join(place, 'dead'), path)
      await refuse('a link to a dead socket')
      writeFileSync(path, '')
      await refuse('a file')
      await deadSocket(path)
      const listener = await io.listen({ kind: 'unix', path, mode: 0o600 }, (s) => s.close())
      await listener.close()
    },
  )

  t.test(`${name}: the user at the other end of a unix socket is known`, async (t) => {
    const path = join(scratch(), 'socket')
    const accepted = new Promise<void>((resolve) => {
      const listening = io.listen({ kind: 'unix', path, mode: 0o600 }, (socket) => {
        const { isLocal, user, certificateNames } = socket.identity
        t.equal(isLocal, true)
        const us = {
          processId: process.pid,
          userId: process.getuid?.(),
          groupId: process.getgid?.(),
        }
        t.strictSame(user, name === 'bare' ? null : us)
        t.strictSame(certificateNames, [])
        socket.close()
        void listening.then((listener) => listener.close()).then(resolve)
      })
      void listening.then(() => connect(path).on('error', () => undefined))
    })
    await accepted
  })

  t.test(`${name}: shut down`, () => io.shutdown())
}

/** What a killed server leaves. */
async function deadSocket(path: string): Promise<void> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(`${path}.live`, resolve))
  renameSync(`${path}.live`, path)
  await new Promise((resolve) => server.close(resolve))
}

t.test('the mode is set on no file that has taken the place of the socket', async (t) => {
  const place = scratch()
  const victim = join(place, 'victim')
  writeFileSync(victim, '')
  chmodSync(victim, 0o644)
  symlinkSync(victim, join(place, 'link'))
  await deadSocket(join(place, 'socket'))
  chmodSync(join(place, 'socket'), 0o600)
  symlinkSync(join(place, 'socket'), join(place, 'link-to-socket'))
  for (const planted of ['victim', 'link', 'link-to-socket']) {
    await t.rejects(setSocketMode(join(place, planted), 0o666), { code: 'unsupported' })
  }
  await t.rejects(setSocketMode(join(place, 'none'), 0o666), { code: 'not-found' })
  t.equal(modeOf(victim), 0o644)
  t.equal(modeOf(join(place, 'socket')), 0o600)
})

t.test('root mounts on the folder that was looked at, or not at all', async (t) => {
  const place = realpathSync(scratch())
  const victim = join(place, 'victim')
  mkdirSync(join(victim, 'mnt'), { recursive: true })
  mkdirSync(join(place, 'parent', 'mnt'), { recursive: true })
  const path = join(place, 'parent', 'mnt')
  const folder = await openMountPoint(path)
  const { ino } = await folder.stat()
  t.equal(ino, statSync(path).ino)
  await folder.close()
  renameSync(path, `${path}.away`)
  symlinkSync(join(victim, 'mnt'), path)
  await t.rejects(openMountPoint(path), { code: 'io' }, 'a link in its place')
  renameSync(join(place, 'parent'), join(place, 'parent.away'))
  symlinkSync(victim, join(place, 'parent'))
  await t.rejects(openMountPoint(path), { code: 'busy' }, 'a link on the way')
})

t.test('what looks like the folder of a killed process is removed only if it is one', async (t) => {
  const place = scratch()
  const kept = join(place, 'kept')
  mkdirSync(kept)
  writeFileSync(join(kept, 'file'), '')
  // No process has this number.
  const planted = join(place, 'varve-image-4194305-abcdef')
  symlinkSync(kept, planted)
  const left = join(place, 'varve-image-4194305-fedcba')
  mkdirSync(left)
  const before = process.env['TMPDIR']
  process.env['TMPDIR'] = place
  t.teardown(() => (process.env['TMPDIR'] = before ?? tmpdir()))
  const made = await makePrivateFolder()
  t.equal(modeOf(made.path), 0o700)
  await made.remove()
  t.ok(existsSync(join(kept, 'file')))
  t.ok(existsSync(planted), 'a link is none of ours')
  t.notOk(existsSync(left))
})
