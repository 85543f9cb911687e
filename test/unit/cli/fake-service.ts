/** A pool in a few maps: enough of its manners to see what commands make of them. */
import { OperatingError } from '../../../src/base/errors.ts'
import type { ExportCall, ImportCall, LongCall, PoolService } from '../../../src/api/service.ts'
import type * as shape from '../../../src/api/shapes.ts'

export const CREATED_MS: number = Date.UTC(2026, 4, 31, 12, 0, 0)

export class FakeService implements PoolService {
  readonly disks: Map<string, shape.VolumeInfo> = new Map()
  readonly images: Map<string, Uint8Array> = new Map()
  /** Thrown by the next call of any kind. */
  failNext: Error | null = null
  closeCount = 0
  fill: shape.Fill = { state: 'ok', percent: 12, warnPercent: 85 }
  attached: shape.DeviceInfo[] = []
  readonly usageRequests: string[] = []
  readonly scrubRequests: shape.ScrubRequest[] = []
  scrubReport: shape.ScrubReport = {
    startedMs: CREATED_MS,
    endedMs: CREATED_MS + 60_000,
    readBytes: 67108864,
    foundCount: 0,
    healedCount: 0,
    lostCount: 0,
    isResumed: false,
    findings: [],
    suppressedCount: 0,
  }
  readonly mountRequests: shape.MountRequest[] = []
  #nextId = 1

  async status(): Promise<shape.ServeStatus> {
    this.#maybeFail()
    return {
      mode: 'embedded',
      processId: 1,
      version: '0.0.0',
      startedMs: CREATED_MS,
      exports: [],
      connections: [],
      mounts: [],
      fill: this.fill,
    }
  }

  async info(): Promise<shape.PoolInfo> {
    this.#maybeFail()
    const volumes = [...this.disks.values()]
    return {
      id: 'a1b2',
      path: '/pool',
      formatVersion: 1,
      createdMs: CREATED_MS,
      logicalBytes: volumes.reduce((sum, volume) => sum + volume.sizeBytes, 0),
      mappedBytes: volumes.reduce((sum, volume) => sum + volume.mappedBytes, 0),
      physicalBytes: 67108864,
      capacityBytes: 0,
      freeBytes: 1073741824,
      fill: this.fill,
      volumeCount: volumes.length,
      snapshotCount: volumes.reduce((sum, volume) => sum + volume.snapshots.length, 0),
      segmentCount: 1,
      failure: null,
    }
  }

