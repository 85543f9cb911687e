/**
 * libfuse's calls, which name files by path, as calls of the filesystem, which names them by node.
 * A path is looked up anew for every call: libfuse's own memory of names is told to forget at
 * once, so that what changes elsewhere shows here.
 */
import { constants } from 'node:fs'
import { Errno } from '../../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../../base/units.ts'
import type { Arena } from '../../io/arena.ts'
import { errnoOf, refusal } from './errors.ts'
import type { LibfuseCallbacks, LibfuseSpace, LibfuseStat, XattrReply } from './fuse-native.ts'
import type { Reply } from './fuse-native.ts'
import { LibfuseData } from './libfuse-data.ts'
import { NAME_BYTES_MAX } from './names.ts'
import { SNAPSHOTS_NODE, VOLUMES_NODE } from './nodes.ts'
import type {
  Attributes,
  DirectoryEntry,
  FileOperations,
  FilesystemSpace,
  HandleNumber,
  NodeNumber,
} from './operations.ts'
import { ATTRIBUTE_PREFIX, CLIENT_PREFIX, ROOT_NODE } from './operations.ts'

const SECTOR_BYTES = 512
const PERMISSION_BITS = 0o7777
const UNCHANGED_ID = 0xffffffff
const UINT32_MAX = 0xffffffff

/** Folders that are always there; to look one up counts all that is in it. */
const FIXED_NODES: ReadonlyMap<string, NodeNumber> = new Map([
  ['/', ROOT_NODE],
  ['/volumes', VOLUMES_NODE],
  ['/snapshots', SNAPSHOTS_NODE],
])

/** A reply with something in it, or with -errno alone. */
type ValueReply<T> = (result: number, value?: T) => void

export class LibfuseCalls implements LibfuseCallbacks {
  readonly #operations: FileOperations
  readonly #data: LibfuseData
  /** Nodes of open files. */
  readonly #handles = new Map<HandleNumber, NodeNumber>()
  #pathCallCount = 0

  constructor(operations: FileOperations, arena: Arena) {
    this.#operations = operations
    this.#data = new LibfuseData(operations, arena)
  }

  /** True when no call is under way. */
  get isIdle(): boolean {
    return this.#pathCallCount === 0 && this.#data.isIdle
  }

  get openCount(): number {
    return this.#handles.size
  }

  /** Of an unmounted filesystem: the kernel does not tell what it no longer has open. */
  closeAll(): void {
    for (const handle of this.#handles.keys()) this.#operations.close(handle)
    this.#handles.clear()
  }

  getattr(path: string, reply: ValueReply<LibfuseStat>): void {
    this.#answerWith(reply, async () => statOf(await this.#find(path)))
  }

  readdir(
    path: string,
    reply: (result: number, names?: string[], stats?: LibfuseStat[]) => void,
  ): void {
    this.#answer(reply, async () => {
      const node = await this.#nodeOf(path)
      const parent = await this.#nodeOf(split(path).parentPath)
      const entries = [
        { name: '.', node, isDirectory: true },
        { name: '..', node: parent, isDirectory: true },
        ...(await this.#operations.list(node)),
      ]
      reply(
        0,
        entries.map(({ name }) => name),
        entries.map(entryStatOf),
      )
    })
  }

  statfs(_path: string, reply: ValueReply<LibfuseSpace>): void {
    this.#answerWith(reply, async () => spaceOf(await this.#operations.space()))
  }

