import t from 'tap'
import { Errno } from '../../../src/base/errors.ts'
import { Prng } from '../../../src/base/prng.ts'
import type { IoFile } from '../../../src/io/io.ts'
import { ioResult } from '../../../src/io/io.ts'
import { SimIo, SimStuckError } from '../../../src/io/sim-io.ts'

const PAGE = 4096
const memory = Buffer.allocUnsafeSlow(1024 * 1024)

function world(seed: number, changes: object = {}): SimIo {
  return new SimIo({ seed, arenaMemory: memory, ...changes })
}

function put(io: SimIo, file: IoFile, offsetBytes: number, bytes: Uint8Array): number {
  io.arena.memory.set(bytes, 0)
  return io.writeSync(file, offsetBytes, { pairs: Uint32Array.of(0, bytes.length), count: 1 })
}

async function get(
  io: SimIo,
  file: IoFile,
  offsetBytes: number,
  lengthBytes: number,
): Promise<Buffer | number> {
  const start = ioResult((done) => io.read(file, offsetBytes, 0, lengthBytes, done, 0))
  const result = (await io.runUntil(start)) as number
  return result < 0 ? result : Buffer.from(io.arena.memory.subarray(0, result))
}

async function sync(io: SimIo, file: IoFile): Promise<number> {
  return (await io.runUntil(ioResult((done) => io.sync(file, done, 0)))) as number
}

async function create(io: SimIo, path: string): Promise<IoFile> {
  return (await io.runUntil(io.open(path, 'create'))) as IoFile
}

async function durableFile(io: SimIo, path: string, bytes: Uint8Array): Promise<IoFile> {
  const file = await create(io, path)
  put(io, file, 0, bytes)
  await sync(io, file)
  await io.runUntil(io.syncDirectory('/'))
  return file
}

function pages(count: number, value: number): Buffer {
  return Buffer.alloc(count * PAGE, value)
}

await t.test('the generator repeats itself and draws evenly', async (t) => {
  const first = new Prng(7)
  const second = new Prng(7)
  for (let index = 0; index < 100; index += 1) t.equal(first.nextU32(), second.nextU32())
  t.not(new Prng(7).nextU32(), new Prng(8).nextU32())
  t.not(new Prng(7).nextU32(), new Prng(7 + 2 ** 32).nextU32())
  const counts = new Array<number>(10).fill(0)
  for (let index = 0; index < 10_000; index += 1) counts[first.below(10)] += 1
  t.ok(
    counts.every((count) => count > 850 && count < 1150),
    'draws are even',
  )
  t.equal(first.between(5, 5), 5)
  t.equal(first.weighted([0, 0, 1]), 2)
  t.throws(() => first.weighted([0]))
})

await t.test('one seed tells one story to the byte', async (t) => {
  const tell = async (seed: number): Promise<string> => {
    const lines: string[] = []
    const io = world(seed, { trace: (line: string) => lines.push(line) })
    const file = await create(io, '/f')
    for (let index = 0; index < 8; index += 1) put(io, file, index * PAGE, io.randomBytes(PAGE))
    await Promise.all([io.runUntil(io.list('/')), sync(io, file)])
    put(io, file, 100, io.randomBytes(9000))
    io.crash({ kind: 'power' })
    const after = io.reboot()
    const names = (await after.runUntil(after.list('/'))) as string[]
    lines.push(names.join(), ...io.events)
    if (names.length > 0) {
      const again = (await after.runUntil(after.open('/f', 'read'))) as IoFile
      lines.push(String(await get(after, again, 0, 20 * PAGE)))
    }
    return lines.join('\n')
  }
  for (let seed = 1; seed < 20; seed += 1) t.equal(await tell(seed), await tell(seed), `${seed}`)
  t.not(await tell(1), await tell(2))
})

