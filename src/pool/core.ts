import type { Checksum } from '../base/checksum.ts'
import { OperatingError } from '../base/errors.ts'
import type { Codecs } from '../base/codec.ts'
import type { Io } from '../io/io.ts'
import type { PageTables } from '../map/page-tables.ts'
import type { DedupIndex } from '../segment/dedup-index.ts'
import type { Log } from '../segment/log.ts'
import type { PagePool } from '../segment/page-pool.ts'
import type { SegmentStore } from '../segment/segment-store.ts'
import type { Appender } from './appender.ts'
import type { Catalogue } from './catalogue.ts'
import type { Cohorts } from './cohort.ts'
import type { Fingerprints } from './fingerprints.ts'
import type { GuestActivity } from './pacer.ts'
import type { References } from './references.ts'
import type { Space } from './space.ts'

/** The parts of an open pool that its operations work on. */
export interface PoolCore {
  readonly io: Io
  readonly checksum: Checksum
  readonly codecs: Codecs
  readonly path: string
  readonly poolId: Uint8Array
  /** For blocks read in part. */
  readonly pages: PagePool
  /** For partial blocks on their way into the log: two for each of EDGE_OP_COUNT_MAX. */
  readonly edgePages: PagePool
  readonly store: SegmentStore
  readonly log: Log
  readonly tables: PageTables
  readonly catalogue: Catalogue
  readonly appender: Appender
  readonly cohorts: Cohorts
  /** Where blocks are found by their fingerprint; for whoever stores new ones. */
  readonly dedupIndex: DedupIndex
  /** Fills it before it is first used. */
  readonly fingerprints: Fingerprints
  readonly references: References
  readonly guests: GuestActivity
  readonly space: Space
}

/** Throws `pool-failed` once a write or sync of the log has failed (I10). */
export function verifyHealthy(core: PoolCore): void {
  const errno = core.log.failure
  if (errno === 0) return
  throw new OperatingError('pool-failed', `the pool takes no writes since errno ${-errno}`, {
    errno: -errno,
    hint: 'what was flushed is safe; repair the disk, then reopen the pool',
  })
}