  async volumes(): Promise<shape.VolumeInfo[]> {
    this.#maybeFail()
    return [...this.disks.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1))
  }

  async volume(name: string): Promise<shape.VolumeInfo> {
    this.#maybeFail()
    const found = this.disks.get(name)
    if (found !== undefined) return found
    throw new OperatingError('not-found', `there is no volume ${name}`, {
      hint: 'see `varve list`',
      details: { name },
    })
  }

  async create(request: shape.CreateVolume): Promise<shape.VolumeInfo> {
    this.#maybeFail()
    return this.#add(request.name, request.sizeBytes, null, request.labels ?? {})
  }

  async snapshot(names: string[]): Promise<shape.SnapshotInfo[]> {
    this.#maybeFail()
    const taken: shape.SnapshotInfo[] = []
    for (const name of names) {
      const [volumeName, snapshot] = name.split('@')
      const volume = await this.volume(volumeName)
      const { sizeBytes, mappedBytes } = volume
      const times = { createdMs: CREATED_MS, modifiedMs: CREATED_MS, holds: [] }
      taken.push({ name, volume: volumeName, snapshot, sizeBytes, mappedBytes, ...times })
      volume.snapshots.push(taken[taken.length - 1])
    }
    return taken
  }

  async clone(source: string, names: string[]): Promise<shape.VolumeInfo[]> {
    this.#maybeFail()
    const { sizeBytes } = await this.volume(source.split('@')[0])
    return names.map((name) => this.#add(name, sizeBytes, source, {}))
  }

  restore(name: string): Promise<shape.VolumeInfo> {
    return this.volume(name.split('@')[0])
  }

  async remove(request: shape.RemoveRequest): Promise<shape.RemoveReport> {
    this.#maybeFail()
    for (const name of request.names) {
      const volume = await this.volume(name)
      if (volume.holds.length > 0 || (volume.snapshots.length > 0 && !request.recursive)) {
        const dependents = volume.snapshots.map((snapshot) => snapshot.name)
        throw new OperatingError('busy', `${name} has dependents`, { details: { dependents } })
      }
    }
    if (!request.dryRun) for (const name of request.names) this.disks.delete(name)
    return {
      removed: request.names,
      freedBytes: request.dryRun ? 4096 * request.names.length : null,
    }
  }

  async rename(from: string, to: string): Promise<void> {
    const volume = await this.volume(from)
    this.disks.delete(from)
    this.disks.set(to, { ...volume, name: to })
  }

  async resize(request: shape.ResizeRequest): Promise<shape.VolumeInfo> {
    const volume = await this.volume(request.name)
    if (request.sizeBytes < volume.sizeBytes && !request.allowShrink) {
      throw new OperatingError('usage', `${request.name} would shrink`, { hint: 'use --shrink' })
    }
    volume.sizeBytes = request.sizeBytes
    return volume
  }

  async hold(name: string, tag: string): Promise<void> {
    const { holds } = await this.volume(name)
    holds.push(tag)
  }

  async release(name: string, tag: string): Promise<void> {
    const { holds } = await this.volume(name)
    holds.splice(holds.indexOf(tag), 1)
  }

  async fuseMount(request: shape.FuseRequest): Promise<shape.MountedFilesystem> {
    this.#maybeFail()
    const { path, allowOther } = request
    return { path, transport: 'native', allowOther, isOwn: false }
  }

  async fuseUnmount(): Promise<void> {
    this.#maybeFail()
  }

  async exportSocket(request: shape.SocketRequest): Promise<shape.ExportSocket> {
    this.#maybeFail()
    const { name, path, readOnly } = request
    return { name, path: path ?? `/pool/vhost-user/${name}.sock`, readOnly }
  }

  async withdrawSocket(name: string): Promise<shape.ExportSocket[]> {
    this.#maybeFail()
    return [{ name, path: `/pool/vhost-user/${name}.sock`, readOnly: false }]
  }

  async attach(request: shape.AttachRequest): Promise<shape.DeviceInfo> {
    this.#maybeFail()
    const { sizeBytes } = await this.volume(request.name.split('@')[0])
    const device: shape.DeviceInfo = {
      name: request.name,
      device: `/dev/loop${this.attached.length}`,
      kind: request.via === 'nbd' ? 'nbd' : 'loop',
      partition: null,
      sizeBytes,
      sectorSizeBytes: request.sectorSizeBytes,
      readOnly: request.readOnly || request.name.includes('@'),
      directIo: true,
      isKept: true,
      isDraining: false,
      mounts: [],
    }
    this.attached.push(device)
    return device
  }

  async detach(target: string): Promise<shape.DeviceInfo[]> {
    this.#maybeFail()
    const isMeant = ({ name, device }: shape.DeviceInfo) => name === target || device === target
    const found = this.attached.filter(isMeant)
    this.attached = this.attached.filter((device) => !isMeant(device))
    return found
  }

  async devices(): Promise<shape.DeviceInfo[]> {
    this.#maybeFail()
    return this.attached
  }

  async mount(request: shape.MountRequest): Promise<shape.MountInfo> {
    this.#maybeFail()
    this.mountRequests.push(request)
    const { name, directory, partition } = request
    const { device, readOnly, mounts } = await this.attach({
      name,
      readOnly: request.readOnly,
      via: request.via,
      sectorSizeBytes: 512,
    })
    mounts.push(directory)
    return { name, directory, device, partition, type: 'ext4', readOnly }
  }

  async umount(target: string): Promise<shape.MountInfo[]> {
    this.#maybeFail()
    return this.attached.flatMap(({ name, device, mounts, readOnly }) =>
      mounts
        .filter((directory) => directory === target || name === target)
        .map((directory) => {
          return { name, directory, device, partition: null, type: 'ext4', readOnly }
        }),
    )
  }

  async mkfs(request: shape.MkfsRequest): Promise<shape.MkfsReport> {
    this.#maybeFail()
    const { sizeBytes } = await this.volume(request.name)
    return { name: request.name, type: request.type, sizeBytes }
  }

  /** Extents that differ in length, so that one lost or doubled is seen. */
  async *diff(from: string | null, to: string): AsyncGenerator<shape.DiffExtent> {
    await this.volume(to.split('@')[0])
    const count = from === null ? 3 : 1000
    for (let index = 0; index < count; index += 1) {
      const kind = index % 2 === 0 ? 'data' : 'zero'
      yield { offsetBytes: index * 1048576, lengthBytes: 4096 * (1 + (index % 7)), kind }
    }
  }

  async reclaim(call: LongCall<shape.ReclaimProgress>): Promise<shape.ReclaimReport> {
    this.#maybeFail()
    call.progress?.({ phase: 'mark', done: 1, total: 2 })
    return {
      liveBytes: 4096,
      orderedBytes: 0,
      deletedSegmentCount: 1,
      punchedBytes: 8192,
      settledSegmentCount: 0,
      skippedSegmentCount: 0,
      zeroBytes: 0,
      duplicateBytes: 0,
      droppedBytes: 0,
      encodedFromBytes: 0,
      encodedToBytes: 0,
      physicalBeforeBytes: 134217728,
      physicalAfterBytes: 67108864,
    }
  }

  /** What is mapped is stored once, and nothing is shared. */
  async usage(
    request: shape.UsageRequest,
    call: LongCall<shape.UsageProgress>,
  ): Promise<shape.UsageReport> {
    this.#maybeFail()
    this.usageRequests.push(request.by)
    call.progress?.({ phase: 'maps', done: 1, total: 2 })
    const volumes = [...this.disks.values()]
    const disks = volumes.flatMap((volume) => [volume, ...volume.snapshots])
    const rows = (request.by === 'disk' ? disks : volumes).map((disk) => {
      const { sizeBytes, mappedBytes } = disk
      const counts = { volumeCount: 'snapshots' in disk ? 1 : 0, snapshotCount: 0 }
      return { name: disk.name, ...counts, ...usageOf(sizeBytes, mappedBytes) }
    })
    const sum = (pick: (row: shape.UsageRow) => number): number =>
      rows.reduce((total, row) => total + pick(row), 0)
    const storedBytes = sum((row) => row.storedBytes)
    const pool = {
      volumeCount: volumes.length,
      snapshotCount: disks.length - volumes.length,
      ...usageOf(
        sum((row) => row.logicalBytes),
        storedBytes,
      ),
      internalBytes: 4096,
      overheadBytes: 67108864 - storedBytes - 4096,
      physicalBytes: 67108864,
      reserveBytes: 2097152,
    }
    return { by: request.by, rows, pool }
  }

  upkeep(isPaused: boolean | null): Promise<shape.UpkeepStatus> {
    const isNow = isPaused ?? false
    return Promise.resolve({ idle: 'lz4', isPaused: isNow, phase: null, done: 0, total: 0 })
  }

  scrubStatus(): Promise<shape.ScrubStatus> {
    const { startedMs, endedMs, readBytes, foundCount, healedCount, lostCount } = this.scrubReport
    const last = { startedMs, endedMs, readBytes, foundCount, healedCount, lostCount }
    const none = { phase: null, done: 0, total: 0, isPaused: false, everyDays: 30, running: null }
    return Promise.resolve({ ...none, last })
  }

  scrub(
    request: shape.ScrubRequest,
    call: LongCall<shape.ScrubProgress>,
  ): Promise<shape.ScrubReport> {
    this.scrubRequests.push(request)
    call.progress?.({ phase: 'segments', done: 1, total: 2 })
    return Promise.resolve(this.scrubReport)
  }

  async settle(
    _request: shape.SettleRequest,
    call: LongCall<shape.ReclaimProgress>,
  ): Promise<shape.ReclaimReport> {
    return { ...(await this.reclaim(call)), settledSegmentCount: 2, duplicateBytes: 4096 }
  }

  async importImage(request: shape.ImportRequest, call: ImportCall): Promise<shape.ImportReport> {
    this.#maybeFail()
    if (request.path === null && request.sizeBytes === null) {
      throw new OperatingError('usage', 'a stream does not say how long it is')
    }
    const chunks: Uint8Array[] = []
    let imageBytes = 0
    for await (const chunk of call.input ?? []) {
      if (call.signal?.aborted === true) throw new OperatingError('canceled', 'canceled')
      chunks.push(Uint8Array.from(chunk))
      imageBytes += chunk.length
      call.progress?.({ doneBytes: imageBytes, totalBytes: request.sizeBytes ?? 0 })
      if (imageBytes > (request.sizeBytes ?? Infinity)) {
        throw new OperatingError('out-of-range', 'the stream is longer than the volume')
      }
    }
    this.images.set(request.name, Buffer.concat(chunks))
    const volume = this.#add(request.name, request.sizeBytes ?? imageBytes, null, request.labels)
    return { volume, imageBytes, dataBytes: imageBytes }
  }

  /** The image, then as many zeros as the volume is longer. */
  async exportImage(request: shape.ExportRequest, call: ExportCall): Promise<shape.ExportReport> {
    const { sizeBytes } = await this.volume(request.name)
    const image = this.images.get(request.name) ?? new Uint8Array()
    if (image.length > 0) await call.output?.data(image)
    call.progress?.({ doneBytes: image.length, totalBytes: sizeBytes })
    this.#maybeFail()
    if (sizeBytes > image.length) await call.output?.zeros(sizeBytes - image.length)
    return { name: request.name, imageBytes: sizeBytes, dataBytes: image.length }
  }

  async close(): Promise<void> {
    this.closeCount += 1
  }

  #add(
    name: string,
    sizeBytes: number,
    origin: string | null,
    labels: Record<string, string>,
  ): shape.VolumeInfo {
    if (this.disks.has(name)) throw new OperatingError('exists', `${name} already exists`)
    const volume: shape.VolumeInfo = {
      name,
      id: this.#nextId,
      sizeBytes,
      mappedBytes: 4096 * this.#nextId,
      createdMs: CREATED_MS,
      modifiedMs: CREATED_MS,
      origin,
      labels,
      holds: [],
      clients: [],
      snapshots: [],
    }
    this.#nextId += 1
    this.disks.set(name, volume)
    return volume
  }

  #maybeFail(): void {
    const error = this.failNext
    this.failNext = null
    if (error !== null) throw error
  }
}

function usageOf(sizeBytes: number, storedBytes: number): shape.Usage {
  return {
    logicalBytes: sizeBytes,
    mappedBytes: storedBytes,
    referencedBytes: storedBytes,
    storedBytes,
    exclusiveBytes: storedBytes,
    sharedBytes: 0,
    amortisedBytes: storedBytes,
    metadataBytes: 0,
    thinBytes: Math.max(0, sizeBytes - storedBytes),
    zeroBytes: 0,
    cloneBytes: 0,
    dedupBytes: 0,
    compressionBytes: 0,
  }
}
