/**
 * What the filesystem shows, in memory: volumes and snapshots of any size with the guards of a
 * pool. Control operations take effect one after another when `gate` lets them, are recorded, and
 * can be made to fail.
 */
import { must } from '../../src/base/assert.ts'
import { OperatingError } from '../../src/base/errors.ts'
import { TIB, VOLUME_SIZE_BYTES_MAX } from '../../src/base/units.ts'
import type { DiskEntry, DiskTree, TreeSpace } from '../../src/export/fuse/disk-tree.ts'
import type { ExportTarget } from '../../src/export/target.ts'
import type { Arena } from '../../src/io/arena.ts'
import { mustParseSnapshotName, mustParseVolumeName } from '../../src/pool/names.ts'
import type { CompletionSchedule } from './completion-queue.ts'
import { BLOCK_BYTES, MemoryDisk } from './memory-disk.ts'
import { OpenedTarget } from './memory-target.ts'

export interface TreeCall {
  kind: 'create' | 'resize' | 'setModified' | 'remove' | 'rename' | 'snapshot' | 'copyRange'
  id: number
  name?: string
  sizeBytes?: number
}

export interface MemoryTreeOptions {
  arena: Arena
  /** What blocks may take. */
  capacityBytes?: number
  /** Of the data operations of every disk. */
  schedule?: CompletionSchedule
  /** The clock of creations and changes. */
  nowMs?: () => number
}

interface Node {
  id: number
  name: string
  volumeId: number | null
  createdMs: number
  modifiedMs: number
  disk: MemoryDisk
  users: Map<ExportTarget, string>
}

/** How handles of the filesystem under test name themselves, as the pool takes it. */
const OWN_CLIENT = /^fuse/
const FACTS = ['id', 'size', 'mapped', 'unique', 'parent', 'exported', 'created', 'modified']

export class MemoryTree implements DiskTree {
  readonly calls: TreeCall[] = []
  /** What a control operation waits for before it takes effect; rejects to make it fail. */
  gate: (call: TreeCall) => Promise<void> = () => new Promise((resolve) => setImmediate(resolve))
  readonly #options: MemoryTreeOptions
  readonly #capacityBytes: number
  readonly #nodes = new Map<number, Node>()
  #nextId = 1
  /** The control operation before, ended. */
  #before: Promise<unknown> = Promise.resolve()

  constructor(options: MemoryTreeOptions) {
    this.#options = options
    this.#capacityBytes = options.capacityBytes ?? TIB
  }