await t.test(
  'what was synced survives, what was not may be lost, torn and reordered',
  async (t) => {
    const seen = { old: 0, fresh: 0, torn: 0, reordered: 0, grown: 0, zeros: 0 }
    for (let seed = 0; seed < 300; seed += 1) {
      const io = world(seed)
      const file = await durableFile(io, '/f', pages(4, 1))
      put(io, file, 0, pages(4, 2))
      put(io, file, 4 * PAGE, pages(2, 3))
      io.crash({ kind: 'power' })
      const after = io.reboot()
      const again = (await after.runUntil(after.open('/f', 'read'))) as IoFile
      const bytes = (await get(after, again, 0, 8 * PAGE)) as Buffer
      t.ok(bytes.length >= 4 * PAGE, 'a synced size never shrinks')
      const kinds: string[] = []
      for (let page = 0; page < 4; page += 1) {
        const values = new Set(bytes.subarray(page * PAGE, (page + 1) * PAGE))
        t.ok(
          [...values].every((value) => value === 1 || value === 2),
          'no invented bytes',
        )
        kinds.push(values.size === 2 ? 'torn' : values.has(1) ? 'old' : 'fresh')
        for (let sector = 0; sector < 8; sector += 1) {
          const start = page * PAGE + sector * 512
          t.equal(new Set(bytes.subarray(start, start + 512)).size, 1, 'a sector is never torn')
        }
      }
      if (kinds.every((kind) => kind === 'old')) seen.old += 1
      if (kinds.every((kind) => kind === 'fresh')) seen.fresh += 1
      if (kinds.includes('torn')) seen.torn += 1
      if (kinds.indexOf('old') >= 0 && kinds.indexOf('old') < kinds.lastIndexOf('fresh')) {
        seen.reordered += 1
      }
      const tail = bytes.subarray(4 * PAGE)
      if (tail.length > 0) seen.grown += 1
      if (tail.length > 0 && tail.includes(0)) seen.zeros += 1
    }
    for (const [outcome, count] of Object.entries(seen)) t.ok(count > 3, `${outcome}: ${count}`)
  },
)

await t.test('a sync covers what was written before it and nothing after', async (t) => {
  let lostCount = 0
  for (let seed = 0; seed < 100; seed += 1) {
    const io = world(seed)
    const file = await durableFile(io, '/f', pages(1, 1))
    put(io, file, 0, pages(1, 2))
    const syncing = ioResult((done) => io.sync(file, done, 0))
    put(io, file, 0, pages(1, 3))
    t.equal(await io.runUntil(syncing), 0)
    io.crash({ kind: 'power' })
    const after = io.reboot()
    const again = (await after.runUntil(after.open('/f', 'read'))) as IoFile
    const bytes = (await get(after, again, 0, PAGE)) as Buffer
    t.notOk(bytes.includes(1), 'the synced write is there, or what came over it')
    if (bytes.includes(2)) lostCount += 1
  }
  t.ok(lostCount > 10, 'the later write is often lost')
})

await t.test('a process crash keeps the page cache and releases the lock', async (t) => {
  const io = world(3)
  const file = await create(io, '/f')
  put(io, file, 0, pages(2, 9))
  await io.runUntil(io.lock('/lock', 'first'))
  await t.rejects(io.runUntil(io.lock('/lock', 'second')), {
    code: 'busy',
    details: { holder: 'first' },
  })
  io.crash({ kind: 'process' })
  t.equal(io.writeSync(file, 0, { pairs: Uint32Array.of(0, PAGE), count: 1 }), -Errno.EIO)
  t.equal(io.step(), false, 'nothing happens in a dead world')
  const after = io.reboot()
  await after.runUntil(after.lock('/lock', 'second'))
  const again = (await after.runUntil(after.open('/f', 'read'))) as IoFile
  t.same(await get(after, again, 0, 3 * PAGE), pages(2, 9))
})

await t.test('names survive as their folder was synced; a rename is one change', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 0; seed < 200; seed += 1) {
    const io = world(seed)
    await durableFile(io, '/kept', pages(1, 1))
    await durableFile(io, '/gone', pages(1, 2))
    await create(io, '/new')
    await io.runUntil(io.rename('/kept', '/moved'))
    await io.runUntil(io.remove('/gone'))
    io.crash({ kind: 'power' })
    const after = io.reboot()
    const names = (await after.runUntil(after.list('/'))) as string[]
    t.not(names.includes('kept'), names.includes('moved'), 'renamed or not, never both or neither')
    outcomes.add(names.join())
    const synced = world(seed)
    await durableFile(synced, '/a', pages(1, 1))
    await synced.runUntil(synced.rename('/a', '/b'))
    await synced.runUntil(synced.syncDirectory('/'))
    synced.crash({ kind: 'power' })
    const later = synced.reboot()
    t.same(await later.runUntil(later.list('/')), ['b'])
  }
  t.equal(outcomes.size, 8, 'three changes are independent')
})

