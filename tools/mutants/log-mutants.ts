/** Bugs in what is written first and found again: the log, its syncs and its replay. */
import type { Mutant } from './mutant.ts'

const WRITING: readonly Mutant[] = [
  {
    name: 'sync-covers-its-end',
    file: 'src/segment/sync-group.ts',
    before: 'this.#durable = this.#roundSequence',
    after: 'this.#durable = this.#written',
    bug: 'a flush is answered by a sync that began before its writes: I2, acknowledged flushes',
  },
  {
    name: 'flush-one-record-early',
    file: 'src/pool/disk-target.ts',
    before: 'else syncs.wait(nextSequence, new Flush(completion), tag)',
    after: 'else syncs.wait(nextSequence - 1, new Flush(completion), tag)',
    bug: 'a flush does not wait for the last record before it: I2',
  },
  {
    name: 'last-sync-decides',
    file: 'src/segment/sync-group.ts',
    before: 'if (result < 0) this.#roundResult = result',
    after: 'this.#roundResult = result',
    bug: 'of several files synced at once only the last one’s error counts: I10',
  },
  {
    name: 'failed-sync-forgotten',
    file: 'src/segment/log.ts',
    before: 'return this.#failure !== 0 ? this.#failure : this.syncs.failure',
    after: 'return this.#failure',
    bug: 'after a failed sync the log goes on taking writes: I10, sticky failure',
  },
  {
    name: 'failed-write-forgotten',
    file: 'src/segment/log.ts',
    before: 'if (result !== -Errno.ENOSPC) this.#failure = result\n',
    after: '',
    bug: 'after a failed write the log goes on, over slots that hold a part of it: I10, I1',
  },
  {
    name: 'footer-not-noted',
    file: 'src/segment/log.ts',
    before: `if (result < 0) return this.#fail(result)
    this.syncs.noteWritten(segment, this.#sequence)
    this.#store.noteSealed(segment)`,
    after: `if (result < 0) return this.#fail(result)
    this.#store.noteSealed(segment)`,
    bug: 'the footer of a segment that was durable otherwise is never synced: I4, a checkpoint',
  },
  {
    name: 'position-shares-its-checksum',
    file: 'src/segment/log.ts',
    before: 'previousChecksum: this.#previousChecksum.slice(),',
    after: 'previousChecksum: this.#previousChecksum,',
    bug: 'a record written during the sync changes the position the superblock will name: I2',
  },
  {
    name: 'merges-across-disks',
    file: 'src/segment/log.ts',
    before: '      this.entries.diskIds[last] === diskId &&\n',
    after: '',
    bug: 'adjacent blocks of two disks in one turn become one disk’s: a write goes elsewhere',
  },
  {
    name: 'durable-is-written',
    file: 'src/segment/log.ts',
    before: 'durableSequence: this.syncs.durableSequence,',
    after: 'durableSequence: this.#sequence,',
    bug: 'records claim more to be durable than was synced: a torn tail is taken for lost data',
  },
  {
    name: 'fua-one-record-early',
    file: 'src/pool/write-queue.ts',
    before: `    for (const op of this.#inRecord) {
      op.sequence = log.nextSequence`,
    after: `    for (const op of this.#inRecord) {
      op.sequence = log.nextSequence - 1`,
    bug: 'a FUA write waits for all records but its own: I2',
  },
  {
    name: 'fua-of-nothing',
    file: 'src/pool/write-queue.ts',
    before: `    op.sequence = this.#core.log.nextSequence
    this.#end(op, 0)`,
    after: '    this.#end(op, 0)',
    bug: 'a FUA trim of what reads as zeros does not wait for what made it so: I2',
  },
  {
    name: 'journal-without-sync',
    file: 'src/pool/journal.ts',
    before: `  await journalSoon(core, decide, applied)
  await settle(core)`,
    after: '  await journalSoon(core, decide, applied)',
    bug: 'a control operation is answered before it is durable',
  },
  {
    name: 'new-segment-without-name',
    file: 'src/segment/segment-store.ts',
    before: `      await this.io.syncDirectory(this.#folder)
    } catch (error) {
      if (file`,
    after: `    } catch (error) {
      if (file`,
    bug: 'the folder of a new segment is not synced: its synced records vanish with its name',
  },
]

const RECOVERY: readonly Mutant[] = [
  {
    name: 'torn-blocks-replayed',
    file: 'src/segment/scan.ts',
    before: 'return bad === -1 ? header : null',
    after: 'return header',
    bug: 'a record whose blocks did not reach the disk is replayed: I3',
  },
  {
    name: 'gap-is-passed',
    file: 'src/segment/scan.ts',
    before: '    if (chain !== null) {\n      if (header.sequence',
    after:
      '    if (chain !== null && header.sequence <= chain.sequence) {\n      if (header.sequence',
    bug: 'replay goes on in the next segment behind records that are missing: I2, a prefix',
  },
  {
    name: 'replay-not-written-again',
    file: 'src/segment/replay.ts',
    before: 'await this.#withRoom(async () => this.#writeAgain(file, state, record))\n',
    after: '',
    bug: 'what only the page cache had after a failed sync is taken for durable: I4',
  },
  {
    name: 'resealed-without-sync',
    file: 'src/segment/replay.ts',
    before: "await this.#store.syncFile(must(state.file, 'the segment being sealed'), state.id)\n",
    after: '',
    bug: 'recovery’s checkpoint refers to a segment whose records and footer are not durable: I4',
  },
  {
    name: 'growth-not-replayed',
    file: 'src/pool/recover.ts',
    before: '} else if (kind === EntryKind.grow) {',
    after: '} else if (kind === EntryKind.grow && record.header.blockCount > 0) {',
    bug: 'a growth that is alone in its record is not replayed: I2',
  },
  {
    name: 'disk-ids-used-again',
    file: 'src/pool/recover.ts',
    before: '  catalogue.reserveIdsBelow(superblock.nextDiskId)\n',
    after: '',
    bug: 'after a reopening a new disk gets the id of one that was removed',
  },
  {
    name: 'import-not-adopted',
    file: 'src/pool/recover.ts',
    before: 'if (operation.importId !== 0) this.adoptedIds.add(operation.importId)\n',
    after: '',
    bug: 'recovery removes the segments of an import that it has just replayed: a durable volume',
  },
]

export const LOG_MUTANTS: readonly Mutant[] = [...WRITING, ...RECOVERY]
