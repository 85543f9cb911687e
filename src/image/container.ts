/**
 * An image that QEMU reads for us. It is looked at first (`image-tree.ts`), then served by a
 * qemu-nbd of its own, read-only, on a socket that only we can reach; what that process has open
 * is compared with what it was given before a byte of it is believed.
 */
import { open, readdir, readlink, writeFile } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { OperatingError } from '../base/errors.ts'
import { MappedReader, importNbd } from './import-nbd.ts'
import { throwIfCanceled } from './import-raw.ts'
import type { BlockSink, CopyOptions } from './import-raw.ts'
import { verifyVirtualSize } from './image-bytes.ts'
import type { ContainerFormat } from './image-format.ts'
import { ImageTree } from './image-tree.ts'
import { LimitedProcess } from './limited-process.ts'
import { NbdClient } from './nbd-client.ts'
import { makePrivateFolder } from './private-folder.ts'
import type { PrivateFolder } from './private-folder.ts'
import { nodeName } from './qemu-node.ts'

export interface ContainerOptions {
  /** The folder that holds whatever the image may refer to; null: nothing. */
  allowBacking: string | null
  sizeBytesMax: number
  signal?: AbortSignal | undefined
  cpuSecondsMax: number
}

const START_TIMEOUT_MS = 30_000
const START_POLL_MS = 5

export class Container {
  readonly #tree: ImageTree
  readonly #folder: PrivateFolder
  readonly #server: LimitedProcess
  readonly #client: NbdClient
  readonly #forget: () => void

  private constructor(
    tree: ImageTree,
    folder: PrivateFolder,
    server: LimitedProcess,
    client: NbdClient,
    signal: AbortSignal | undefined,
  ) {
    this.#tree = tree
    this.#folder = folder
    this.#server = server
    this.#client = client
    // Reads that wait for QEMU end with it.
    const kill = (): void => void server.kill()
    signal?.addEventListener('abort', kill)
    this.#forget = () => signal?.removeEventListener('abort', kill)
  }

  /** The caller closes it. Rejects as `ImageTree.open` does, and `io` with what QEMU says. */
  static async open(
    path: string,
    format: ContainerFormat,
    options: ContainerOptions,
  ): Promise<Container> {
    const tree = await ImageTree.open(path, format, options)
    let folder: PrivateFolder | null = null
    let server: LimitedProcess | null = null
    let client: NbdClient | null = null
    try {
      folder = await makePrivateFolder()
      server = await startServer(tree, folder, options.cpuSecondsMax)
      client = await connectTo(server, join(folder.path, 'nbd'), path, options.signal)
      await verifyOpenFiles(server, [...tree.paths, folder.path])
      verifyVirtualSize(client.sizeBytes, options.sizeBytesMax)
      return new Container(tree, folder, server, client, options.signal)
    } catch (error) {
      client?.close()
      await server?.kill()
      await folder?.remove()
      await tree.close()
      throw error
    }
  }

  get sizeBytes(): number {
    return this.#client.sizeBytes
  }

  /** Resolves to the bytes that were read. */
  async copy(sink: BlockSink, options: CopyOptions): Promise<number> {
    try {
      const map = this.#tree.blocks
      const reader = map === null ? this.#client : new MappedReader(this.#client, map)
      const dataBytes = await importNbd(reader, sink, options)
      await this.#tree.verifyUnchanged()
      return dataBytes
    } catch (error) {
      throwIfCanceled(options.signal)
      throw error
    }
  }

  async close(): Promise<void> {
    this.#forget()
    this.#client.close()
    await this.#server.kill()
    await this.#folder.remove()
    await this.#tree.close()
  }
}

async function startServer(
  tree: ImageTree,
  folder: PrivateFolder,
  cpuSecondsMax: number,
): Promise<LimitedProcess> {
  const descriptors = tree.descriptors
  let description: FileHandle | null = null
  try {
    if (tree.descriptorText !== null) {
      const path = join(folder.path, 'descriptor.vmdk')
      await writeFile(path, tree.descriptorText)
      description = await open(path, 'r')
      descriptors.push(description.fd)
    }
    const socket = `--socket=${join(folder.path, 'nbd')}`
    const args = ['--read-only', '--shared=1', socket, nodeName(tree.node)]
    return LimitedProcess.start('qemu-nbd', args, { descriptors, cpuSecondsMax })
  } finally {
    await description?.close()
  }
}

/** QEMU opens the image before it listens. */
async function connectTo(
  server: LimitedProcess,
  socketPath: string,
  imagePath: string,
  signal: AbortSignal | undefined,
): Promise<NbdClient> {
  const deadlineMs = performance.now() + START_TIMEOUT_MS
  while (!server.isOver) {
    const client = await NbdClient.tryConnect(socketPath)
    if (client !== null) return client
    throwIfCanceled(signal)
    if (performance.now() > deadlineMs) {
      throw new OperatingError('io', `QEMU does not open ${imagePath} within 30 s`)
    }
    await sleep(START_POLL_MS)
  }
  const said = server.complaint()
  throw new OperatingError('io', `QEMU cannot open ${imagePath}${said === '' ? '' : `: ${said}`}`, {
    hint: 'The image may be damaged, or in use by a virtual machine.',
    details: { path: imagePath },
  })
}

/** What was judged is what is open: no name in an image has led QEMU anywhere else. */
async function verifyOpenFiles(server: LimitedProcess, allowed: readonly string[]): Promise<void> {
  const folder = `/proc/${server.processId}/fd`
  for (const name of await readdir(folder)) {
    let target: string
    try {
      target = await readlink(join(folder, name))
    } catch {
      continue
    }
    if (!target.startsWith('/') || target.startsWith('/dev/null')) continue
    if (target.startsWith('/memfd:')) continue
    if (allowed.some((path) => target === path || target.startsWith(`${path}/`))) continue
    throw new OperatingError('unsupported', `QEMU opened ${target}, which it was not given`, {
      hint: 'Do not trust this image. Report it if you made it yourself.',
    })
  }
}
