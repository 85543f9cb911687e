/** Random operations on the catalogue, each with what the model says must come of it. */
import type { Prng } from '../../src/base/prng.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import type { BulkImport } from '../../src/pool/types.ts'
import type { Contents } from './contents.ts'
import { cutSectors, withVolume, withoutVolume } from './model.ts'
import type { ModelSnapshot, ModelState, ModelVolume, Window } from './model.ts'
import { GEOMETRY_LETTERS, geometryByName, sizesOf } from './pool-under-test.ts'
import type { SimPool } from './pool-under-test.ts'
import { SECTORS_PER_BLOCK, SECTOR_BYTES, writeStamp } from './stamps.ts'

export type ControlKind =
  | 'create'
  | 'import'
  | 'snapshot'
  | 'clone'
  | 'restore'
  | 'remove'
  | 'rename'
  | 'resize'
  | 'copy'
  | 'hold'
  | 'release'

export interface ControlOperation {
  title: string
  /** The state when it has happened; null when it must be refused with `code`. */
  after: ModelState | null
  code: string | null
  /** Volumes that no client may have open meanwhile. */
  closes: string[]
  /** Answered when it is durable; otherwise when it is in the log. */
  isDurable: boolean
  run(pool: SimPool): Promise<unknown>
}

interface Draw {
  prng: Prng
  state: ModelState
  contents: Contents
}

/** Enough names to meet again, few enough to stay small. */
const NAMES_PER_GEOMETRY = 3
const SNAPSHOT_NAMES = ['s1', 's2', 's3', 's4']
const VOLUME_COUNT_MAX = 6
const LEAF_BLOCK_COUNT = 512
const WHOLE_IMPORT_CHANCE = 0.4

function accepted(
  title: string,
  after: ModelState,
  run: ControlOperation['run'],
  closes: string[] = [],
): ControlOperation {
  return { title, after, code: null, closes, isDurable: true, run }
}

function refused(title: string, code: string, run: ControlOperation['run']): ControlOperation {
  return { title, after: null, code, closes: [], isDurable: true, run }
}

function drawName(prng: Prng, letter?: string): string {
  return `${letter ?? prng.pick(GEOMETRY_LETTERS)}${prng.between(1, NAMES_PER_GEOMETRY)}`
}

function drawVolume({ prng, state }: Draw): ModelVolume | null {
  const volumes = [...state.values()]
  return volumes.length === 0 ? null : prng.pick(volumes)
}

function drawSnapshot({ prng, state }: Draw): [ModelVolume, ModelSnapshot] | null {
  const all = [...state.values()].flatMap((volume) =>
    volume.snapshots.map((snapshot): [ModelVolume, ModelSnapshot] => [volume, snapshot]),
  )
  return all.length === 0 ? null : prng.pick(all)
}

function emptyVolume(name: string, sizeBytes: number): ModelVolume {
  const geometry = geometryByName(name)
  const sectors = new Uint32Array(geometry.sectorCount)
  return { name, sizeBytes, geometry, sectors, holds: [], snapshots: [] }
}

function drawCreate({ prng, state }: Draw): ControlOperation | null {
  const name = drawName(prng)
  const sizeBytes = prng.pick(sizesOf(geometryByName(name)))
  const title = `create ${name} ${sizeBytes}`
  const run = (pool: SimPool): Promise<unknown> => pool.create({ name, sizeBytes })
  if (state.has(name)) return refused(title, 'exists', run)
  if (state.size >= VOLUME_COUNT_MAX) return null
  return accepted(title, withVolume(state, emptyVolume(name, sizeBytes)), run)
}

/** A volume to be filled outside the log, and what with. */
export interface ImportBody {
  volume: ModelVolume
  pieces: readonly { offsetBytes: number; bytes: Uint8Array }[]
}

/**
 * Every window in pieces, some of them skipped, some of them zeros; or each as one piece, as an
 * image is that was never written to in between: what is new in it takes huge entries.
 */
