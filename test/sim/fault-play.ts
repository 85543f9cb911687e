/** Steps that do harm: errors of the disk, a full disk, damage to what is stored; and mending. */
import { Errno } from '../../src/base/errors.ts'
import { MIB } from '../../src/base/units.ts'
import { RESERVE_FOLDER } from '../../src/pool/reserve.ts'
import { SimViolation } from './data-step.ts'
import { targetResult } from './pool-under-test.ts'
import type { StepKind } from './script.ts'
import { Crashed } from './world.ts'
import type { World } from './world.ts'

/** What a full disk must not stand in the way of. */
const MAKES_ROOM: readonly StepKind[] = [
  'checkpoint',
  'reclaim',
  'remove',
  'release',
  'verify',
  'reopen',
  'crash',
]
const ERROR_KINDS = [
  'sync-error',
  'sync-error',
  'write-error',
  'read-error',
  'no-space',
  'room',
  'slow',
] as const
const ERROR_PATHS = ['segment', 'segment', '', 'superblock', '.settling'] as const
const DAMAGE_KINDS = [
  'bit-rot',
  'bit-rot',
  'sector-rot',
  'lost-write',
  'torn-write',
  'misdirected-write',
] as const
/** What is damaged, by parts of paths. */
const DAMAGE_PATHS = ['.seg', '.seg', '.seg', '.seg', '.seg', 'superblock', '']
const PAGE_BYTES = 4096
const SECTOR_BYTES = 512
const DAMAGED_PAGE_COUNT_MAX = 6

/** An error to come, once or for ever; or room taken, or the disk made slow. */
export function playFault(world: World): void {
  const { prng, io } = world
  const times = prng.chance(0.15) ? Infinity : 1
  const aim = { path: prng.pick(ERROR_PATHS), skip: prng.below(prng.pick([1, 6])), times }
  const errno = Errno.EIO
  const kind = prng.pick(ERROR_KINDS)
  world.note(`fault ${kind} skip=${aim.skip} times=${times}`)
  if (kind === 'room') io.disk.setCapacity(2 ** 40)
  else if (kind === 'slow') io.setSlowness(prng.pick([0.1, 1, 10, 30]))
  else if (kind === 'no-space') {
    const leftBytes = prng.below(prng.pick([1, MIB / 16, MIB]))
    io.disk.setCapacity(io.disk.usedBytes + leftBytes)
  } else if (kind === 'read-error') {
    world.taint()
    const isWide = prng.chance(0.3)
    const offsetBytes = isWide ? 0 : PAGE_BYTES * prng.below(600)
    const lengthBytes = isWide ? Infinity : PAGE_BYTES * prng.between(1, 64)
    io.addFault({ kind, ...aim, errno, offsetBytes, lengthBytes })
  } else io.addFault({ kind, ...aim, errno })
}

/**
 * Damage now, or writes that a sync will answer for and the disk will not keep; of `onlyPath` what
 * is there now.
 */
export function playDamage(world: World, onlyPath?: string): void {
  const { prng, io } = world
  const kind = onlyPath === undefined ? prng.pick(DAMAGE_KINDS) : 'bit-rot'
  const path = onlyPath ?? prng.pick(DAMAGE_PATHS)
  world.note(`damage ${kind} ${path}`)
  if (kind !== 'bit-rot' && kind !== 'sector-rot') {
    io.addFault({ kind, path, skip: prng.below(4), times: prng.between(1, 3) })
    return
  }
  const files = [...io.disk.files()].filter(([name]) => name.includes(path))
  if (files.length === 0) return
  const pageCountMax = path === 'superblock' ? 1 : DAMAGED_PAGE_COUNT_MAX
  for (let count = prng.between(1, pageCountMax); count > 0; count -= 1) {
    const [name, { data }] = prng.pick(files)
    const pages = [...data.pageIndexes]
    if (pages.length === 0) continue
    const pageIndex = prng.pick(pages)
    const bytes = Uint8Array.from(data.page(pageIndex) ?? new Uint8Array(PAGE_BYTES))
    if (kind === 'bit-rot') bytes[prng.below(PAGE_BYTES)] ^= 1 << prng.below(8)
    else {
      const start = SECTOR_BYTES * prng.below(PAGE_BYTES / SECTOR_BYTES)
      bytes.fill(prng.pick([0, 0xff, 0x55]), start, start + SECTOR_BYTES)
    }
    io.disk.damage(kind, name, pageIndex, bytes)
  }
}

