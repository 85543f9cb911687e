/**
 * Any operations on a file, many in flight at once, next to a plain model of it: what can be asked
 * of a filesystem over any tree.
 */
import fc from 'fast-check'
import { FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE } from '../../src/export/fuse/operations.ts'
import type { FilesystemDriver, Range } from './filesystem-rig.ts'
import { pattern } from './filesystem-rig.ts'

const BLOCK = 4096

/** A file as a plain array of bytes and of blocks that are no holes. */
class ModelFile {
  bytes: Buffer = Buffer.alloc(0)
  blocks = new Set<number>()

  resize(sizeBytes: number): void {
    const bytes = Buffer.alloc(sizeBytes)
    this.bytes.copy(bytes)
    this.bytes = bytes
    for (const block of this.blocks) if (block * BLOCK >= sizeBytes) this.blocks.delete(block)
  }

  grow(sizeBytes: number): void {
    if (sizeBytes > this.bytes.length) this.resize(sizeBytes)
  }

  write(offset: number, bytes: Buffer): void {
    this.grow(offset + bytes.length)
    bytes.copy(this.bytes, offset)
    const last = Math.floor((offset + bytes.length - 1) / BLOCK)
    for (let block = Math.floor(offset / BLOCK); block <= last; block += 1) this.blocks.add(block)
  }

  /** Whole blocks become holes, or zeros that are none. */
  clear(offset: number, length: number, isHole: boolean): void {
    const end = Math.min(offset + length, this.bytes.length)
    if (end > offset) this.bytes.fill(0, offset, end)
    for (let block = Math.ceil(offset / BLOCK); (block + 1) * BLOCK <= end; block += 1) {
      if (isHole) this.blocks.delete(block)
      else this.blocks.add(block)
    }
  }

  copy(from: number, to: number, length: number): void {
    this.grow(to + length)
    this.bytes.copy(this.bytes, to, from, from + length)
    for (let i = 0; i < length / BLOCK; i += 1) {
      if (this.blocks.has(from / BLOCK + i)) this.blocks.add(to / BLOCK + i)
      else this.blocks.delete(to / BLOCK + i)
    }
  }
}

interface Step {
  kind: 'write' | 'punch' | 'zero' | 'zero-keep' | 'truncate'
  offset: number
  length: number
}

const LIMIT = 30 * BLOCK
const length = fc.integer({ min: 1, max: 3 * BLOCK })
const offset = fc.oneof(
  fc.integer({ min: 0, max: LIMIT }),
  fc.integer({ min: 0, max: 30 }).map((block) => block * BLOCK),
)
const anyKind = fc.constantFrom<Step['kind']>('write', 'write', 'punch', 'zero', 'zero-keep')
/** All in flight at once, in ranges apart from each other. */
const apart = fc
  .array(fc.record({ kind: anyKind, offset, length }), { minLength: 1, maxLength: 12 })
  .map((steps) => steps.filter((step, i) => steps.slice(0, i).every((s) => !overlaps(s, step))))
/** Growths and truncations in flight at once, which take effect as they came. */
const resizing = fc.array(
  fc.record({ kind: fc.constantFrom<Step['kind']>('write', 'truncate'), offset, length }),
  { minLength: 2, maxLength: 10 },
)
const block = fc.nat(30)
const copying = fc.record({ from: block, to: block, count: fc.integer({ min: 1, max: 8 }) })

export type Batch =
  | { kind: 'apart'; steps: Step[] }
  | { kind: 'resizing'; steps: Step[] }
  | { kind: 'copy'; from: number; to: number; count: number }

export const batches: fc.Arbitrary<Batch[]> = fc.array(
  fc.oneof(
    apart.map((steps) => ({ kind: 'apart' as const, steps })),
    resizing.map((steps) => ({ kind: 'resizing' as const, steps })),
    copying.map((copy) => ({ kind: 'copy' as const, ...copy })),
  ),
  { minLength: 1, maxLength: 12 },
)

/** Whether they touch a block in common: two that do may come in any order. */
function overlaps(a: Step, b: Step): boolean {
  const first = (step: Step): number => Math.floor(step.offset / BLOCK)
  const last = (step: Step): number => Math.floor((step.offset + step.length - 1) / BLOCK)
  return first(a) <= last(b) && first(b) <= last(a)
}

interface Bench {
  rig: FilesystemDriver
  node: number
  handle: number
  model: ModelFile
}

