/**
 * The catalogue on disk: what has a name. It exists in two forms, both in *parts*, a part being
 * the blocks of one record entry:
 *
 *     0   8  magic "VARVCAT1"
 *     8   4  kind: 1 operation, 2 full, 3 delta
 *    12   4  payload length in bytes
 *    16   4  segment \
 *    20   4  slot     > the part written before this one, zeros for the first part of a full
 *    24   4  blocks  /
 *    28   4  zero
 *    32   …  payload: UTF-8, one JSON value a line
 *
 * An *operation* (entry kind `operation`) is journalled when it happens: one line, one change,
 * relative to the state the log has at that point. A checkpoint writes a *delta* (the disks that
 * changed since the checkpoint before, with their map roots, and the ids that went) or, when the
 * deltas have outgrown it, a *full*. The superblock names the newest part; following `previous`
 * back to the beginning of a full and applying forward gives the catalogue of the checkpoint.
 *
 * JSON, because names and labels are text of any length, a disk's line is rarely read and never
 * on the data path, and a person with `dd` can read it. The bytes are covered by the record's
 * block checksums.
 */
import { assert } from '../base/assert.ts'
import { CorruptionError } from '../base/errors.ts'
import { layout } from '../base/layout.ts'
import { VOLUME_SIZE_BYTES_MAX } from '../base/units.ts'
import { MAP_BLOCK_COUNT } from './node.ts'
import { RECORD_BLOCK_COUNT_MAX } from './record.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from './segment.ts'
import { isNamePart } from './names.ts'
import { SUPERBLOCK_ID_MAX } from './superblock.ts'
import { PAGE_SIZE_BYTES, hasMagic, writeMagic } from './page.ts'

export const CATALOGUE_MAGIC = 'VARVCAT1'
export const PartKind = { operation: 1, full: 2, delta: 3 } as const
export type PartKind = (typeof PartKind)[keyof typeof PartKind]

const FIELD = layout({
  magic: 8,
  kind: 4,
  payloadBytes: 4,
  segment: 4,
  slot: 4,
  blockCount: 4,
  reserved: 4,
})
assert(FIELD.endOffset === 32, 'the part is as drawn')

/** A part fits one record. */
export const PART_PAYLOAD_BYTES_MAX: number =
  RECORD_BLOCK_COUNT_MAX * PAGE_SIZE_BYTES - FIELD.endOffset

/** Where a part lies; zeros for none. */
export interface PartAddress {
  segment: number
  slot: number
  blockCount: number
}

/** Of what has no part before it, or none at all. */
export const NO_PART: PartAddress = { segment: 0, slot: 0, blockCount: 0 }

/** A map root's node address, or null for a disk with nothing mapped. */
export type RootAddress = readonly [segment: number, slot: number] | null

export interface DiskState {
  id: number
  name: string
  kind: 'volume' | 'snapshot'
  /** The volume a snapshot belongs to; a volume's own id. */
  volumeId: number
  sizeBytes: number
  root: RootAddress
  createdMs: number
  /** When its bytes last changed; the moment of creation in lines that do not say. */
  modifiedMs: number
  originId: number | null
  labels: Record<string, string>
  holds: string[]
}

/** In the place of a slot, where the segment is 0: the blocks are unmapped / explicit zeros. */
export const SHARED_UNMAPPED = 0
export const SHARED_ZERO = 1

/** Blocks that are what lies at consecutive slots; segment 0: nothing lies anywhere. */
export type SharedRun = readonly [count: number, segment: number, slot: number]

export type CatalogueOperation =
  | {
      op: 'create'
      id: number
      name: string
      sizeBytes: number
      createdMs: number
      labels: Record<string, string>
      /** What an import brought: its finished map, and the id its bulk segments have. */
      root: RootAddress
      /** 0: not from an import, or from one that needed no segment. */
      importId: number
    }
  | {
      op: 'snapshot'
      createdMs: number
      snapshots: { id: number; volumeId: number; name: string }[]
    }
  | { op: 'clone'; createdMs: number; sourceId: number; clones: { id: number; name: string }[] }
  | { op: 'restore'; volumeId: number; snapshotId: number }
  | { op: 'remove'; ids: number[] }
  | { op: 'rename'; id: number; name: string }
  | { op: 'resize'; id: number; sizeBytes: number }
  /** The blocks from `blockIndex` on, run by run, are what another disk had. */
  | { op: 'share'; id: number; blockIndex: number; runs: SharedRun[] }
  | { op: 'hold'; id: number; tag: string }
  | { op: 'release'; id: number; tag: string }

/** One line of a full or delta part. */
export type CatalogueLine = { disk: DiskState } | { removed: number[] }

export interface Part {
  kind: PartKind
  previous: PartAddress
  lines: unknown[]
}

