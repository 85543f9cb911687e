/**
 * Makes the log's past unnecessary: all dirty nodes and what changed in the catalogue are written
 * out, then a superblock names them.
 *
 * Ordering argument (I4). Nodes are written bottom-up, after the blocks they name, and the
 * catalogue after the nodes, all into the log; the log is synced; only then is a superblock
 * written, over the *older* of the two pages, and synced. A cut before that leaves the previous
 * checkpoint and its log; a torn superblock page is invalid and leaves the same. Nothing that the
 * previous checkpoint names is removed before the new one is durable.
 *
 * Most nodes are written beforehand in small batches, between which guests go on (as a live
 * migration copies memory); only what they touched meanwhile is written in the one synchronous
 * stretch that fixes the state.
 */
import { assert } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { PartAddress } from '../format/catalogue.ts'
import { NO_PART, PART_PAYLOAD_BYTES_MAX, PartKind, encodePart } from '../format/catalogue.ts'
import { EntryKind } from '../format/record.ts'
import { REFUSE_FEATURES } from '../format/features.ts'
import type { LogPosition, Superblock } from '../format/superblock.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import type { SuperblockFile } from './superblock-file.ts'

const BATCH_NODE_COUNT = 250
/** Dirty nodes left for the synchronous stretch: a few milliseconds of writing. */
const REST_NODE_COUNT = 500

export class Checkpointer {
  readonly #core: PoolCore
  readonly #file: SuperblockFile
  readonly #unfinishedIds: () => number[]
  /** The parts that make up the newest checkpoint's catalogue, oldest first. */
  #chain: PartAddress[]
  #running: Promise<void> | null = null
  #atBytes = 0

  constructor(
    core: PoolCore,
    file: SuperblockFile,
    chain: PartAddress[],
    unfinishedIds: () => number[],
  ) {
    this.#core = core
    this.#file = file
    this.#chain = chain
    this.#unfinishedIds = unfinishedIds
  }

  /** Log bytes written since the last checkpoint: what a recovery would replay. */
  get tailBytes(): number {
    return this.#core.log.appendedBytes - this.#atBytes
  }

  /** Where the catalogue lies; reclaim keeps it. */
  get chain(): readonly PartAddress[] {
    return this.#chain
  }

  /**
   * Writes a checkpoint of the state at some moment between now and when it resolves. `atFixed`
   * is called in that moment, when every map has an address. Runs one at a time.
   */
  async run(
    options: { full?: boolean; clean?: boolean; atFixed?: () => void } = {},
  ): Promise<void> {
    await this.exclusively(() => this.#write(options))
  }

  /** Does something while no checkpoint is being written. */
  async exclusively(work: () => Promise<void>): Promise<void> {
    while (this.#running !== null) await this.#running.catch(() => undefined)
    this.#running = work()
    try {
      await this.#running
    } finally {
      this.#running = null
    }
  }

  async #write(options: { full?: boolean; clean?: boolean; atFixed?: () => void }): Promise<void> {
    const { appender, log, tables, store, catalogue } = this.#core
    verifyHealthy(this.#core)
    await writeMostNodes(this.#core)
    const fixed = await appender.retrying(() => {
      verifyHealthy(this.#core)
      tables.flushAll(appender)
      const chain = this.#writeCatalogue(options.full === true)
      const position = log.position()
      options.atFixed?.()
      return {
        chain,
        position,
        nextSegmentId: store.nextId,
        nextDiskId: catalogue.nextDiskId,
        unfinishedIds: this.#unfinishedIds(),
        appendedBytes: log.appendedBytes,
      }
    })
    this.#chain = fixed.chain
    await log.syncs.settle()
    verifyHealthy(this.#core)
    const isDurable = log.syncs.durableSequence >= fixed.position.sequence
    assert(isDurable, 'a superblock names only what is durable (I4)')
    const part = fixed.chain.at(-1) ?? NO_PART
    await this.#file.write((before): Superblock => {
      return {
        ...before,
        // Opening writes a checkpoint before any change: no log has what its superblock denies.
        refuseFeatures: before.refuseFeatures | REFUSE_FEATURES,
        clean: options.clean === true,
        position: fixed.position satisfies LogPosition,
        nextSegmentId: fixed.nextSegmentId,
        nextDiskId: fixed.nextDiskId,
        catalogue: part,
        unfinishedIds: fixed.unfinishedIds,
      }
    })
    this.#atBytes = fixed.appendedBytes
  }

  /** Appends a delta, or all of it when the deltas have outgrown it. Returns the new chain. */
  #writeCatalogue(full: boolean): PartAddress[] {
    const { catalogue } = this.#core
    const isFull = full || this.#chain.length === 0 || this.#isOutgrown()
    const lines = catalogue.lines(isFull).map((line) => JSON.stringify(line))
    const chain = isFull ? [] : [...this.#chain]
    // An empty full is written too when there was a chain: it says that everything went.
    if (lines.length > 0 || (isFull && this.#chain.length > 0)) {
      for (const payload of joinLines(lines)) {
        const kind = isFull ? PartKind.full : PartKind.delta
        const pages = encodePart(kind, chain.at(-1) ?? NO_PART, payload)
        chain.push(this.#core.appender.writePart(EntryKind.catalogue, pages))
      }
    }
    catalogue.noteCheckpoint()
    return chain
  }

  #isOutgrown(): boolean {
    const fullBytes = this.#chain[0].blockCount * BLOCK_SIZE_BYTES
    const chainBytes =
      this.#chain.reduce((sum, part) => sum + part.blockCount, 0) * BLOCK_SIZE_BYTES
    return this.#chain.length > 64 || chainBytes > 4 * fullBytes + 64 * BLOCK_SIZE_BYTES
  }
}

/** Writes dirty nodes in batches, letting guests in between, until few are left. */
export async function writeMostNodes(core: PoolCore): Promise<void> {
  const { appender, tables } = core
  let roundsLeft = Math.ceil((2 * tables.dirtyCount) / BATCH_NODE_COUNT)
  while (tables.dirtyCount > REST_NODE_COUNT && roundsLeft > 0) {
    await appender.retrying(() => tables.flushSome(BATCH_NODE_COUNT, appender))
    await tables.pause()
    roundsLeft -= 1
  }
}

/** Lines packed into payloads that each fit a part; always at least one payload. */
function joinLines(lines: readonly string[]): string[] {
  const payloads: string[] = []
  let current: string[] = []
  let sizeBytes = 0
  for (const line of lines) {
    const lineBytes = Buffer.byteLength(line) + 1
    assert(lineBytes <= PART_PAYLOAD_BYTES_MAX, 'a disk’s line fits a part')
    if (sizeBytes + lineBytes > PART_PAYLOAD_BYTES_MAX) {
      payloads.push(current.join('\n'))
      current = []
      sizeBytes = 0
    }
    current.push(line)
    sizeBytes += lineBytes
  }
  payloads.push(current.join('\n'))
  return payloads
}
