/**
 * The named moments in the life of a pool at which its process is killed, as the files under it see
 * them: what is done, to which kind of file, before it, in the middle of it or after it. The engine
 * knows nothing of them.
 */
import {
  DATA_SLOT_FIRST,
  SEGMENT_FOLDER,
  SETTLING_SUFFIX,
  SegmentKind,
} from '../../src/format/segment.ts'
import { TABLE_SLOT } from '../../src/format/segment.ts'
import { FINGERPRINT_FILE } from '../../src/format/fingerprints.ts'
import { SUPERBLOCK_FILE } from '../../src/format/superblock.ts'
import { RESERVE_FOLDER } from '../../src/pool/reserve.ts'
import type { IoOperation, OperationKind } from './tapped-io.ts'

/** What the server is doing when it dies. */
export type Phase =
  | 'open'
  | 'load'
  | 'snapshot'
  | 'clone'
  | 'restore'
  | 'resize'
  | 'remove'
  | 'import'
  | 'abort'
  | 'settle'
  | 'reclaim'
  | 'close'

/** A segment's file as a whole, or the part of it that is written. */
export type Role =
  | 'superblock'
  | 'segment'
  | 'header'
  | 'record'
  | 'bulk'
  | 'footer'
  | 'settling'
  | 'segments'
  | 'reserve'
  | 'fingerprints'
  | 'pool'

export interface KillPoint {
  name: string
  during: Phase
  when: 'before' | 'torn' | 'after'
  kind: OperationKind
  role: Role
  /** Which of those that match, from 1. */
  nth: number
}

type Row = [name: string, kind: OperationKind, role: Role, whens: string, nth?: number]

/** `b`, `t`, `a`: before, torn, after. In an order in which each finds what it needs. */
const ROWS: readonly [Phase, readonly Row[]][] = [
  [
    'open',
    [
      ['reserve: its folder', 'mkdir', 'reserve', 'ba'],
      ['reserve: a piece is made', 'create', 'reserve', 'ba', 2],
      ['reserve: an empty piece is removed', 'remove', 'reserve', 'ba'],
      ['reserve: room is allotted', 'allocate', 'reserve', 'ba'],
      ['open: the superblock is made durable', 'write', 'superblock', 'bta'],
      ['open: the superblock is synced', 'sync', 'superblock', 'ba'],
      ['segment: create', 'create', 'segment', 'ba'],
      ['segment: header', 'write', 'header', 'bta'],
      ['segment: header sync', 'sync', 'segment', 'ba'],
      ['segment: folder sync', 'syncdir', 'segments', 'ba'],
      ['open: the first checkpoint', 'write', 'superblock', 'bta', 2],
    ],
  ],
  [
    'load',
    [
      ['append: a record', 'write', 'record', 'bta', 9],
      ['append: sync', 'sync', 'segment', 'ba', 3],
    ],
  ],
  ['snapshot', [['snapshot: record', 'write', 'record', 'bta']]],
  ['snapshot', [['snapshot: sync', 'sync', 'segment', 'ba']]],
  ['clone', [['clone: record', 'write', 'record', 'bta']]],
  ['restore', [['restore: record', 'write', 'record', 'bta']]],
  ['restore', [['restore: sync', 'sync', 'segment', 'ba']]],
  ['resize', [['resize: record', 'write', 'record', 'bta']]],
  ['remove', [['remove: record', 'write', 'record', 'bta']]],
  [
    'import',
    [
      ['import: its segment is made', 'create', 'segment', 'ba'],
      ['import: blocks', 'write', 'bulk', 'bta'],
      ['import: seal', 'write', 'footer', 'bta'],
      ['import: sync', 'sync', 'segment', 'ba', 2],
      ['import: commit record', 'write', 'record', 'bta'],
    ],
  ],
  ['abort', [['import aborted: its segment is removed', 'remove', 'segment', 'ba']]],
  ['abort', [['import aborted: folder sync', 'syncdir', 'segments', 'ba', 2]]],
  [
    'settle',
    [
      ['seal: table and footer', 'write', 'footer', 'bta'],
      ['seal: sync', 'sync', 'segment', 'ba'],
      ['checkpoint: superblock', 'write', 'superblock', 'bta'],
      ['checkpoint: superblock sync', 'sync', 'superblock', 'ba'],
      ['settle: file aside', 'create', 'settling', 'ba'],
      ['settle: header', 'write', 'settling', 'bta'],
      ['settle: frames and directory', 'write', 'settling', 'bta', 2],
      ['settle: sync', 'sync', 'settling', 'ba'],
    ],
  ],
  ['open', [['open: a file left aside is removed', 'remove', 'settling', 'ba']]],
  [
    'settle',
    [
      ['settle: rename', 'rename', 'settling', 'ba'],
      ['settle: folder sync', 'syncdir', 'segments', 'ba', 2],
    ],
  ],
  [
    'reclaim',
    [
      ['reclaim: a dead segment is removed', 'remove', 'segment', 'ba'],
      ['reclaim: a hole is punched', 'punch', 'segment', 'ba'],
    ],
  ],
  [
    'close',
    [
      ['close: superblock', 'write', 'superblock', 'bta'],
      ['close: superblock sync', 'sync', 'superblock', 'ba'],
      ['close: fingerprints aside', 'write', 'fingerprints', 'bta'],
      ['close: fingerprints renamed', 'rename', 'fingerprints', 'ba'],
      ['close: folder sync', 'syncdir', 'pool', 'ba'],
      ['close: the spare segment is removed', 'remove', 'segment', 'ba'],
      ['close: seal', 'write', 'footer', 'bta'],
      ['close: seal sync', 'sync', 'segment', 'ba', 2],
    ],
  ],
]

const WHENS: Record<string, KillPoint['when']> = { b: 'before', t: 'torn', a: 'after' }

export const KILL_POINTS: readonly KillPoint[] = ROWS.flatMap(([during, rows]) =>
  rows.flatMap(([title, kind, role, whens, nth = 1]) =>
    Array.from(whens, (letter) => {
      const when = WHENS[letter]
      return { name: `${title}, ${when}`, during, when, kind, role, nth }
    }),
  ),
)

/** Knows which segments are an import's: only their headers say so. */
export class Roles {
  readonly #root: string
  readonly #bulkPaths: Set<string> = new Set()

  constructor(root: string) {
    this.#root = root
  }

  /** Asked of every operation in order, before it is done. */
  of(operation: IoOperation): Role | null {
    const { path } = operation
    if (path === this.#root) return 'pool'
    const name = path.slice(this.#root.length + 1)
    if (name === SUPERBLOCK_FILE) return 'superblock'
    if (name === SEGMENT_FOLDER) return 'segments'
    if (name.startsWith(RESERVE_FOLDER)) return 'reserve'
    if (name.startsWith(FINGERPRINT_FILE)) return 'fingerprints'
    if (!name.startsWith(SEGMENT_FOLDER)) return null
    if (name.endsWith(SETTLING_SUFFIX)) return 'settling'
    return operation.kind === 'write' ? this.#partOf(operation) : 'segment'
  }

  #partOf({ path, offsetBytes = 0, pieces = [] }: IoOperation): Role {
    const slot = offsetBytes / 4096
    if (slot < DATA_SLOT_FIRST) {
      // Offset 32: see src/format/segment.ts.
      if (Buffer.from(pieces[0]).readUInt32LE(32) === SegmentKind.bulk) this.#bulkPaths.add(path)
      return 'header'
    }
    if (slot >= TABLE_SLOT) return 'footer'
    return this.#bulkPaths.has(path) ? 'bulk' : 'record'
  }
}