export function drawImportBody({ prng, state, contents }: Draw): ImportBody | null {
  const name = [drawName(prng), drawName(prng), drawName(prng)].find((one) => !state.has(one))
  if (name === undefined || state.size >= VOLUME_COUNT_MAX) return null
  const geometry = geometryByName(name)
  const volume = emptyVolume(name, Math.max(...sizesOf(geometry)))
  const pieces: { offsetBytes: number; bytes: Uint8Array }[] = []
  const isWhole = prng.chance(WHOLE_IMPORT_CHANCE)
  for (const window of geometry.windows) {
    let block = 0
    while (block < window.blockCount) {
      const left = window.blockCount - block
      const count = isWhole ? left : Math.min(prng.between(1, 64), left)
      const bytes = new Uint8Array(count * BLOCK_SIZE_BYTES)
      const stamps = contents.draw(count)
      volume.sectors.set(stamps, window.sectorIndex + block * SECTORS_PER_BLOCK)
      for (const [index, stamp] of stamps.entries()) writeStamp(bytes, index * SECTOR_BYTES, stamp)
      pieces.push({ offsetBytes: (window.startBlock + block) * BLOCK_SIZE_BYTES, bytes })
      block += count
      while (!isWhole && prng.chance(0.2)) block += 1
    }
  }
  return { volume, pieces }
}

function drawImport(draw: Draw): ControlOperation | null {
  const body = drawImportBody(draw)
  return body === null ? null : importOf(draw.state, body, draw.prng.chance(0.2))
}

export function importOf(
  state: ModelState,
  body: ImportBody,
  isAborted: boolean,
): ControlOperation {
  const { name, sizeBytes } = body.volume
  const run = async (pool: SimPool): Promise<unknown> => {
    const bulk = await pool.beginImport({ name, sizeBytes })
    try {
      for (const { offsetBytes, bytes } of body.pieces) await bulk.write(offsetBytes, bytes)
      return isAborted ? await bulk.abort() : await bulk.commit()
    } catch (error) {
      // As everyone does: what an import that failed refers to is live until it is given up.
      await bulk.abort()
      throw error
    }
  }
  const title = `import ${name}${isAborted ? ' aborted' : ''}`
  const after = isAborted ? state : withVolume(state, body.volume)
  // An abort syncs nothing of what others wrote before it.
  return { ...accepted(title, after, run), isDurable: !isAborted }
}

/** An import of the same as another, under a name that is free; null: there is none. */
export function importAgain(state: ModelState, { volume, pieces }: ImportBody): ImportBody | null {
  const name = freeName(state, volume.name[0])
  return name === null ? null : { volume: { ...volume, name }, pieces }
}

/** Of a volume with the geometry that `letter` stands for; null: all are taken. */
export function freeName(state: ModelState, letter: string): string | null {
  if (state.size >= VOLUME_COUNT_MAX) return null
  for (let number = 1; number <= NAMES_PER_GEOMETRY; number += 1) {
    if (!state.has(`${letter}${number}`)) return `${letter}${number}`
  }
  return null
}

export function createOf(state: ModelState, name: string): ControlOperation {
  const sizeBytes = Math.max(...sizesOf(geometryByName(name)))
  const after = withVolume(state, emptyVolume(name, sizeBytes))
  return accepted(`create ${name} ${sizeBytes}`, after, (pool) => pool.create({ name, sizeBytes }))
}

export function removeOf(state: ModelState, name: string): ControlOperation {
  const run = (pool: SimPool): Promise<unknown> =>
    pool.remove({ names: [name], recursive: true, dryRun: false })
  return accepted(`remove ${name} recursive`, withoutVolume(state, name), run, [name])
}

export function snapshotOf(state: ModelState, name: string, snapshot: string): ControlOperation {
  const after = withSnapshot(state, state.get(name) as ModelVolume, snapshot)
  const names = [`${name}@${snapshot}`]
  return accepted(`snapshot ${names}`, after, (pool) => pool.snapshot(names))
}

/** The end of an import that went on beside other steps, which may have taken its name. */
export function commitOf(state: ModelState, body: ImportBody, bulk: BulkImport): ControlOperation {
  const { name } = body.volume
  const title = `commit ${name}`
  const run = (): Promise<unknown> => bulk.commit()
  if (state.has(name)) return refused(title, 'exists', run)
  return accepted(title, withVolume(state, body.volume), run)
}

