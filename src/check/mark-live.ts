/**
 * Marks every address that a disk needs: blocks that can be read, and the nodes that recovery
 * reads. A node is needed even where the log has since replaced all blocks below it, for replay
 * goes through it; a block is needed only if some disk still shows it.
 *
 * A node that disks share is walked once, which also bounds the work on a hostile pool: a node
 * lies at one level only, levels fall on the way down, and there are no more nodes than slots.
 * Only nodes partly under an overlay, or reaching past the end of a disk, are walked once a disk.
 */
import { findNodeFault, NODE_WORD_COUNT } from '../format/node.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { BlockReader } from './block-reader.ts'
import type { Damage } from './damage.ts'
import { addAffected, addressKey } from './damage.ts'
import type { Disk, Disks } from './disks.ts'
import type { Finding, FindingCode, Findings } from './report.ts'
import { placeOf } from './report.ts'
import type { SegmentSurvey } from './segment-survey.ts'
import type { SlotSet } from './slot-set.ts'
import type { MapDelegate, NodeVisit } from './walk-map.ts'
import { walkMap } from './walk-map.ts'

/** The nodes below have been walked; their blocks, where the overlay shows none, not all. */
const NODES_DONE = 1
/** Nodes and blocks below are all marked. */
const ALL_DONE = 2
const STATE_COUNT = 3

/** 4 KiB each. */
const NODE_CACHE_COUNT_MAX = 2048

/** Decoded nodes, the last used ones kept. */
export class NodeCache {
  readonly #blocks: BlockReader
  readonly #nodes = new Map<number, Uint32Array>()

  constructor(blocks: BlockReader) {
    this.#blocks = blocks
  }

  /** The entries, or why there are none. */
  async load(
    segment: number,
    slot: number,
    level: number,
  ): Promise<Uint32Array | { code: FindingCode; fact: string }> {
    const key = addressKey(segment, slot)
    const cached = this.#nodes.get(key)
    if (cached !== undefined) {
      this.#nodes.delete(key)
      this.#nodes.set(key, cached)
      return cached
    }
    const read = await this.#blocks.read(segment, slot, 1)
    if (!(read instanceof Uint8Array)) return { code: read.code, fact: read.fact }
    const entries = new Uint32Array(NODE_WORD_COUNT)
    new Uint8Array(entries.buffer).set(read)
    const fault = findNodeFault(entries, level)
    if (fault !== null) return { code: 'node-corrupt', fact: `a node of level ${level} ${fault}` }
    for (const oldest of this.#nodes.keys()) {
      if (this.#nodes.size < NODE_CACHE_COUNT_MAX) break
      this.#nodes.delete(oldest)
    }
    this.#nodes.set(key, entries)
    return entries
  }
}

export class LiveMarker implements MapDelegate {
  readonly #nodes: NodeCache
  readonly #survey: SegmentSurvey
  readonly #live: SlotSet
  readonly #damage: Damage
  readonly #disks: Disks
  readonly #findings: Findings
  /** Level and state of every node met. */
  readonly #states = new Map<number, number>()
  readonly #seenSpans = new WeakSet<object>()
  /** Findings that stand for many addresses or entries. */
  readonly #shared = new Map<string, Finding>()

  constructor(
    nodes: NodeCache,
    survey: SegmentSurvey,
    live: SlotSet,
    damage: Damage,
    disks: Disks,
    findings: Findings,
  ) {
    this.#nodes = nodes
    this.#survey = survey
    this.#live = live
    this.#damage = damage
    this.#disks = disks
    this.#findings = findings
  }

  async run(): Promise<void> {
    for (const disk of this.#disks.all()) {
      disk.overlay.visit(this.#seenSpans, ({ start, count, segment, slot }) => {
        if (segment !== 0) this.blocks(disk, start, count, segment, slot)
      })
      await walkMap(disk, this)
    }
  }

  async enter(visit: NodeVisit): Promise<Uint32Array | null> {
    const { disk, segment, slot, level } = visit
    const key = addressKey(segment, slot)
    const known = this.#states.get(key)
    if (known !== undefined) {
      const knownLevel = Math.floor(known / STATE_COUNT)
      if (knownLevel !== level) {
        const fact = `a node of level ${knownLevel} is also used at level ${level}`
        this.#addShared('node-level', placeOf(segment, slot), fact, visit)
        return null
      }
      if (this.#damage.find(segment, slot) !== null) return null
      const state = known % STATE_COUNT
      const isDone =
        state === ALL_DONE || (state === NODES_DONE && visit.coveredCount === visit.blockCount)
      if (isDone && !visit.isPastEnd) return null
    } else {
      this.#states.set(key, level * STATE_COUNT)
    }
    const entries = await this.#nodes.load(segment, slot, level)
    if (entries instanceof Uint32Array) {
      this.#live.add(segment, slot, 1)
      return entries
    }
    const where = placeOf(segment, slot)
    const fact = `a map node of "${this.#disks.nameOf(disk)}" is lost: ${entries.fact}`
    this.#damage.add(segment, slot, 1, this.#findings.errors.add(entries.code, where, fact))
    return null
  }

  leave(visit: NodeVisit): void {
    const key = addressKey(visit.segment, visit.slot)
    const state = (this.#states.get(key) ?? 0) % STATE_COUNT
    const reached = visit.coveredCount === 0 && !visit.isPastEnd ? ALL_DONE : NODES_DONE
    this.#states.set(key, visit.level * STATE_COUNT + Math.max(state, reached))
  }

  blocks(disk: Disk, firstBlock: number, count: number, segment: number, slot: number): void {
    const fault = this.#survey.findAddressFault(segment, slot, count)
    if (fault === null) {
      this.#live.add(segment, slot, count)
      return
    }
    if (count > 1 && this.#survey.findAddressFault(segment, slot, 1) === null) {
      // A run that ends past what was written: only what is past it is damage.
      const soundCount = this.#survey.countFrom(segment, slot)
      this.#live.add(segment, slot, soundCount)
      const rest = count - soundCount
      this.blocks(disk, firstBlock + soundCount, rest, segment, slot + soundCount)
      return
    }
    const { code, fact } = fault
    const key = `${code} ${segment}`
    let finding = this.#shared.get(key)
    if (finding === undefined) {
      const where = placeOf(segment, slot, count)
      const offsetBytes = firstBlock * BLOCK_SIZE_BYTES
      const who = `"${this.#disks.nameOf(disk)}" at ${offsetBytes}`
      finding = this.#findings.errors.add(code, where, `${who} refers to it, but ${fact}`)
      this.#shared.set(key, finding)
    }
    this.#damage.add(segment, slot, count, finding)
  }

  pastEnd(disk: Disk, firstBlock: number): void {
    const name = this.#disks.nameOf(disk)
    const key = `past-end ${disk.id}`
    if (this.#shared.has(key)) return
    const fact = `its map has an entry at byte ${firstBlock * BLOCK_SIZE_BYTES}, past its end`
    this.#shared.set(key, this.#findings.errors.add('entry-past-end', `disk "${name}"`, fact))
  }

  #addShared(code: FindingCode, where: string, fact: string, visit: NodeVisit): void {
    const key = `${code} ${where}`
    const finding = this.#shared.get(key) ?? this.#findings.errors.add(code, where, fact)
    this.#shared.set(key, finding)
    const name = this.#disks.nameOf(visit.disk)
    const offsetBytes = visit.firstBlock * BLOCK_SIZE_BYTES
    addAffected(finding, name, offsetBytes, visit.blockCount * BLOCK_SIZE_BYTES)
  }
}