  open(path: string, flags: number, reply: ValueReply<HandleNumber>): void {
    this.#answerWith(reply, async () => {
      const { node } = await this.#find(path)
      const isWritable = (flags & (constants.O_WRONLY | constants.O_RDWR)) !== 0
      return this.#open(node, isWritable)
    })
  }

  create(path: string, _mode: number, reply: ValueReply<HandleNumber>): void {
    this.#answerWith(reply, async () => {
      const { parentPath, name } = split(path)
      const { node } = await this.#operations.create(await this.#nodeOf(parentPath), name)
      return this.#open(node, true)
    })
  }

  read(
    _path: string,
    handle: HandleNumber,
    buffer: Buffer,
    _lengthBytes: number,
    offsetBytes: number,
    reply: Reply,
  ): void {
    if (!Number.isSafeInteger(offsetBytes)) return reply(0)
    this.#data.read(handle, buffer, offsetBytes, reply)
  }

  write(
    _path: string,
    handle: HandleNumber,
    buffer: Buffer,
    _lengthBytes: number,
    offsetBytes: number,
    reply: Reply,
  ): void {
    if (!Number.isSafeInteger(offsetBytes)) return reply(-Errno.EFBIG)
    this.#data.write(handle, buffer, offsetBytes, reply)
  }

  fsync(_path: string, _isDataOnly: number, handle: HandleNumber, reply: Reply): void {
    this.#data.flush(handle, reply)
  }

  release(_path: string, handle: HandleNumber, reply: Reply): void {
    this.#answerDone(reply, async () => {
      this.#handles.delete(handle)
      this.#operations.close(handle)
    })
  }

  truncate(path: string, sizeBytes: number, reply: Reply): void {
    this.#answerDone(reply, async () => this.#resize(await this.#nodeOf(path), sizeBytes))
  }

  ftruncate(path: string, handle: HandleNumber, sizeBytes: number, reply: Reply): void {
    this.#answerDone(reply, async () => {
      await this.#resize(this.#handles.get(handle) ?? (await this.#nodeOf(path)), sizeBytes)
    })
  }

  utimens(path: string, _accessedMs: number, modifiedMs: number, reply: Reply): void {
    this.#answerDone(reply, async () => {
      if (!Number.isSafeInteger(modifiedMs)) throw refusal(Errno.EINVAL, 'a time out of range')
      await this.#operations.change(await this.#nodeOf(path), { modifiedMs })
    })
  }

  chmod(path: string, mode: number, reply: Reply): void {
    this.#answerDone(reply, async () => {
      await this.#operations.change(await this.#nodeOf(path), { mode: mode & PERMISSION_BITS })
    })
  }

  chown(path: string, userId: number, groupId: number, reply: Reply): void {
    this.#answerDone(reply, async () => {
      await this.#operations.change(await this.#nodeOf(path), {
        ...(userId === UNCHANGED_ID ? {} : { userId }),
        ...(groupId === UNCHANGED_ID ? {} : { groupId }),
      })
    })
  }

  unlink(path: string, reply: Reply): void {
    this.#answerByName(path, reply, (parent, name) => this.#operations.unlink(parent, name))
  }

  mkdir(path: string, _mode: number, reply: Reply): void {
    this.#answerByName(path, reply, (parent, name) => this.#operations.makeDirectory(parent, name))
  }

  rmdir(path: string, reply: Reply): void {
    this.#answerByName(path, reply, (parent, name) =>
      this.#operations.removeDirectory(parent, name),
    )
  }

  rename(path: string, newPath: string, reply: Reply): void {
    this.#answerDone(reply, async () => {
      const from = split(path)
      const to = split(newPath)
      const parent = await this.#nodeOf(from.parentPath)
      const newParent = await this.#nodeOf(to.parentPath)
      await this.#operations.rename(parent, from.name, newParent, to.name)
    })
  }

  /** Pipes, devices and links have no place here. */
  mknod(_path: string, _mode: number, _device: number, reply: Reply): void {
    reply(-Errno.EPERM)
  }

  link(_path: string, _newPath: string, reply: Reply): void {
    reply(-Errno.EPERM)
  }

  symlink(_target: string, _path: string, reply: Reply): void {
    reply(-Errno.EPERM)
  }

  getxattr(path: string, name: string, reply: XattrReply): void {
    // The kernel asks for attributes of other kinds at every write.
    if (!name.startsWith(ATTRIBUTE_PREFIX)) return reply(-Errno.ENODATA)
    this.#answerWith(reply, async () => {
      return Buffer.from(await this.#operations.attribute(await this.#nodeOf(path), name))
    })
  }

  listxattr(path: string, reply: XattrReply): void {
    this.#answerWith(reply, async () => {
      const names = await this.#operations.attributeNames(await this.#nodeOf(path))
      return Buffer.from(names.map((name) => `${name}\0`).join(''))
    })
  }

  /** Attributes here only tell. */
  setxattr(
    _path: string,
    _name: string,
    _value: Buffer,
    _position: number,
    _flags: number,
    reply: Reply,
  ): void {
    reply(-Errno.EPERM)
  }

  removexattr(_path: string, _name: string, reply: Reply): void {
    reply(-Errno.EPERM)
  }

  #open(node: NodeNumber, isWritable: boolean): HandleNumber {
    // libfuse knows the process, but fuse-native does not say.
    const handle = this.#operations.open(node, isWritable, CLIENT_PREFIX)
    this.#handles.set(handle, node)
    return handle
  }

  async #resize(node: NodeNumber, sizeBytes: number): Promise<void> {
    if (!Number.isSafeInteger(sizeBytes)) throw refusal(Errno.EFBIG, 'a size out of range')
    await this.#operations.change(node, { sizeBytes })
  }

  async #nodeOf(path: string): Promise<NodeNumber> {
    return FIXED_NODES.get(path) ?? (await this.#find(path)).node
  }

  async #find(path: string): Promise<Attributes> {
    if (path === '/') return this.#operations.attributes(ROOT_NODE)
    const { parentPath, name } = split(path)
    return this.#operations.lookup(await this.#nodeOf(parentPath), name)
  }

  #answerByName(
    path: string,
    reply: Reply,
    work: (parent: NodeNumber, name: string) => Promise<unknown>,
  ): void {
    this.#answerDone(reply, async () => {
      const { parentPath, name } = split(path)
      await work(await this.#nodeOf(parentPath), name)
    })
  }

  /** `work` replies itself, unless it fails. */
  #answer(reply: (result: number) => void, work: () => Promise<void>): void {
    this.#pathCallCount += 1
    void work()
      .catch((error: unknown) => {
        // What is none of the world's errors is thrown on, once the caller has its answer.
        let errno: number = Errno.EIO
        try {
          errno = errnoOf(error)
        } finally {
          reply(-errno)
        }
      })
      .finally(() => {
        this.#pathCallCount -= 1
      })
  }

  #answerWith<T>(reply: ValueReply<T>, work: () => Promise<T>): void {
    this.#answer(reply, async () => reply(0, await work()))
  }

  #answerDone(reply: Reply, work: () => Promise<void>): void {
    this.#answer(reply, async () => {
      await work()
      reply(0)
    })
  }
}

