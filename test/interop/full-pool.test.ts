/**
 * I9 on real disks: pools that are full by their own capacity, and pools on a filesystem of which
 * somebody else took the last byte. Whatever was answered is there, whatever makes room works, and
 * a guest is stopped and goes on where it was.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import type { PoolInfo } from '../../src/api/shapes.ts'
import { MIB } from '../../src/base/units.ts'
import { run } from '../../tools/command.ts'
import { projectRoot } from '../../tools/project.ts'
import { noFuse } from '../support/mounted-tree.ts'
import { NbdClient } from '../support/nbd-client.ts'
import { SmallDisk, noSmallDisk } from '../support/small-disk.ts'
import { ServedPool, mustVarve, varve } from '../support/varve-process.ts'
import { buildInitramfs, findGuestKernel } from './guest-kernel.ts'
import { WritingGuest, nbdDrive, writingScript } from './writing-guest.ts'

t.setTimeout(600_000)

const PIECE_BYTES = MIB / 4

/** A piece that says in every 16 bytes which it is. */
function piece(volume: string, index: number): Buffer {
  const bytes = Buffer.alloc(PIECE_BYTES)
  for (let at = 0; at < PIECE_BYTES; at += 16) {
    bytes.write(volume, at, 4, 'latin1')
    bytes.writeUInt32LE(index + 1, at + 4)
    bytes.writeUInt32LE(at, at + 8)
  }
  return bytes
}

/** Writes pieces from `first` on until one is refused; returns how many there are then. */
async function writeUntilFull(client: NbdClient, volume: string, first = 0): Promise<number> {
  for (let index = first; ; index += 1) {
    try {
      await client.write(index * PIECE_BYTES, piece(volume, index))
    } catch (error) {
      if ((error as Error).message !== 'NBD error 28') throw error
      return index
    }
  }
}

async function verifyPieces(socketPath: string, volume: string, count: number): Promise<void> {
  const client = await NbdClient.connect(socketPath, volume)
  for (let index = 0; index < count; index += 1) {
    const found = await client.read(index * PIECE_BYTES, PIECE_BYTES)
    if (!found.equals(piece(volume, index))) throw new Error(`${volume}: piece ${index} is lost`)
  }
  // What was refused left nothing behind.
  const after = await client.read(count * PIECE_BYTES, PIECE_BYTES)
  if (!after.equals(Buffer.alloc(PIECE_BYTES))) throw new Error(`${volume}: half a write`)
  client.close()
}

async function infoOf(pool: string): Promise<PoolInfo> {
  const text = await mustVarve(pool, 'info', '-o', 'json')
  return (JSON.parse(text) as { pool: PoolInfo }).pool
}

async function mustBeSound(t: Test, pool: string): Promise<void> {
  const { code, stdout, stderr } = await varve(pool, 'check')
  t.equal(code, 0, `check: ${stdout}${stderr}`)
}