/** The blocks of a part: whole pages, zero-padded. */
export function encodePart(kind: PartKind, previous: PartAddress, payload: string): Uint8Array {
  const text = Buffer.from(payload, 'utf8')
  assert(text.length <= PART_PAYLOAD_BYTES_MAX, 'a catalogue part fits one record')
  const blockCount = Math.ceil((FIELD.endOffset + text.length) / PAGE_SIZE_BYTES)
  const bytes = new Uint8Array(blockCount * PAGE_SIZE_BYTES)
  const view = new DataView(bytes.buffer)
  writeMagic(view, CATALOGUE_MAGIC)
  view.setUint32(FIELD.kind, kind, true)
  view.setUint32(FIELD.payloadBytes, text.length, true)
  view.setUint32(FIELD.segment, previous.segment, true)
  view.setUint32(FIELD.slot, previous.slot, true)
  view.setUint32(FIELD.blockCount, previous.blockCount, true)
  bytes.set(text, FIELD.endOffset)
  return bytes
}

/** What is thrown for a catalogue that says what no pool writes. */
export function catalogueCorrupt(fact: string): CorruptionError {
  return new CorruptionError('catalogue-corrupt', `the catalogue is damaged: ${fact}`, {
    hint: 'run "varve check" on the pool',
  })
}

/** Throws `catalogue-corrupt` for what is neither none nor where a part can lie. */
export function verifyPartAddress({ segment, slot, blockCount }: PartAddress): void {
  if (blockCount === 0) return
  if (blockCount > RECORD_BLOCK_COUNT_MAX) throw catalogueCorrupt('a part is oversized')
  if (segment > 0 && slot >= DATA_SLOT_FIRST && slot + blockCount <= DATA_SLOT_END) return
  throw catalogueCorrupt('a part lies where no block can lie')
}

/** Throws CorruptionError `catalogue-corrupt` for anything that is not a part. */
export function decodePart(bytes: Uint8Array): Part {
  if (bytes.length < FIELD.endOffset) throw catalogueCorrupt('a part is cut short')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (!hasMagic(view, CATALOGUE_MAGIC)) throw catalogueCorrupt('a part has no magic')
  const kind = view.getUint32(FIELD.kind, true)
  if (kind !== PartKind.operation && kind !== PartKind.full && kind !== PartKind.delta) {
    throw catalogueCorrupt(`unknown kind of part ${kind}`)
  }
  const payloadBytes = view.getUint32(FIELD.payloadBytes, true)
  if (payloadBytes > bytes.length - FIELD.endOffset)
    throw catalogueCorrupt('a part is longer than its blocks')
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + FIELD.endOffset, payloadBytes)
  const previous = {
    segment: view.getUint32(FIELD.segment, true),
    slot: view.getUint32(FIELD.slot, true),
    blockCount: view.getUint32(FIELD.blockCount, true),
  }
  verifyPartAddress(previous)
  try {
    const lines = text
      .toString('utf8')
      .split('\n')
      .filter((line) => line.length > 0)
      .map((line): unknown => JSON.parse(line))
    return { kind, previous, lines }
  } catch (error) {
    if (error instanceof SyntaxError) throw catalogueCorrupt(`a line is not JSON: ${error.message}`)
    throw error
  }
}

type Fields = Record<string, unknown>

function fields(value: unknown, what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw catalogueCorrupt(`${what} is not an object`)
  }
  return value as Fields
}

function number(from: Fields, key: string): number {
  const value = from[key]
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw catalogueCorrupt(`"${key}" is not a whole number`)
  }
  return value
}

function text(from: Fields, key: string): string {
  const value = from[key]
  if (typeof value !== 'string') throw catalogueCorrupt(`"${key}" is not text`)
  return value
}

function list(from: Fields, key: string): unknown[] {
  const value = from[key]
  if (!Array.isArray(value)) throw catalogueCorrupt(`"${key}" is not a list`)
  return value
}

function numbers(from: Fields, key: string): number[] {
  return list(from, key).map((value) => number({ [key]: value }, key))
}

function texts(from: Fields, key: string): string[] {
  return list(from, key).map((value) => text({ [key]: value }, key))
}

function textMap(from: Fields, key: string): Record<string, string> {
  const map = fields(from[key], `"${key}"`)
  for (const name of Object.keys(map)) text(map, name)
  return map as Record<string, string>
}

function diskName(from: Fields): string {
  const name = text(from, 'name')
  if (!isNamePart(name)) throw catalogueCorrupt(`a disk is named "${name}"`)
  return name
}

/** Of a disk, after which there can be another. */
function newId(from: Fields): number {
  const id = number(from, 'id')
  if (id < 1 || id >= SUPERBLOCK_ID_MAX) throw catalogueCorrupt(`a disk has the id ${id}`)
  return id
}