await t.test('a failed sync says so once and its data is not saved by the next', async (t) => {
  let lostCount = 0
  for (let seed = 0; seed < 60; seed += 1) {
    const io = world(seed)
    const file = await durableFile(io, '/f', pages(4, 1))
    put(io, file, 0, pages(4, 2))
    io.addFault({ kind: 'sync-error', path: '/f', skip: 0, times: 1, errno: Errno.EIO })
    t.equal(await sync(io, file), -Errno.EIO)
    t.equal(await sync(io, file), 0)
    t.same(await get(io, file, 0, 4 * PAGE), pages(4, 2), 'reads go on showing it')
    io.crash({ kind: 'power' })
    t.ok(io.events.some((line) => line.startsWith('fault sync-error')))
    const after = io.reboot()
    const again = (await after.runUntil(after.open('/f', 'read'))) as IoFile
    if (((await get(after, again, 0, 4 * PAGE)) as Buffer).includes(1)) lostCount += 1
  }
  t.ok(lostCount > 10, `lost ${lostCount} times`)
})

await t.test('a broken sync answers 0 and keeps nothing', async (t) => {
  let lostCount = 0
  for (let seed = 0; seed < 40; seed += 1) {
    const io = world(seed, { brokenSync: true })
    await durableFile(io, '/f', pages(1, 1))
    io.crash({ kind: 'power' })
    const after = io.reboot()
    if (((await after.runUntil(after.list('/'))) as string[]).length === 0) lostCount += 1
  }
  t.ok(lostCount > 8, `lost ${lostCount} times`)
})

await t.test('a full disk refuses, and punching and removing give room back', async (t) => {
  const io = world(1, { capacityBytes: 8 * PAGE })
  const file = await create(io, '/f')
  t.equal(put(io, file, 0, pages(6, 1)), 6 * PAGE)
  t.equal(put(io, file, 6 * PAGE, pages(4, 1)), -Errno.ENOSPC)
  t.equal(put(io, file, 0, pages(6, 2)), 6 * PAGE, 'writing over takes no room')
  await io.runUntil(io.punch(file, PAGE, 3 * PAGE))
  t.equal((await io.runUntil(io.stat(file)))?.allocatedBytes, 5 * PAGE)
  t.same(await get(io, file, 0, 3 * PAGE), Buffer.concat([pages(1, 2), pages(2, 0)]))
  const other = await create(io, '/g')
  await t.rejects(io.runUntil(io.allocate(other, 0, 4 * PAGE)), { code: 'no-space' })
  await io.runUntil(io.allocate(other, 0, 3 * PAGE))
  t.equal((await io.runUntil(io.space('/')))?.freeBytes, 0)
  t.equal(put(io, other, 0, pages(3, 3)), 3 * PAGE, 'what is reserved is there')
  t.equal(put(io, other, 3 * PAGE, pages(1, 3)), -Errno.ENOSPC)
  await io.runUntil(io.remove('/f'))
  t.equal((await io.runUntil(io.space('/')))?.freeBytes, 5 * PAGE)
  io.crash({ kind: 'power' })
  t.ok(io.disk.usedBytes <= 8 * PAGE, 'the account holds after a crash')
})

await t.test('an unsynced punch has happened or not', async (t) => {
  const outcomes = new Set<number>()
  for (let seed = 0; seed < 60; seed += 1) {
    const io = world(seed)
    const file = await durableFile(io, '/f', pages(4, 1))
    await io.runUntil(io.punch(file, PAGE, 2 * PAGE))
    io.crash({ kind: 'power' })
    t.equal(io.disk.usedBytes % PAGE, 0)
    outcomes.add(io.disk.usedBytes / PAGE)
  }
  t.same([...outcomes].sort(), [2, 4])
})

await t.test('a truncated tail reads as zeros when the file grows again', async (t) => {
  const io = world(1)
  const file = await durableFile(io, '/f', pages(3, 7))
  await io.runUntil(io.truncate(file, 100))
  await io.runUntil(io.truncate(file, 2 * PAGE))
  const expected = Buffer.alloc(2 * PAGE)
  expected.fill(7, 0, 100)
  t.same(await get(io, file, 0, 4 * PAGE), expected)
  await sync(io, file)
  io.crash({ kind: 'power' })
  const after = io.reboot()
  const again = (await after.runUntil(after.open('/f', 'read'))) as IoFile
  t.same(await get(after, again, 0, 4 * PAGE), expected)
})

