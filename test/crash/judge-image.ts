/** Opens what a power cut left, as after a power cut, and says what is wrong with it. */
import { rm } from 'node:fs/promises'
import { Prng } from '../../src/base/prng.ts'
import { WRITE_FUA, targetResult } from '../../src/export/target.ts'
import type { ExportTarget } from '../../src/export/target.ts'
import { allocateArena } from '../../src/io/arena.ts'
import type { Io } from '../../src/io/io.ts'
import { checkPool } from '../../src/check/check.ts'
import type { Host } from '../../src/daemon/host.ts'
import { Pool } from '../../src/pool/pool.ts'
import { BLOCK_BYTES, readFound, writeContent } from './block-contents.ts'
import { CutDisk, CutFile } from './cut-disk.ts'
import type { Entry } from './cut-disk.ts'
import { cutImage, drawStyle, writeImage } from './cut-image.ts'
import type { CutStyle, Image } from './cut-image.ts'
import type { Ledger } from './ledger.ts'
import { PowerTrace } from './power-trace.ts'
import { TappedIo } from './tapped-io.ts'

/** A content that no trace uses. */
const PROBE_CONTENT = 999

export interface JudgeRequest {
  host: Host
  image: Image
  /** New; removed again when nothing is wrong. */
  folder: string
  ledger: Ledger
  /** Moment of the cut. */
  at: number
}

/** Throws with what is wrong; the folder then stays. */
export async function judgeImage(request: JudgeRequest): Promise<void> {
  const { host, image, folder } = request
  await writeImage(host.io, image, folder)
  await mustBeClean(host, folder, 'before it was opened')
  await openAndJudge(host, host.io, request, true)
  await mustBeClean(host, folder, 'after it was used')
  await rm(folder, { recursive: true })
}

/** A second cut, while the image of the first is being opened and closed. */
export async function cutAgain(
  request: JudgeRequest,
  seed: number,
): Promise<{ image: Image; style: CutStyle }> {
  const { host, image, folder } = request
  await writeImage(host.io, image, folder)
  const numbers = new Map([...image.files.keys()].map((path, i) => [path, i + 1]))
  const trace = new PowerTrace(folder, numbers)
  await openAndJudge(host, new TappedIo(host.io, trace), request, false)
  await rm(folder, { recursive: true })
  const prng = new Prng(seed)
  const disk = new CutDisk(trace.entries, durableEntries(image, numbers))
  const cutAt = prng.below(trace.entries.length + 1)
  disk.advance(cutAt)
  const style = drawStyle(prng)
  return { image: cutImage(disk, cutAt, style, prng), style }
}

function durableEntries(image: Image, numbers: ReadonlyMap<string, number>): Map<string, Entry> {
  const entries = new Map<string, Entry>()
  for (const path of image.folders) entries.set(path, { kind: 'folder' })
  for (const [path, { sizeBytes, pages, allottedBytes }] of image.files) {
    const file = new CutFile(numbers.get(path) ?? 0)
    file.sizes = [{ at: -1, sizeBytes }]
    file.allottedBytes = allottedBytes
    for (const [index, bytes] of pages) file.pages.set(index, [{ at: -1, bytes, punch: null }])
    entries.set(path, { kind: 'file', file })
  }
  return entries
}

async function mustBeClean(
  { io, checksum, codecs }: Host,
  folder: string,
  when: string,
): Promise<void> {
  const { errors } = await checkPool(io, checksum, codecs, folder)
  if (errors.length === 0) return
  const texts = errors.slice(0, 5).map(({ code, where, message }) => `${code} ${where}: ${message}`)
  throw new Error(`check ${when}: ${texts.join('; ')}`)
}

async function openAndJudge(
  { checksum, codecs }: Host,
  io: Io,
  { folder, ledger, at }: JudgeRequest,
  isUsed: boolean,
): Promise<void> {
  const damage: string[] = []
  const onDamage = (segment: number, slot: number, fact: string): void => {
    damage.push(`${segment}:${slot} ${fact}`)
  }
  const pool = await Pool.open(io, checksum, folder, { holder: 'judge', codecs, onDamage })
  try {
    const fault = ledger.findFault(at, await readFound(io, pool), 'power')
    if (fault !== null) throw new Error(fault)
    if (damage.length > 0) throw new Error(`damaged blocks: ${damage.join(', ')}`)
    const volumes = pool.list().filter(({ readOnly }) => isUsed && !readOnly)
    for (const { name } of volumes) await use(io, pool, name)
  } finally {
    await pool.close()
  }
}

/** A write, a flush and a read of it. */
async function use(io: Io, pool: Pool, name: string): Promise<void> {
  const target = pool.openTarget(name, 'judge')
  if (target === null) throw new Error(`${name} cannot be opened`)
  const at = await allocateArena(io.arena, BLOCK_BYTES)
  try {
    writeContent(io.arena.memory, at, PROBE_CONTENT)
    await mustSucceed(target, 'write', (done) => {
      target.write(0, BLOCK_BYTES, at, WRITE_FUA, done, 0)
    })
    await mustSucceed(target, 'flush', (done) => target.flush(done, 0))
  } finally {
    io.arena.free(at, BLOCK_BYTES)
    target.close()
  }
}

async function mustSucceed(
  target: ExportTarget,
  verb: string,
  start: Parameters<typeof targetResult>[0],
): Promise<void> {
  const result = await targetResult(start)
  if (result !== 0) throw new Error(`${target.name}: a ${verb} after the cut gave ${result}`)
}