async function start({ rig, node, handle }: Bench, step: Step, seed: number): Promise<void> {
  const { kind, offset, length } = step
  switch (kind) {
    case 'write': {
      const result = await rig.write(handle, offset, pattern(length, seed))
      if (result !== 0) throw new Error(`write: ${result}`)
      return
    }
    case 'punch':
      return rig.punch(handle, offset, length)
    case 'zero':
      return rig.files.allocate(handle, FALLOC_ZERO_RANGE, offset, length)
    case 'zero-keep':
      return rig.files.allocate(handle, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, offset, length)
    case 'truncate':
      await rig.files.change(node, { sizeBytes: offset })
  }
}

function apply(model: ModelFile, { kind, offset, length }: Step, seed: number): void {
  if (kind === 'write') model.write(offset, pattern(length, seed))
  else if (kind === 'truncate') model.resize(offset)
  else {
    if (kind === 'zero') model.grow(offset + length)
    model.clear(offset, length, kind === 'punch')
  }
}

async function runSteps(bench: Bench, steps: readonly Step[]): Promise<void> {
  const works = steps.map((step, i) => start(bench, step, i))
  // What is punched or zeroed is cut at the end there was when it was asked.
  const isCut = ({ kind }: Step): boolean => kind === 'punch' || kind === 'zero-keep'
  steps.forEach((step, i) => isCut(step) && apply(bench.model, step, i))
  steps.forEach((step, i) => !isCut(step) && apply(bench.model, step, i))
  await Promise.all(works)
}

async function runBatch(bench: Bench, batch: Batch): Promise<void> {
  const { rig, handle, model } = bench
  if (batch.kind === 'apart') await runSteps(bench, batch.steps)
  else if (batch.kind === 'resizing') {
    const sizeBytes = model.bytes.length
    // A write inside the end does not wait for a truncation asked before.
    const isOrdered = (step: Step): boolean =>
      step.kind === 'truncate' || step.offset + step.length > sizeBytes
    await runSteps(bench, batch.steps.filter(isOrdered))
  } else {
    const { from, to, count } = batch
    const asked = Math.min(count * BLOCK, Math.max(0, model.bytes.length - from * BLOCK))
    if (asked === 0 || Math.abs(from - to) * BLOCK < asked) return
    const copied = await rig.files.copyRange(handle, from * BLOCK, handle, to * BLOCK, asked)
    if (copied !== asked) throw new Error(`copied ${copied} of ${asked}`)
    const whole = asked - (asked % BLOCK)
    const tail = Buffer.from(model.bytes.subarray(from * BLOCK + whole, from * BLOCK + asked))
    model.copy(from * BLOCK, to * BLOCK, whole)
    if (tail.length > 0) model.write(to * BLOCK + whole, tail)
  }
}

async function verify(bench: Bench, mayBlur: boolean): Promise<void> {
  const { rig, node, handle, model } = bench
  const { sizeBytes } = await rig.files.attributes(node)
  const found = await rig.read(handle, 0, 2 * LIMIT)
  if (sizeBytes !== model.bytes.length)
    throw new Error(`${sizeBytes} bytes, not ${model.bytes.length}`)
  if (!found.equals(model.bytes)) throw new Error('other bytes')
  verifyRanges(model, await rig.dataRanges(handle), mayBlur)
}

/**
 * Data has to be where the model has it. With `mayBlur`, only where it has bytes that are not
 * zero: a pool takes a block for whole that is cleared up to the end of the disk.
 */
function verifyRanges(model: ModelFile, ranges: readonly Range[], mayBlur: boolean): void {
  const found = new Set<number>()
  for (const [start, end] of ranges) {
    for (let at = start; at < end; at += BLOCK) found.add(at / BLOCK)
  }
  for (let block = 0; block * BLOCK < model.bytes.length; block += 1) {
    if (found.has(block) === model.blocks.has(block)) continue
    const bytes = model.bytes.subarray(block * BLOCK, (block + 1) * BLOCK)
    const isBlank = bytes.every((byte) => byte === 0)
    if (!mayBlur || !isBlank)
      throw new Error(`block ${block}: data is at ${JSON.stringify(ranges)}`)
  }
}

/**
 * Runs them one after another on an empty volume; rejects when it is not as the model. `mayBlur`:
 * see `verifyRanges`.
 */
export async function runBatches(
  rig: FilesystemDriver,
  path: string,
  all: readonly Batch[],
  mayBlur = false,
): Promise<void> {
  const node = await rig.node(path)
  const bench = { rig, node, handle: await rig.open(path), model: new ModelFile() }
  for (const batch of all) {
    await runBatch(bench, batch)
    await verify(bench, mayBlur)
  }
  rig.files.close(bench.handle)
}