t.test(
  'with not a byte left on its disk a pool can do all that makes room',
  { skip: noSmallDisk },
  async (t) => {
    const disk = await SmallDisk.mount(320 * MIB)
    t.teardown(() => disk.remove())
    const pool = join(disk.path, 'pool')
    await mustVarve(pool, 'init')
    for (const name of ['keep', 'gone']) await mustVarve(pool, 'create', name, '1G')
    let served = await ServedPool.start(pool)
    t.teardown(() => served.kill())
    const gone = await NbdClient.connect(served.socketPath, 'gone')
    for (let index = 0; index < 400; index += 1) {
      await gone.write(index * PIECE_BYTES, piece('gone', index))
    }
    await mustVarve(pool, 'snapshot', 'gone@once')
    const keep = await NbdClient.connect(served.socketPath, 'keep')
    const keptCount = await writeUntilFull(keep, 'keep')
    await keep.flush()
    t.ok(keptCount * PIECE_BYTES > 100 * MIB, 'most of the disk could be used')
    t.equal((await infoOf(pool)).fill.state, 'full')
    keep.close()
    gone.close()
    disk.fill()
    t.equal(disk.freeBytes, 0, 'a stranger took the rest')

    await t.test('it can be killed, checked, opened, read, closed and opened', async (t) => {
      await served.kill()
      await mustBeSound(t, pool)
      served = await ServedPool.start(pool)
      await verifyPieces(served.socketPath, 'keep', keptCount)
      const client = await NbdClient.connect(served.socketPath, 'keep')
      t.equal(await writeUntilFull(client, 'keep', keptCount), keptCount, 'it takes no data')
      client.close()
      t.equal(await served.stop(), 0, 'it closes in order')
      await mustBeSound(t, pool)
      served = await ServedPool.start(pool)
      await verifyPieces(served.socketPath, 'keep', keptCount)
    })

    await t.test('it removes, reclaims, and takes data again', async (t) => {
      disk.fill('another')
      await mustVarve(pool, 'rm', '-y', 'gone@once')
      await mustVarve(pool, 'rm', '-y', 'gone')
      await mustVarve(pool, 'reclaim')
      const info = await infoOf(pool)
      t.equal(info.fill.state, 'ok', JSON.stringify(info))
      t.ok(info.freeBytes > 80 * MIB, 'the space of what was removed is back')
      const client = await NbdClient.connect(served.socketPath, 'keep')
      await client.write(keptCount * PIECE_BYTES, piece('keep', keptCount))
      await client.flush()
      client.close()
      await verifyPieces(served.socketPath, 'keep', keptCount + 1)
    })

    t.equal(await served.stop(), 0, 'it closes in order')
    await mustBeSound(t, pool)
    disk.unfill()
    disk.unfill('another')
    served = await ServedPool.start(pool)
    const later = await NbdClient.connect(served.socketPath, 'keep')
    const laterCount = await writeUntilFull(later, 'keep', keptCount + 1)
    t.ok(laterCount > keptCount + 300, 'what the strangers had is used, too')
    later.close()
    await served.kill()
    await mustBeSound(t, pool)
  },
)

t.test(
  'a disk that a stranger filled under a running pool is told once, and once when it is over',
  { skip: noSmallDisk },
  async (t) => {
    const disk = await SmallDisk.mount(256 * MIB)
    t.teardown(() => disk.remove())
    const pool = join(disk.path, 'pool')
    await mustVarve(pool, 'init')
    await mustVarve(pool, 'create', 'a', '1G')
    const log: string[] = []
    const served = await ServedPool.start(pool, '--log-level', 'info', '--warn-at', '60%')
    t.teardown(() => served.kill())
    served.onLog((line) => log.push(line))
    const told = (state: string): number =>
      log.filter((line) => line.includes(`"fill":"${state}"`)).length
    const client = await NbdClient.connect(served.socketPath, 'a')
    let index = 0
    for (; index < 720; index += 1) await client.write(index * PIECE_BYTES, piece('a', index))
    t.equal((await infoOf(pool)).fill.state, 'warn')
    t.strictSame([told('warn'), told('full')], [1, 0], log.join('\n'))
    disk.fill()
    // By its own count there is room: it is the disk that refuses.
    t.equal(await writeUntilFull(client, 'a', index), index)
    t.equal(await writeUntilFull(client, 'a', index), index)
    t.equal((await infoOf(pool)).fill.state, 'full')
    t.strictSame([told('warn'), told('full')], [1, 1], log.join('\n'))
    disk.unfill()
    t.equal((await infoOf(pool)).fill.state, 'warn')
    await client.write(index * PIECE_BYTES, piece('a', index))
    client.close()
    await verifyPieces(served.socketPath, 'a', index + 1)
    await mustVarve(pool, 'rm', '-y', 'a')
    await mustVarve(pool, 'reclaim')
    t.equal((await infoOf(pool)).fill.state, 'ok')
    t.strictSame([told('warn'), told('full'), told('ok')], [2, 1, 1], log.join('\n'))
    await served.kill()
  },
)

