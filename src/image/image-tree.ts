/**
 * An image and the files it refers to, each opened and judged here, each within the folder that
 * was allowed. Without one an image that refers to any other file is refused.
 */
import { constants } from 'node:fs'
import { open, readlink, realpath, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { dirname, isAbsolute, join, sep } from 'node:path'
import { OperatingError } from '../base/errors.ts'
import { inspectImage } from './format/inspect.ts'
import type { BlockMap, ImageFacts, Reference, VmdkExtent } from './format/facts.ts'
import { FileBytes, imageCorrupt, mustHold, verifyVirtualSize } from './image-bytes.ts'
import { imageFileKind, imageSize } from './image-file.ts'
import type { ContainerFormat } from './image-format.ts'
import { descriptorPath, fileNode } from './qemu-node.ts'
import type { QemuNode } from './qemu-node.ts'
import { systemError } from './system-error.ts'

/** More is a mistake, or meant to keep us busy. */
const DEPTH_MAX = 64
const FILE_COUNT_MAX = 100
/** The first descriptor of a child after its standard ones. */
const DESCRIPTOR_FIRST = 3

export interface TreeOptions {
  /** The folder that holds whatever the image may refer to; null: nothing. */
  allowBacking: string | null
  sizeBytesMax: number
  signal?: AbortSignal | undefined
}

interface OpenedFile {
  handle: FileHandle
  path: string
  /** As stat says: who it is, and when it last changed. */
  mark: string
}

const BACKING_FORMATS: Record<string, ContainerFormat | 'raw' | undefined> = {
  raw: 'raw',
  qcow2: 'qcow2',
  vmdk: 'vmdk',
  vpc: 'vhd',
  vhdx: 'vhdx',
  vdi: 'vdi',
}

export class ImageTree {
  readonly #options: TreeOptions
  readonly #files: OpenedFile[] = []
  #node: QemuNode | null = null
  /** Written by us in the place of a VMDK descriptor; else null. */
  #descriptorText: string | null = null
  #blocks: BlockMap | null = null

  private constructor(options: TreeOptions) {
    this.#options = options
  }

  /** The caller closes it. Rejects as `inspectImage` does, or `unsupported` for a reference. */
  static async open(
    path: string,
    format: ContainerFormat,
    options: TreeOptions,
  ): Promise<ImageTree> {
    const tree = new ImageTree(options)
    try {
      tree.#node = await tree.#open(path, format, 0)
      return tree
    } catch (error) {
      await tree.close()
      throw error
    }
  }

  /** What QEMU opens, its files being `descriptors`, from 3 on. */
  get node(): QemuNode {
    if (this.#node === null) throw new OperatingError('io', 'the image is not open')
    return this.#node
  }

  get descriptors(): number[] {
    return this.#files.map(({ handle }) => handle.fd)
  }

  /** Real paths of the files that QEMU may have open. */
  get paths(): string[] {
    return this.#files.map(({ path }) => path)
  }

  /** Where QEMU cannot tell the holes, the image's own table; else null. */
  get blocks(): BlockMap | null {
    return this.#blocks
  }

  /** Of a VMDK whose extents are files: what QEMU reads instead, as the last descriptor. */
  get descriptorText(): string | null {
    return this.#descriptorText
  }

  get descriptorNumber(): number {
    return DESCRIPTOR_FIRST + this.#files.length
  }

  /** Rejects `io` when somebody wrote to a file since it was judged: QEMU may have seen it. */
  async verifyUnchanged(): Promise<void> {
    for (const { handle, path, mark } of this.#files) {
      if ((await markOf(handle)) === mark) continue
      throw new OperatingError('io', `${path} was changed while it was imported`, {
        hint: 'Shut down what writes to it, and import it again.',
      })
    }
  }

  async close(): Promise<void> {
    for (const { handle } of this.#files.splice(0)) await handle.close()
  }

  async #open(path: string, format: ContainerFormat | 'raw', depth: number): Promise<QemuNode> {
    const { handle, number } = await this.#add(path)
    if (format === 'raw') return fileNode('raw', number)
    const sizeBytes = await imageSize(handle, path)
    const bytes = new FileBytes(handle, sizeBytes, this.#options.signal)
    const facts = await inspectImage(format, bytes)
    if (facts.virtualSizeBytes !== null) {
      verifyVirtualSize(facts.virtualSizeBytes, this.#options.sizeBytesMax)
    }
    if (depth === 0) this.#blocks = facts.blocks
    if (facts.extents !== null) return this.#describe(path, facts.extents, depth)
    return this.#refer(path, fileNode(format, number), facts, depth)
  }

  async #refer(path: string, node: QemuNode, facts: ImageFacts, depth: number): Promise<QemuNode> {
    for (const reference of facts.references) {
      const { role, name } = reference
      const target = await this.#resolve(path, name, role)
      if (depth >= DEPTH_MAX) {
        throw imageCorrupt(`${path} is the last of ${DEPTH_MAX} images that rest on one another`)
      }
      if (role === 'data-file') {
        const { number } = await this.#add(target)
        node['data-file'] = { driver: 'file', filename: descriptorPath(number) }
      } else {
        node.backing = await this.#open(target, backingFormat(path, reference), depth + 1)
      }
    }
    return node
  }

  /** Every name in the descriptor is replaced by a descriptor of the child. */
  async #describe(path: string, extents: VmdkExtent[], depth: number): Promise<QemuNode> {
    if (depth > 0) throw refused(path, 'extents in other files')
    const lines: string[] = []
    for (const { sizeBytes, type, name, offsetBytes } of extents) {
      const head = `RW ${sizeBytes / 512} ${type}`
      if (name === null) {
        lines.push(head)
        continue
      }
      const target = await this.#resolve(path, name, 'extent')
      const { handle, number } = await this.#add(target)
      const bytes = new FileBytes(handle, await imageSize(handle, target), this.#options.signal)
      if (type === 'FLAT') {
        mustHold(bytes, offsetBytes, sizeBytes, `the extent ${target}`)
        lines.push(`${head} "${descriptorPath(number)}" ${offsetBytes / 512}`)
      } else {
        const facts = await inspectImage('vmdk', bytes)
        if (facts.extents !== null) throw imageCorrupt(`${target} is no extent`)
        lines.push(`${head} "${descriptorPath(number)}"`)
      }
    }
    const isFlat = extents.every(({ type }) => type !== 'SPARSE')
    const createType = isFlat ? 'twoGbMaxExtentFlat' : 'twoGbMaxExtentSparse'
    const head = ['# Disk DescriptorFile', 'version=1', 'CID=00000001', 'parentCID=ffffffff']
    this.#descriptorText = [...head, `createType="${createType}"`, ...lines, ''].join('\n')
    return fileNode('vmdk', this.descriptorNumber)
  }

  /** The real path of what `path` calls `name`; QEMU takes names relative to the image's folder. */
  async #resolve(path: string, name: string, what: string): Promise<string> {
    const { allowBacking } = this.#options
    if (allowBacking === null) throw refused(path, describeReference(what, name))
    if (name === '' || name.includes('\0') || /^[A-Za-z][A-Za-z0-9+.-]*:/.test(name)) {
      throw new OperatingError('unsupported', `${path} refers to what is no file: ${show(name)}`, {
        hint: 'Only files are followed. Convert the image to one that stands alone.',
        details: { path, reference: name },
      })
    }
    const folder = await resolveReal(allowBacking)
    const target = await resolveReal(isAbsolute(name) ? name : join(dirname(path), name))
    if (isWithin(target, folder)) return target
    throw new OperatingError(
      'unsupported',
      `${path} refers to ${show(name)}, which is outside ${folder}`,
      {
        hint: 'Allow the folder that holds all of its files, or convert it to one that has none.',
        details: { path, reference: name, allowed: folder },
      },
    )
  }

  async #add(path: string): Promise<{ handle: FileHandle; number: number }> {
    if (this.#files.length >= FILE_COUNT_MAX) {
      throw imageCorrupt(`the image refers to more than ${FILE_COUNT_MAX} files`)
    }
    const handle = await openReadable(path)
    try {
      const real = await readlink(`/proc/self/fd/${handle.fd}`)
      const isRoot = this.#files.length === 0
      const { allowBacking } = this.#options
      // Looked at again now that it is open: what a name leads to may have changed since.
      if (!isRoot && (allowBacking === null || !isWithin(real, await resolveReal(allowBacking)))) {
        throw refused(path, 'a file outside the folder that was allowed')
      }
      const mark = await markOf(handle)
      const inode = mark.split(' ', 1)[0]
      if (this.#files.some((file) => file.mark.split(' ', 1)[0] === inode)) {
        throw imageCorrupt(`${real} refers to itself, in a loop`)
      }
      this.#files.push({ handle, path: real, mark })
      return { handle, number: DESCRIPTOR_FIRST + this.#files.length - 1 }
    } catch (error) {
      await handle.close()
      throw error
    }
  }
}

/** `device:inode`, then what changes when somebody writes. */
async function markOf(handle: FileHandle): Promise<string> {
  const stats = await handle.stat({ bigint: true })
  const identity = `${stats.dev}:${stats.ino}`
  return stats.isFile() ? `${identity} ${stats.size} ${stats.mtimeNs} ${stats.ctimeNs}` : identity
}

function backingFormat(path: string, reference: Reference): ContainerFormat | 'raw' {
  const { format } = reference
  const known = format === null ? undefined : BACKING_FORMATS[format]
  if (known !== undefined) return known
  const said = format === null ? 'not said' : `"${show(format)}"`
  throw new OperatingError('unsupported', `the format of what ${path} rests on is ${said}`, {
    hint: 'Write it into the image: qemu-img rebase -u -F FORMAT -b FILE IMAGE',
  })
}

function describeReference(what: string, name: string): string {
  const kind = what === 'backing' ? 'a backing file' : `another file (${what})`
  return `${kind}, ${show(name)}`
}

function refused(path: string, what: string): OperatingError {
  return new OperatingError('unsupported', `${path} refers to ${what}`, {
    hint:
      'An image that is not trusted could name any file of this host. If you trust it, allow the ' +
      'folder of its files with --allow-backing DIR.',
    details: { path },
  })
}

/** A name from an image, fit for a terminal. */
function show(name: string): string {
  return name.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 200)
}

function isWithin(path: string, folder: string): boolean {
  return path.startsWith(folder.endsWith(sep) ? folder : folder + sep)
}

async function resolveReal(path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch (error) {
    throw systemError(`cannot find ${show(path)}`, error)
  }
}

/** Looked at before it is opened: opening a FIFO would wait for its writer. */
export async function openReadable(path: string): Promise<FileHandle> {
  let handle: FileHandle
  try {
    const kind = imageFileKind(await stat(path))
    if (kind !== 'file' && kind !== 'block-device') throw notAFile(path)
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw systemError(`cannot read ${path}`, error)
  }
  const opened = imageFileKind(await handle.stat())
  if (opened === 'file' || opened === 'block-device') return handle
  await handle.close()
  throw notAFile(path)
}

function notAFile(path: string): OperatingError {
  return new OperatingError('usage', `${path} is neither a file nor a block device`)
}