function withSnapshot(state: ModelState, volume: ModelVolume, name: string): ModelState {
  const { sizeBytes, sectors } = volume
  const snapshots = [...volume.snapshots, { name, sizeBytes, sectors, holds: [] }]
  return withVolume(state, { ...volume, snapshots })
}

/** One to three volumes at once, all or nothing. */
function drawSnapshots(draw: Draw): ControlOperation | null {
  const { prng, state } = draw
  const volumes = [...state.values()]
  if (volumes.length === 0) return null
  prng.shuffle(volumes)
  const chosen = volumes.slice(0, prng.between(1, 3))
  const snapshot = prng.pick(SNAPSHOT_NAMES)
  const names = chosen.map((volume) => `${volume.name}@${snapshot}`)
  const title = `snapshot ${names}`
  const run = (pool: SimPool): Promise<unknown> => pool.snapshot(names)
  if (chosen.some((volume) => volume.snapshots.some((one) => one.name === snapshot))) {
    return refused(title, 'exists', run)
  }
  let after = state
  for (const volume of chosen) after = withSnapshot(after, volume, snapshot)
  return accepted(title, after, run)
}

function drawClone(draw: Draw): ControlOperation | null {
  const { prng, state } = draw
  const pair = prng.chance(0.7) ? drawSnapshot(draw) : null
  const volume = pair === null ? drawVolume(draw) : pair[0]
  if (volume === null || state.size >= VOLUME_COUNT_MAX) return null
  const { sizeBytes, sectors } = pair === null ? volume : pair[1]
  const source = pair === null ? volume.name : `${volume.name}@${pair[1].name}`
  const wanted = [drawName(prng, volume.name[0]), drawName(prng, volume.name[0])]
  const names = [...new Set(wanted.slice(0, prng.between(1, 2)))]
  const title = `clone ${source} ${names}`
  const run = (pool: SimPool): Promise<unknown> => pool.clone(source, names)
  if (names.some((name) => state.has(name))) return refused(title, 'exists', run)
  let after = state
  for (const name of names) {
    after = withVolume(after, { ...volume, name, sizeBytes, sectors, holds: [], snapshots: [] })
  }
  return accepted(title, after, run)
}

function drawRestore(draw: Draw): ControlOperation | null {
  const pair = drawSnapshot(draw)
  if (pair === null) return null
  return restoreOf(draw.state, pair[0].name, pair[1])
}

export function restoreOf(
  state: ModelState,
  volumeName: string,
  snapshot: ModelSnapshot,
): ControlOperation {
  const { sizeBytes, sectors } = snapshot
  const name = `${volumeName}@${snapshot.name}`
  const after = withVolume(state, { ...(state.get(volumeName) as ModelVolume), sizeBytes, sectors })
  return accepted(`restore ${name}`, after, (pool) => pool.restore(name), [volumeName])
}

function drawRemove(draw: Draw): ControlOperation | null {
  const { prng, state } = draw
  const pair = prng.chance(0.6) ? drawSnapshot(draw) : null
  const volume = pair === null ? drawVolume(draw) : pair[0]
  if (volume === null) return null
  const name = pair === null ? volume.name : `${volume.name}@${pair[1].name}`
  const recursive = prng.chance(0.5)
  const title = `remove ${name}${recursive ? ' recursive' : ''}`
  const run = (pool: SimPool): Promise<unknown> =>
    pool.remove({ names: [name], recursive, dryRun: false })
  if (pair !== null) {
    if (pair[1].holds.length > 0) return refused(title, 'busy', run)
    const snapshots = volume.snapshots.filter((one) => one !== pair[1])
    return accepted(title, withVolume(state, { ...volume, snapshots }), run)
  }
  const isHeld =
    volume.holds.length > 0 || volume.snapshots.some((snapshot) => snapshot.holds.length > 0)
  const isRefused = isHeld || (!recursive && volume.snapshots.length > 0)
  const closes = [name]
  return {
    title,
    after: withoutVolume(state, name),
    code: null,
    closes,
    isDurable: true,
    run,
    ...refusal(isRefused),
  }
}