/** Everything is put back; what is read after is judged as ever once the pool was reopened. */
export function playRepair(world: World): void {
  world.note('repair')
  world.heal()
  world.io.disk.clearFaults()
}

/**
 * Somebody takes all of the disk but what the pool has set aside: whatever makes room, opening
 * and closing work all the same (I9).
 */
export async function playFull(
  world: World,
  play: (kind: StepKind) => Promise<void>,
): Promise<void> {
  const { disk } = world.io
  // Damage is no excuse here, nor is what it may refuse.
  if (world.isTainted) return
  if (!(await world.drive(world.io.list('/pool'))).includes(RESERVE_FOLDER)) return
  if ((await world.drive(world.io.list(`/pool/${RESERVE_FOLDER}`))).length < 4) return
  disk.clearFaults()
  disk.setCapacity(disk.usedBytes)
  world.staysFull = true
  try {
    for (let count = world.prng.between(1, 6); count > 0 && !world.hasFailed; count -= 1) {
      const kind = world.prng.pick(MAKES_ROOM)
      world.note(`full: ${kind}`)
      try {
        await play(kind)
      } catch (error) {
        if (!(error instanceof Crashed)) throw error
        await world.reopen()
      }
    }
  } finally {
    world.staysFull = false
  }
  world.giveRoom()
}

/** I10: a failed pool takes no writes, serves reads, says why; reopening recovers. */
export async function leaveFailed(world: World): Promise<void> {
  world.hasFailed = false
  world.stopImports()
  const pool = world.mustPool()
  const { prng } = world
  if (!world.isTainted) {
    const { failure } = await world.drive(pool.info())
    if (failure !== null) {
      world.note(`failed: ${failure}`)
      await expectSticky(world)
    } else if (world.owesFailure) {
      throw new SimViolation('a request was answered EIO, and the pool has not failed')
    }
  }
  const isLasting = world.isTainted && prng.chance(0.5)
  if (!isLasting) {
    world.heal()
    world.io.disk.clearFaults()
  }
  world.giveRoom()
  // What a failed sync left in the page cache only is still there for the next process to read.
  if (prng.chance(0.5)) {
    world.endProcess()
    throw new Crashed()
  }
  world.turnsLeft = 0
  if (prng.chance(0.5)) {
    world.cancelEnd()
    await world.endLongReads(null)
    await world.drive(pool.close().then(undefined, () => undefined))
    world.turnsLeft = 0
  }
  await world.drive(world.turns(1))
}

async function expectSticky(world: World): Promise<void> {
  // Asked of the pool: whether the operation that failed has happened is open.
  const pool = world.mustPool()
  const volumes = await world.drive(pool.volumes())
  const volume = volumes.find(({ sizeBytes }) => sizeBytes >= PAGE_BYTES)
  if (volume === undefined) return
  const { arena } = world.io
  const at = arena.allocate(PAGE_BYTES)
  const target = pool.openTarget(volume.name, 'sticky')
  if (target === null) throw new SimViolation(`${volume.name} cannot be opened`)
  const ask = (start: Parameters<typeof targetResult>[0]): Promise<number> =>
    world.drive(targetResult(start))
  const wrote = await ask((done) => target.write(0, PAGE_BYTES, at, 0, done, 0))
  if (wrote !== -Errno.EIO) throw new SimViolation(`a failed pool answered a write: ${wrote}`)
  const flushed = await ask((done) => target.flush(done, 0))
  if (flushed === 0) throw new SimViolation('a failed pool answered a flush with success')
  const read = await ask((done) => target.read(0, PAGE_BYTES, at, done, 0))
  if (read !== 0) throw new SimViolation(`a failed pool does not serve reads: ${read}`)
  target.close()
  arena.free(at, PAGE_BYTES)
}