t.test(
  'a file of a full pool answers ENOSPC, and takes more when there is room',
  { skip: noFuse },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'varve-full-'))
    const [pool, mount] = [join(folder, 'pool'), join(folder, 'fuse')]
    mkdirSync(mount)
    await mustVarve(pool, 'init', '--capacity', '64M')
    for (const name of ['a', 'b']) await mustVarve(pool, 'create', name, '1G')
    const served = await ServedPool.start(pool, '--fuse', mount)
    t.teardown(async () => {
      await served.stop()
      rmSync(folder, { recursive: true, force: true })
    })
    const writeFile = async (name: string): Promise<{ count: number; code: string }> => {
      const path = join(mount, 'volumes', name)
      const script = `
      const fs = require('node:fs')
      const fd = fs.openSync(${JSON.stringify(path)}, 'r+')
      let count = 0
      let code = ''
      try {
        for (; count < 32; count += 1) {
          fs.writeSync(fd, Buffer.alloc(${MIB}, count + 1), 0, ${MIB}, count * ${MIB})
          fs.fsyncSync(fd)
        }
      } catch (error) {
        code = error.code
      }
      console.log(JSON.stringify({ count, code }))`
      const { stdout } = await run(process.execPath, ['-e', script], { timeoutMs: 60_000 })
      return JSON.parse(stdout) as { count: number; code: string }
    }
    t.strictSame(await writeFile('a'), { count: 32, code: '' })
    const refused = await writeFile('b')
    t.equal(refused.code, 'ENOSPC')
    t.ok(refused.count > 10 && refused.count < 32, `${refused.count} of 32 MiB`)
    await mustVarve(pool, 'rm', '-y', 'a')
    await mustVarve(pool, 'reclaim')
    t.strictSame(await writeFile('b'), { count: 32, code: '' })
  },
)

const noGuest = process.arch === 'x64' ? false : `no guest kernel for ${process.arch}`
const GUEST_MIB = 56

/** Boots a guest that writes until it is stopped, makes room, and has it go on to its end. */
async function stopAndGoOn(t: Test, pool: string, work: string, fill: () => void): Promise<void> {
  const kernel = findGuestKernel(projectRoot)
  const busyboxPath = (await run('sh', ['-c', 'command -v busybox'])).stdout.trim()
  const initramfsPath = join(work, 'initramfs')
  writeFileSync(initramfsPath, buildInitramfs(kernel, busyboxPath, writingScript(GUEST_MIB)))
  for (const name of ['old', 'drive']) await mustVarve(pool, 'create', name, '128M')
  const served = await ServedPool.start(pool)
  t.teardown(() => served.kill())
  const old = await NbdClient.connect(served.socketPath, 'old')
  for (let index = 0; index < 256; index += 1) {
    await old.write(index * PIECE_BYTES, piece('old', index))
  }
  old.close()
  const guest = await WritingGuest.boot({
    kernelPath: kernel.kernelPath,
    initramfsPath,
    driveArgs: nbdDrive(served.socketPath, 'drive'),
    monitorPath: join(work, 'monitor'),
  })
  t.teardown(() => guest.kill())
  await guest.untilWritten(8)
  fill()
  t.match(await guest.untilEvent('BLOCK_IO_ERROR'), {
    data: { operation: 'write', action: 'stop', nospace: true },
  })
  await guest.untilEvent('STOP')
  const stoppedAt = guest.writtenCount
  t.ok(stoppedAt >= 8 && stoppedAt < GUEST_MIB, `stopped after ${stoppedAt} MiB`)
  t.equal((await infoOf(pool)).fill.state, 'full')
  await mustVarve(pool, 'rm', '-y', 'old')
  await mustVarve(pool, 'reclaim')
  guest.continue()
  await guest.untilEvent('RESUME')
  t.equal(await guest.ended(), 0, 'it comes to its end')
  t.match(guest.console, /guest says: all is as written/)
  t.notMatch(guest.console, /guest says: error|I\/O error/, 'it never knew')
  const reader = await NbdClient.connect(served.socketPath, 'drive')
  for (let index = 0; index < GUEST_MIB; index += 1) {
    const head = (await reader.read(index * MIB, 8)).toString()
    if (head !== String(index).padStart(8, '0')) t.fail(`megabyte ${index} begins with ${head}`)
  }
  reader.close()
  t.equal(await served.stop(), 0)
  await mustBeSound(t, pool)
}

t.test(
  'a guest is stopped where the capacity ends, and goes on when there is room',
  { skip: noGuest },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'varve-full-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const pool = join(folder, 'pool')
    await mustVarve(pool, 'init', '--capacity', '96M')
    await stopAndGoOn(t, pool, folder, () => undefined)
  },
)

t.test(
  'a guest is stopped where the disk ends, and goes on when there is room',
  { skip: noGuest === false ? noSmallDisk : noGuest },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'varve-full-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const disk = await SmallDisk.mount(256 * MIB)
    t.teardown(() => disk.remove())
    const pool = join(disk.path, 'pool')
    await mustVarve(pool, 'init')
    await stopAndGoOn(t, pool, folder, () => disk.fill())
  },
)