function refusal(isRefused: boolean): Partial<ControlOperation> {
  return isRefused ? { after: null, code: 'busy' } : {}
}

function drawRename(draw: Draw): ControlOperation | null {
  const { prng, state } = draw
  const pair = prng.chance(0.5) ? drawSnapshot(draw) : null
  if (pair !== null) {
    const [volume, snapshot] = pair
    const name = prng.pick(SNAPSHOT_NAMES)
    const [from, to] = [`${volume.name}@${snapshot.name}`, `${volume.name}@${name}`]
    if (from === to) return null
    const run = (pool: SimPool): Promise<unknown> => pool.rename(from, to)
    const title = `rename ${from} ${to}`
    if (volume.snapshots.some((one) => one.name === name)) return refused(title, 'exists', run)
    const snapshots = volume.snapshots.map((one) => (one === snapshot ? { ...one, name } : one))
    return accepted(title, withVolume(state, { ...volume, snapshots }), run)
  }
  const volume = drawVolume(draw)
  if (volume === null) return null
  const name = drawName(prng, volume.name[0])
  if (name === volume.name) return null
  const title = `rename ${volume.name} ${name}`
  const run = (pool: SimPool): Promise<unknown> => pool.rename(volume.name, name)
  if (state.has(name)) return refused(title, 'exists', run)
  const after = withVolume(withoutVolume(state, volume.name), { ...volume, name })
  return accepted(title, after, run, [volume.name])
}

function drawResize(draw: Draw): ControlOperation | null {
  const volume = drawVolume(draw)
  if (volume === null) return null
  const { name } = volume
  const sizeBytes = draw.prng.pick(sizesOf(volume.geometry))
  if (sizeBytes === volume.sizeBytes) return null
  const sectors = sizeBytes < volume.sizeBytes ? cutSectors(volume, sizeBytes) : volume.sectors
  const after = withVolume(draw.state, { ...volume, sizeBytes, sectors })
  const title = `resize ${name} ${sizeBytes}`
  return accepted(title, after, (pool) => pool.resize(name, sizeBytes, true), [name])
}

/** Where a copy begins or ends up: blocks of one window. */
function drawBlocks(prng: Prng, volume: ModelVolume): { window: Window; first: number } {
  const window = prng.pick(volume.geometry.windows)
  return { window, first: prng.below(window.blockCount) }
}

/**
 * Blocks of one leaf of the source, which is one record: it has happened or it has not. Longer
 * copies are several, one after the other.
 */
function drawCopy(draw: Draw): ControlOperation | null {
  const { prng } = draw
  const pair = prng.chance(0.4) ? drawSnapshot(draw) : null
  const source = pair === null ? drawVolume(draw) : pair[0]
  return drawCopyOf(draw, source, pair)
}

