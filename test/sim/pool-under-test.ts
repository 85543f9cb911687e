/** What the simulation needs of a pool, and how it reads all of one back into the model's terms. */
import { Errno } from '../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, TIB } from '../../src/base/units.ts'
import type { ExportTarget, TargetCompletion } from '../../src/export/target.ts'
import type { Arena } from '../../src/io/arena.ts'
import type { Io } from '../../src/io/io.ts'
import type { SimDisk } from '../../src/io/sim-disk.ts'
import type { PoolFiles } from '../../src/pool/pool-files.ts'
import type { PoolOperations } from '../../src/pool/types.ts'
import { blocksWithin, geometryOf } from './model.ts'
import type { Geometry, ModelBlock, ModelSnapshot, ModelState, ModelVolume } from './model.ts'
import type { PoolWalk } from './pool-walk.ts'
import { SECTORS_PER_BLOCK, SECTOR_BYTES, STAMP_UNREADABLE, readStamp } from './stamps.ts'

export interface SimPool extends PoolOperations {
  readonly files: PoolFiles
  openTarget(name: string, client: string): ExportTarget | null
  checkpoint(): Promise<unknown>
  close(): Promise<unknown>
}

export interface PoolMaker {
  /** What reads met that did not match its checksum, since the maker was made. */
  readonly damage: string[]
  create(io: Io): Promise<SimPool>
  open(io: Io): Promise<SimPool>
  /** Judges a closed or crashed pool offline; complaints, none when it is sound. */
  check(io: Io): Promise<string[]>
  /** The segment in which a recovery begins to replay; absent where nothing is replayed. */
  tailSegment?(disk: SimDisk): number
  /** The pool settles by itself when guests are idle. */
  readonly isIdleSettling?: boolean
  /** Looks at all that a closed pool holds; absent where there is nothing like that to look at. */
  walk?(disk: SimDisk): PoolWalk
}

/** Read at once: 64 blocks. */
const RUN_SECTOR_COUNT = 512
const FAR_BLOCKS = (64 * TIB) / BLOCK_SIZE_BYTES

/** The first letter of a volume's name says which parts of it are modelled. */
const GEOMETRIES: Record<string, Geometry> = {
  a: geometryOf([[0, 64]]),
  b: geometryOf([[0, 600]]),
  // Both ends, the seams of every level of the map, and a place in the middle of nowhere.
  f: geometryOf([
    [0, 16],
    [2 ** 9 - 8, 16],
    [2 ** 18 - 8, 16],
    [2 ** 27 - 8, 16],
    [11_111_111_111, 16],
    [FAR_BLOCKS - 16, 16],
  ]),
}

export const GEOMETRY_LETTERS: readonly string[] = Object.keys(GEOMETRIES)

export function geometryByName(name: string): Geometry {
  const geometry = GEOMETRIES[name[0]]
  if (geometry === undefined) throw new Error(`a volume that nobody made: ${name}`)
  return geometry
}

/** Sizes that a volume of this geometry may have: ends and middles of its windows. */
export function sizesOf(geometry: Geometry): number[] {
  return geometry.windows.flatMap(({ startBlock, blockCount }) => [
    (startBlock + blockCount) * BLOCK_SIZE_BYTES,
    (startBlock + Math.ceil(blockCount / 2)) * BLOCK_SIZE_BYTES,
  ])
}

/** A promise for one operation of a target. */
export function targetResult(start: (completion: TargetCompletion) => void): Promise<number> {
  return new Promise((resolve) => {
    start({ targetComplete: (_tag, result) => resolve(result) })
  })
}

async function readSectors(
  arena: Arena,
  target: ExportTarget,
  geometry: Geometry,
  mayFail: () => boolean,
): Promise<Uint32Array> {
  const sectors = new Uint32Array(geometry.sectorCount)
  let runs: ModelBlock[] = []
  for (const block of blocksWithin(geometry, target.sizeBytes)) {
    const last = runs.at(-1)
    const isNext =
      last !== undefined &&
      last.blockIndex + last.sectorCount / SECTORS_PER_BLOCK === block.blockIndex
    if (isNext && last.sectorCount < RUN_SECTOR_COUNT) last.sectorCount += block.sectorCount
    else runs.push(block)
  }
  while (runs.length > 0) {
    const run = runs.pop() as ModelBlock
    const { modelBlock, blockIndex, sectorCount } = run
    const lengthBytes = sectorCount * SECTOR_BYTES
    const at = arena.allocate(lengthBytes)
    if (at < 0) throw new Error('the arena leaked: no room to read')
    // What the target leaves untouched must not pass for an answer.
    arena.memory.fill(0xee, at, at + lengthBytes)
    const offsetBytes = blockIndex * BLOCK_SIZE_BYTES
    const result = await targetResult((done) => target.read(offsetBytes, lengthBytes, at, done, 0))
    if (result === -Errno.EIO && mayFail()) {
      arena.free(at, lengthBytes)
      if (sectorCount > SECTORS_PER_BLOCK) runs = [...runs, ...halvesOf(run)]
      else markUnreadable(sectors, modelBlock)
      continue
    }
    if (result !== 0) throw new Error(`${target.name}: reading block ${blockIndex} gave ${result}`)
    for (let index = 0; index < sectorCount; index += 1) {
      const stamp = readStamp(arena.memory, at + index * SECTOR_BYTES)
      sectors[modelBlock * SECTORS_PER_BLOCK + index] = stamp
    }
    arena.free(at, lengthBytes)
  }
  return sectors
}

function markUnreadable(sectors: Uint32Array, modelBlock: number): void {
  const start = modelBlock * SECTORS_PER_BLOCK
  sectors.fill(STAMP_UNREADABLE, start, start + SECTORS_PER_BLOCK)
}

/** One block that is damaged must not hide its neighbours. */
function halvesOf({ modelBlock, blockIndex, sectorCount }: ModelBlock): ModelBlock[] {
  const blocks = Math.floor(sectorCount / SECTORS_PER_BLOCK / 2) || 1
  const half = blocks * SECTORS_PER_BLOCK
  return [
    { modelBlock, blockIndex, sectorCount: half },
    {
      modelBlock: modelBlock + blocks,
      blockIndex: blockIndex + blocks,
      sectorCount: sectorCount - half,
    },
  ]
}

/** Content of one disk; where it `mayFail`, what gives EIO is {@link STAMP_UNREADABLE}. */
export async function readDisk(
  io: Io,
  pool: SimPool,
  name: string,
  geometry: Geometry,
  mayFail: () => boolean,
): Promise<Uint32Array> {
  const target = pool.openTarget(name, 'reader')
  if (target === null) throw new Error(`${name} is listed and cannot be opened`)
  const sectors = await readSectors(io.arena, target, geometry, mayFail)
  target.close()
  return sectors
}

/** Everything the pool holds, read the way a guest reads. */
export async function readState(
  io: Io,
  pool: SimPool,
  mayFail: () => boolean = () => false,
): Promise<ModelState> {
  const state = new Map<string, ModelVolume>()
  for (const { name, sizeBytes, holds, snapshots: infos } of await pool.volumes()) {
    const geometry = geometryByName(name)
    const snapshots: ModelSnapshot[] = []
    for (const info of infos) {
      const sectors = await readDisk(io, pool, info.name, geometry, mayFail)
      snapshots.push({
        name: info.snapshot,
        sizeBytes: info.sizeBytes,
        sectors,
        holds: [...info.holds],
      })
    }
    const sectors = await readDisk(io, pool, name, geometry, mayFail)
    state.set(name, { name, sizeBytes, geometry, sectors, holds: [...holds], snapshots })
  }
  return state
}