await t.test('faults strike reads and writes where they were aimed, and say so', async (t) => {
  const io = world(1)
  const file = await durableFile(io, '/f', pages(4, 1))
  const aim = { path: '/f', errno: Errno.EIO }
  io.addFault({ kind: 'read-error', ...aim, skip: 0, times: 1, offsetBytes: PAGE, lengthBytes: 1 })
  t.equal(((await get(io, file, 0, PAGE)) as Buffer).length, PAGE, 'beside the range')
  t.equal(await get(io, file, 0, 2 * PAGE), -Errno.EIO)
  t.equal(((await get(io, file, 0, 2 * PAGE)) as Buffer).length, 2 * PAGE, 'once is once')
  io.addFault({ kind: 'write-error', ...aim, skip: 1, times: 1 })
  t.equal(put(io, file, 0, pages(1, 2)), PAGE)
  t.equal(put(io, file, 0, pages(1, 3)), -Errno.EIO)
  io.disk.flipBit('/f', 2 * PAGE + 5, 3)
  t.equal(((await get(io, file, 2 * PAGE, PAGE)) as Buffer)[5], 1 ^ 8)
  t.equal(io.events.length, 3)
})

await t.test('a write mends a damaged page as far as it reaches, and is said to', async (t) => {
  const io = world(1)
  const file = await durableFile(io, '/f', pages(2, 1))
  const wrong = pages(1, 1)
  wrong[100] = 7
  t.ok(io.disk.damage('bit-rot', '/f', 1, wrong))
  t.same(io.disk.damaged(), [{ path: '/f', pageIndex: 1 }])
  put(io, file, PAGE, pages(1, 1).subarray(0, 50))
  t.equal(io.disk.damaged().length, 1, 'beside it')
  put(io, file, PAGE + 90, pages(1, 1).subarray(0, 50))
  t.equal(io.disk.damaged().length, 0, 'all that was wrong')
  put(io, file, PAGE, pages(1, 2))
  io.disk.heal()
  t.same(await get(io, file, PAGE, PAGE), pages(1, 2), 'there is nothing to put back')
})

await t.test('timers, hooks and deadlock', async (t) => {
  const io = world(5)
  const order: string[] = []
  const hook = {
    turnEnd: (): void => {
      order.push('hook')
    },
  }
  io.atTurnEnd(hook)
  io.atTurnEnd(hook)
  t.same(order, [], 'never inside the call')
  io.step()
  t.same(order, ['hook'], 'asked twice, run once')
  const cancel = io.setTimer(50, () => order.push('canceled'))
  io.setTimer(100, () => order.push('timer'))
  cancel()
  await io.runFor(200)
  t.same(order, ['hook', 'timer'])
  t.ok(io.nowMs() >= 200)
  await t.rejects(io.runUntil(new Promise(() => undefined)), SimStuckError)
})

await t.test('sockets carry bytes in order, split anywhere, and end', async (t) => {
  for (let seed = 0; seed < 20; seed += 1) {
    const io = world(seed)
    const address = { kind: 'unix', path: '/sock' } as const
    const received: number[] = []
    let ended = -1
    const listener = await io.runUntil(
      io.listen(address, (socket) => {
        const pump = {
          ioComplete: (_tag: number, result: number): void => {
            if (result <= 0) {
              ended = result
              return socket.close()
            }
            received.push(...io.arena.memory.subarray(0, result))
            const echo = { pairs: Uint32Array.of(0, result), count: 1 }
            socket.send(echo, { ioComplete: () => socket.receive(0, 64, pump, 0) }, 0)
          },
        }
        socket.receive(0, 64, pump, 0)
      }),
    )
    const peer = io.connect(address)
    const sent = io.randomBytes(300)
    peer.send(sent.subarray(0, 100))
    peer.send(sent.subarray(100))
    const echoed: number[] = []
    while (echoed.length < 300) {
      echoed.push(...((await io.runUntil(peer.receive())) as Uint8Array))
    }
    t.same(received, [...sent])
    t.same(echoed, [...sent])
    peer.close()
    await io.runFor(100)
    t.equal(ended, 0)
    await io.runUntil(listener?.close() as Promise<void>)
    t.throws(() => io.connect(address))
  }
})