/** A copy of what the source shows, or of one of its snapshots. */
export function drawCopyOf(
  draw: Draw,
  source: ModelVolume | null,
  pair: [ModelVolume, ModelSnapshot] | null,
): ControlOperation | null {
  const { prng, state } = draw
  const target = drawVolume(draw)
  if (source === null || target === null) return null
  const { sizeBytes, sectors } = pair === null ? source : pair[1]
  const from = drawBlocks(prng, source)
  const to = drawBlocks(prng, target)
  const fromBlock = from.window.startBlock + from.first
  const toBlock = to.window.startBlock + to.first
  const wanted = prng.between(1, prng.pick([1, 8, 64, 512]))
  const count = Math.min(
    wanted,
    from.window.blockCount - from.first,
    to.window.blockCount - to.first,
    LEAF_BLOCK_COUNT - (fromBlock % LEAF_BLOCK_COUNT),
    Math.floor(sizeBytes / BLOCK_SIZE_BYTES) - fromBlock,
    Math.floor(target.sizeBytes / BLOCK_SIZE_BYTES) - toBlock,
  )
  if (count <= 0) return null
  const name = pair === null ? source.name : `${source.name}@${pair[1].name}`
  const title = `copy ${name} ${fromBlock}+${count} to ${target.name} ${toBlock}`
  const run = (pool: SimPool): Promise<unknown> => {
    const fromId = mustId(pool, source.name, pair === null ? null : pair[1].name)
    const lengthBytes = count * BLOCK_SIZE_BYTES
    const [fromBytes, toBytes] = [fromBlock * BLOCK_SIZE_BYTES, toBlock * BLOCK_SIZE_BYTES]
    const toId = mustId(pool, target.name, null)
    return pool.files.copyRange({ fromId, fromBytes, toId, toBytes, lengthBytes })
  }
  const isSame = pair === null && source === target
  if (isSame && Math.abs(fromBlock - toBlock) < count) return refused(title, 'unsupported', run)
  const copied = Uint32Array.from(target.sectors)
  const start = from.window.sectorIndex + from.first * SECTORS_PER_BLOCK
  const part = sectors.slice(start, start + count * SECTORS_PER_BLOCK)
  copied.set(part, to.window.sectorIndex + to.first * SECTORS_PER_BLOCK)
  const after = withVolume(state, { ...target, sectors: copied })
  return { ...accepted(title, after, run), isDurable: false }
}

export function mustId(pool: SimPool, volume: string, snapshot: string | null): number {
  const found = pool.files.tryVolume(volume)
  const entry =
    snapshot === null || found === null ? found : pool.files.trySnapshot(found.id, snapshot)
  if (entry === null) throw new Error(`there is no ${volume} ${snapshot}`)
  return entry.id
}

function drawHold(draw: Draw): ControlOperation | null {
  const pair = drawSnapshot(draw)
  if (pair === null) return null
  const [volume, snapshot] = pair
  if (snapshot.holds.includes('kept')) return null
  return holdsChange(draw.state, volume, snapshot, true)
}

function drawRelease(draw: Draw): ControlOperation | null {
  const held = [...draw.state.values()].flatMap((volume) =>
    volume.snapshots
      .filter((snapshot) => snapshot.holds.length > 0)
      .map((snapshot): [ModelVolume, ModelSnapshot] => [volume, snapshot]),
  )
  if (held.length === 0) return null
  const [volume, snapshot] = draw.prng.pick(held)
  return holdsChange(draw.state, volume, snapshot, false)
}

function holdsChange(
  state: ModelState,
  volume: ModelVolume,
  snapshot: ModelSnapshot,
  isHeld: boolean,
): ControlOperation {
  const name = `${volume.name}@${snapshot.name}`
  const holds = isHeld ? ['kept'] : []
  const snapshots = volume.snapshots.map((one) => (one === snapshot ? { ...one, holds } : one))
  return accepted(
    `${isHeld ? 'hold' : 'release'} ${name}`,
    withVolume(state, { ...volume, snapshots }),
    (pool) => (isHeld ? pool.hold(name, 'kept') : pool.release(name, 'kept')),
  )
}

const DRAWERS: Record<ControlKind, (draw: Draw) => ControlOperation | null> = {
  create: drawCreate,
  import: drawImport,
  snapshot: drawSnapshots,
  clone: drawClone,
  restore: drawRestore,
  remove: drawRemove,
  rename: drawRename,
  resize: drawResize,
  copy: drawCopy,
  hold: drawHold,
  release: drawRelease,
}

/** An operation of `kind`, or null when the state offers nothing to do it to. */
export function drawControl(kind: ControlKind, draw: Draw): ControlOperation | null {
  return DRAWERS[kind](draw)
}

/** A length that a file may be cut or grown to, as often as not within a block. */
export function drawLength(prng: Prng, volume: ModelVolume): number {
  const { geometry } = volume
  if (prng.chance(0.3)) return prng.pick(sizesOf(geometry))
  const { startBlock, blockCount } = prng.pick(geometry.windows)
  return (
    (startBlock * SECTORS_PER_BLOCK + prng.below(blockCount * SECTORS_PER_BLOCK)) * SECTOR_BYTES
  )
}