/** The root's parent is the root. */
function split(path: string): { parentPath: string; name: string } {
  const slash = path.lastIndexOf('/')
  return { parentPath: path.slice(0, slash) || '/', name: path.slice(slash + 1) }
}

function typeOf(isDirectory: boolean): number {
  return isDirectory ? constants.S_IFDIR : constants.S_IFREG
}

function statOf(attributes: Attributes): LibfuseStat {
  if (attributes.node > UINT32_MAX) throw refusal(Errno.EOVERFLOW, 'a node beyond 32 bits')
  return {
    mode: typeOf(attributes.isDirectory) | attributes.mode,
    uid: attributes.userId,
    gid: attributes.groupId,
    nlink: attributes.linkCount,
    ino: attributes.node,
    size: attributes.sizeBytes,
    blocks: Math.ceil(attributes.allocatedBytes / SECTOR_BYTES),
    blksize: BLOCK_SIZE_BYTES,
    atime: Math.floor(attributes.modifiedMs),
    mtime: Math.floor(attributes.modifiedMs),
    ctime: Math.floor(attributes.modifiedMs),
  }
}

/** A listing carries only type and number. */
function entryStatOf({ node, isDirectory }: DirectoryEntry): LibfuseStat {
  const none = { uid: 0, gid: 0, nlink: 1, size: 0, blocks: 0, blksize: 0 }
  return { ...none, mode: typeOf(isDirectory), ino: node, atime: 0, mtime: 0, ctime: 0 }
}

/** The unit grows until the count fits 32 bits. */
function spaceOf({ totalBytes, freeBytes, nodeCount }: FilesystemSpace): LibfuseSpace {
  let unitBytes = BLOCK_SIZE_BYTES
  while (totalBytes / unitBytes > UINT32_MAX) unitBytes *= 2
  const freeCount = Math.floor(freeBytes / unitBytes)
  return {
    bsize: unitBytes,
    frsize: unitBytes,
    blocks: Math.floor(totalBytes / unitBytes),
    bfree: freeCount,
    bavail: freeCount,
    files: Math.min(nodeCount, UINT32_MAX),
    ffree: 0,
    favail: 0,
    namemax: NAME_BYTES_MAX,
  }
}