  /** A volume, at once. */
  addVolume(name: string, sizeBytes = 0): DiskEntry {
    return entryOf(this.#add(mustParseVolumeName(name), null, sizeBytes))
  }

  /** A snapshot, at once. */
  addSnapshot(volumeId: number, name: string): DiskEntry {
    const volume = this.#must(volumeId)
    const node = this.#add(name, volumeId, volume.disk.sizeBytes)
    volume.disk.copyTo(node.disk)
    node.modifiedMs = volume.modifiedMs
    return entryOf(node)
  }

  /** The bytes behind a disk. */
  disk(id: number): MemoryDisk {
    return this.#must(id).disk
  }

  /** Clients that have the disk open. */
  users(id: number): string[] {
    return [...this.#must(id).users.values()]
  }

  volumes(): readonly DiskEntry[] {
    const volumes = [...this.#nodes.values()].filter(({ volumeId }) => volumeId === null)
    return volumes.map(entryOf).sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  snapshots(volumeId: number): readonly DiskEntry[] | null {
    const volume = this.#nodes.get(volumeId)
    if (volume === undefined || volume.volumeId !== null) return null
    return [...this.#nodes.values()].filter((node) => node.volumeId === volumeId).map(entryOf)
  }

  tryVolume(name: string): DiskEntry | null {
    return this.#tryNamed(name, null)
  }

  trySnapshot(volumeId: number, name: string): DiskEntry | null {
    return this.#tryNamed(name, volumeId)
  }

  tryDisk(id: number): DiskEntry | null {
    const node = this.#nodes.get(id)
    return node === undefined ? null : entryOf(node)
  }

  async mappedBytes(id: number): Promise<number> {
    return this.#must(id).disk.mappedBytes
  }

  factNames(id: number): readonly string[] {
    return this.#must(id).volumeId === null ? [...FACTS, 'snapshots'] : FACTS
  }

  async fact(id: number, name: string): Promise<string | null> {
    const node = this.#must(id)
    if (!this.factNames(id).includes(name)) return null
    const facts: Record<string, string> = {
      id: String(id),
      size: String(node.disk.sizeBytes),
      mapped: String(node.disk.mappedBytes),
      unique: String(node.disk.mappedBytes),
      parent: '',
      exported: [...node.users.values()].join(', '),
      created: new Date(node.createdMs).toISOString(),
      modified: new Date(node.modifiedMs).toISOString(),
      snapshots: String(this.snapshots(id)?.length),
    }
    return must(facts[name], name)
  }

  async space(): Promise<TreeSpace> {
    return { totalBytes: this.#capacityBytes, freeBytes: this.#freeBytes() }
  }

  open(id: number, client: string): ExportTarget {
    const { disk, users } = this.#must(id)
    const target: ExportTarget = new Opened(disk, () => users.delete(target))
    users.set(target, client)
    return target
  }

  create(name: string): Promise<DiskEntry> {
    return this.#control({ kind: 'create', id: 0, name }, () => {
      mustParseVolumeName(name)
      this.#verifyFree(name, null)
      return entryOf(this.#add(name, null, 0))
    })
  }

  resize(id: number, sizeBytes: number): Promise<void> {
    return this.#control({ kind: 'resize', id, sizeBytes }, () => {
      const { disk } = this.#must(id)
      if (sizeBytes > VOLUME_SIZE_BYTES_MAX) throw new OperatingError('out-of-range', 'too long')
      if (sizeBytes < disk.sizeBytes) this.#verifyUnused(id, OWN_CLIENT)
      disk.resize(sizeBytes)
    })
  }

  setModified(id: number, modifiedMs: number): Promise<void> {
    return this.#control({ kind: 'setModified', id }, () => {
      this.#must(id).modifiedMs = modifiedMs
    })
  }

  remove(id: number): Promise<void> {
    return this.#control({ kind: 'remove', id }, () => {
      if ((this.snapshots(id)?.length ?? 0) > 0) throw new OperatingError('busy', 'has snapshots')
      this.#verifyUnused(id)
      this.#nodes.delete(id)
    })
  }

  rename(id: number, name: string): Promise<void> {
    return this.#control({ kind: 'rename', id, name }, () => {
      const node = this.#must(id)
      if (node.volumeId === null) mustParseVolumeName(name)
      else mustParseSnapshotName(`v@${name}`)
      this.#verifyFree(name, node.volumeId)
      this.#verifyUnused(id)
      for (const snapshot of this.snapshots(id) ?? []) this.#verifyUnused(snapshot.id)
      node.name = name
    })
  }

  snapshot(volumeId: number, name: string): Promise<DiskEntry> {
    return this.#control({ kind: 'snapshot', id: volumeId, name }, () => {
      mustParseSnapshotName(`v@${name}`)
      this.#verifyFree(name, volumeId)
      return this.addSnapshot(volumeId, name)
    })
  }

  copyRange(
    fromId: number,
    fromBytes: number,
    toId: number,
    toBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    return this.#control({ kind: 'copyRange', id: toId }, () => {
      const from = this.#must(fromId).disk
      const to = this.#must(toId).disk
      const isWhole = [fromBytes, toBytes, lengthBytes].every((bytes) => bytes % BLOCK_BYTES === 0)
      const isInside =
        fromBytes + lengthBytes <= from.sizeBytes && toBytes + lengthBytes <= to.sizeBytes
      if (!isWhole || !isInside) throw new OperatingError('unsupported', 'not whole blocks')
      if (!to.tryShare(from, fromBytes, toBytes, lengthBytes)) {
        throw new OperatingError('no-space', 'the tree is full')
      }
    })
  }

  #control<T>(call: TreeCall, apply: () => T): Promise<T> {
    this.calls.push(call)
    const result = this.#before.then(async () => {
      await this.gate(call)
      return apply()
    })
    this.#before = result.catch(() => undefined)
    return result
  }

  #add(name: string, volumeId: number | null, sizeBytes: number): Node {
    const nowMs = this.#nowMs()
    const disk = new MemoryDisk({
      arena: this.#options.arena,
      name: volumeId === null ? name : `${this.#must(volumeId).name}@${name}`,
      sizeBytes,
      readOnly: volumeId !== null,
      ...(this.#options.schedule === undefined ? {} : { schedule: this.#options.schedule }),
      freeBytes: () => this.#freeBytes(),
      onChange: () => {
        node.modifiedMs = this.#nowMs()
      },
    })
    const id = this.#nextId
    const node = { id, name, volumeId, createdMs: nowMs, modifiedMs: nowMs, disk, users: new Map() }
    this.#nodes.set(id, node)
    this.#nextId += 1
    return node
  }

  #nowMs(): number {
    return this.#options.nowMs?.() ?? Date.now()
  }

  /** Blocks shared by several disks count for each: close enough for a test. */
  #freeBytes(): number {
    let usedBytes = 0
    for (const { disk } of this.#nodes.values()) usedBytes += disk.mappedBytes
    return Math.max(0, this.#capacityBytes - usedBytes)
  }

  #must(id: number): Node {
    const node = this.#nodes.get(id)
    if (node === undefined) throw new OperatingError('not-found', `there is no disk ${id}`)
    return node
  }

  #tryNamed(name: string, volumeId: number | null): DiskEntry | null {
    for (const node of this.#nodes.values()) {
      if (node.name === name && node.volumeId === volumeId) return entryOf(node)
    }
    return null
  }

  #verifyFree(name: string, volumeId: number | null): void {
    if (this.#tryNamed(name, volumeId) === null) return
    throw new OperatingError('exists', `"${name}" exists already`)
  }

  #verifyUnused(id: number, allowed: RegExp | null = null): void {
    const holders = this.users(id).filter((client) => allowed?.test(client) !== true)
    if (holders.length === 0) return
    throw new OperatingError('busy', `in use by ${holders.join()}`, { details: { holders } })
  }
}

class Opened extends OpenedTarget {
  readonly #onClose: () => void

  constructor(disk: MemoryDisk, onClose: () => void) {
    super(disk)
    this.#onClose = onClose
  }

  override close(): void {
    super.close()
    this.#onClose()
  }
}

function entryOf({ id, name, volumeId, createdMs, modifiedMs, disk }: Node): DiskEntry {
  return { id, name, volumeId, sizeBytes: disk.sizeBytes, createdMs, modifiedMs }
}
