/** A guest that writes its drive while its server is killed, again and again. */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { run } from '../../tools/command.ts'
import { projectRoot } from '../../tools/project.ts'
import { ServedPool, mustVarve } from '../support/varve-process.ts'
import { buildInitramfs, findGuestKernel } from './guest-kernel.ts'
import { WritingGuest, writingScript } from './writing-guest.ts'

const MIB = 1 << 20
const GUEST_MIB = 16
/** When the server dies: so many megabytes are written, and so long it is at the next. */
const DEATHS = [
  { writtenMib: 3, delayMs: 20 },
  { writtenMib: 6, delayMs: 45 },
  { writtenMib: 9, delayMs: 70 },
]

/**
 * The guest sees no error, everything it was told is on its drive is there, and the pool is whole.
 * `serveArgs` and `driveArgs` are made of the folders of vhost-user sockets and of the pool;
 * `deathCount` is 3 at most.
 */
export async function guestSurvives(
  t: Test,
  serveArgs: (sockets: string) => string[],
  driveArgs: (sockets: string, pool: string) => string[],
  deathCount: number = DEATHS.length,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-dying-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const kernel = findGuestKernel(projectRoot)
  const busyboxPath = (await run('sh', ['-c', 'command -v busybox'])).stdout.trim()
  const initramfsPath = join(folder, 'initramfs')
  writeFileSync(initramfsPath, buildInitramfs(kernel, busyboxPath, writingScript(GUEST_MIB)))
  const pool = join(folder, 'pool')
  const sockets = join(folder, 'sockets')
  await mustVarve(pool, 'init')
  await mustVarve(pool, 'create', 'drive', '64M')
  let served = await ServedPool.start(pool, ...serveArgs(sockets))
  t.teardown(() => served.kill())
  const guest = await WritingGuest.boot({
    kernelPath: kernel.kernelPath,
    initramfsPath,
    driveArgs: driveArgs(sockets, pool),
    monitorPath: join(folder, 'monitor'),
  })
  t.teardown(() => guest.kill())
  for (const { writtenMib, delayMs } of DEATHS.slice(0, deathCount)) {
    await guest.untilWritten(writtenMib)
    await delay(delayMs)
    await served.kill()
    t.ok(guest.writtenCount < GUEST_MIB, `killed after ${guest.writtenCount} MiB`)
    served = await ServedPool.start(pool, ...serveArgs(sockets))
  }
  t.equal(await guest.ended(), 0, 'it comes to its end')
  t.match(guest.console, /guest says: all is as written/)
  t.notMatch(guest.console, /guest says: error|I\/O error/, 'it never knew')
  t.equal(await served.stop(), 0)
  const imagePath = join(folder, 'drive.img')
  await mustVarve(pool, 'export', 'drive', imagePath)
  t.same(
    numbersOf(imagePath),
    Array.from({ length: GUEST_MIB }, (_, index) => index),
  )
  await mustVarve(pool, 'check')
}

/** What each megabyte begins with. */
function numbersOf(imagePath: string): number[] {
  const fd = openSync(imagePath, 'r')
  const bytes = Buffer.alloc(8)
  const numbers = Array.from({ length: GUEST_MIB }, (_, index) => {
    readSync(fd, bytes, 0, bytes.length, index * MIB)
    return Number(bytes.toString('latin1'))
  })
  closeSync(fd)
  return numbers
}