function diskSize(from: Fields): number {
  const sizeBytes = number(from, 'sizeBytes')
  if (sizeBytes <= VOLUME_SIZE_BYTES_MAX) return sizeBytes
  throw catalogueCorrupt(`a disk has ${sizeBytes} bytes, more than any map can address`)
}

function root(from: Fields): RootAddress {
  if (from.root === null) return null
  const [segment, slot, ...rest] = numbers(from, 'root')
  const isAddress = segment >= 1 && segment < 2 ** 32 && slot >= DATA_SLOT_FIRST
  if (!isAddress || slot >= DATA_SLOT_END || rest.length > 0)
    throw catalogueCorrupt('"root" is no address')
  return [segment, slot]
}

/** Runs that lie where blocks can lie, and end within the map. */
function sharedRuns(from: Fields, blockIndex: number): SharedRun[] {
  let end = blockIndex
  const runs = list(from, 'runs').map((value): SharedRun => {
    const [count, segment, slot, ...rest] = numbers({ run: value }, 'run')
    if (slot === undefined || rest.length > 0 || count < 1) throw catalogueCorrupt('no run')
    const isPlace =
      segment === 0
        ? slot === SHARED_UNMAPPED || slot === SHARED_ZERO
        : segment < 2 ** 32 && slot >= DATA_SLOT_FIRST && slot + count <= DATA_SLOT_END
    if (!isPlace) throw catalogueCorrupt('a run lies where no block can lie')
    end += count
    return [count, segment, slot]
  })
  if (runs.length === 0 || end > MAP_BLOCK_COUNT) {
    throw catalogueCorrupt('the runs are none, or end past what a map has')
  }
  return runs
}

/** How many blocks an operation of the kind `share` is about. */
export function sharedCount(runs: readonly SharedRun[]): number {
  return runs.reduce((sum, [count]) => sum + count, 0)
}

/** Checks one line of a full or delta part. */
export function verifyLine(value: unknown): CatalogueLine {
  const line = fields(value, 'a line')
  if (line.removed !== undefined) return { removed: numbers(line, 'removed') }
  const disk = fields(line.disk, '"disk"')
  const kind = text(disk, 'kind')
  if (kind !== 'volume' && kind !== 'snapshot')
    throw catalogueCorrupt(`unknown kind of disk "${kind}"`)
  return {
    disk: {
      id: newId(disk),
      name: diskName(disk),
      kind,
      volumeId: number(disk, 'volumeId'),
      sizeBytes: diskSize(disk),
      root: root(disk),
      createdMs: number(disk, 'createdMs'),
      modifiedMs: number(disk, disk.modifiedMs === undefined ? 'createdMs' : 'modifiedMs'),
      originId: disk.originId === null ? null : number(disk, 'originId'),
      labels: textMap(disk, 'labels'),
      holds: texts(disk, 'holds'),
    },
  }
}

/** Checks one journalled operation. */
export function verifyOperation(value: unknown): CatalogueOperation {
  const line = fields(value, 'an operation')
  const op = text(line, 'op')
  switch (op) {
    case 'create':
      return {
        op,
        id: newId(line),
        name: diskName(line),
        sizeBytes: diskSize(line),
        createdMs: number(line, 'createdMs'),
        labels: textMap(line, 'labels'),
        root: root(line),
        importId: number(line, 'importId'),
      }
    case 'snapshot':
      return {
        op,
        createdMs: number(line, 'createdMs'),
        snapshots: list(line, 'snapshots').map((entry) => {
          const one = fields(entry, 'a snapshot')
          return {
            id: newId(one),
            volumeId: number(one, 'volumeId'),
            name: diskName(one),
          }
        }),
      }
    case 'clone':
      return {
        op,
        createdMs: number(line, 'createdMs'),
        sourceId: number(line, 'sourceId'),
        clones: list(line, 'clones').map((entry) => {
          const one = fields(entry, 'a clone')
          return { id: newId(one), name: diskName(one) }
        }),
      }
    case 'restore':
      return { op, volumeId: number(line, 'volumeId'), snapshotId: number(line, 'snapshotId') }
    case 'remove':
      return { op, ids: numbers(line, 'ids') }
    case 'rename':
      return { op, id: number(line, 'id'), name: diskName(line) }
    case 'resize':
      return { op, id: number(line, 'id'), sizeBytes: diskSize(line) }
    case 'share': {
      const share = { op, id: number(line, 'id'), blockIndex: number(line, 'blockIndex') } as const
      return { ...share, runs: sharedRuns(line, share.blockIndex) }
    }
    case 'hold':
    case 'release':
      return { op, id: number(line, 'id'), tag: text(line, 'tag') }
    default:
      throw catalogueCorrupt(`unknown operation "${op}"`)
  }
}
