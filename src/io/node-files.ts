/** The control path over node:fs, the same for ring and node: all but hot reads and syncs. */
import { close, constants, fstat, fsync, ftruncate, open } from 'node:fs'
import { lstat, mkdir, readdir, rename, rmdir, statfs, unlink } from 'node:fs/promises'
import { promisify } from 'node:util'
import { assert, assertSafe } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { FallocateKind } from './fallocate.ts'
import { fallocate } from './fallocate.ts'
import { lockFile } from './file-lock.ts'
import type { IoFile, IoFileStat, IoLock, IoSpace, OpenMode } from './io.ts'
import { EISDIR, errnoOf, withOsErrors } from './os-errors.ts'

const openFd = promisify(open)
const closeFd = promisify(close)
const statFd = promisify(fstat)
const syncFd = promisify(fsync)
const truncateFd = promisify(ftruncate)

const OPEN_FLAGS: Readonly<Record<OpenMode, number>> = {
  read: constants.O_RDONLY | constants.O_NOFOLLOW,
  write: constants.O_RDWR | constants.O_NOFOLLOW,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
}

/** st_blocks counts in these whatever the filesystem's block. */
const STAT_BLOCK_BYTES = 512

/** An open file; `fd` is -1 once closed. */
export class NodeFile implements IoFile {
  readonly path: string
  #fd: number

  constructor(path: string, fd: number) {
    this.path = path
    this.#fd = fd
  }

  get fd(): number {
    assert(this.#fd >= 0, 'the file is open')
    return this.#fd
  }

  takeFd(): number {
    const fd = this.fd
    this.#fd = -1
    return fd
  }
}

/** Narrows the interface's file to ours: a file of another Io is our bug. */
export function nodeFile(file: IoFile): NodeFile {
  assert(file instanceof NodeFile, 'the file was opened by this Io')
  return file
}

function notPlain(path: string): OperatingError {
  return new OperatingError('unsupported', `${path} is not a plain file`, {
    hint: 'The files of a pool are no links, devices or pipes: somebody else has put it there.',
    details: { path },
  })
}

export class NodeFiles {
  readonly #binding: Binding | null

  constructor(binding: Binding | null) {
    this.#binding = binding
  }

  open(path: string, mode: OpenMode): Promise<IoFile> {
    return withOsErrors('open', path, async () => {
      // A pipe planted in the place of a file would keep us waiting, a device would be written to.
      if (mode !== 'create' && !(await lstat(path)).isFile()) throw notPlain(path)
      return new NodeFile(path, await openFd(path, OPEN_FLAGS[mode], 0o600))
    })
  }

  close(file: IoFile): Promise<void> {
    const fd = nodeFile(file).takeFd()
    return withOsErrors('close', file.path, () => closeFd(fd))
  }

  stat(file: IoFile): Promise<IoFileStat> {
    const { fd } = nodeFile(file)
    return withOsErrors('stat', file.path, async () => {
      const stat = await statFd(fd)
      return { sizeBytes: stat.size, allocatedBytes: stat.blocks * STAT_BLOCK_BYTES }
    })
  }

  truncate(file: IoFile, sizeBytes: number): Promise<void> {
    assertSafe(sizeBytes, 'file size')
    const { fd } = nodeFile(file)
    return withOsErrors('truncate', file.path, () => truncateFd(fd, sizeBytes))
  }

  fallocate(
    kind: FallocateKind,
    file: IoFile,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    assertSafe(offsetBytes, 'offset')
    assertSafe(lengthBytes, 'length')
    const { fd } = nodeFile(file)
    return fallocate(kind, { fd, path: file.path, offsetBytes, lengthBytes }, this.#binding)
  }

  list(path: string): Promise<string[]> {
    return withOsErrors('list', path, async () => (await readdir(path)).sort())
  }

  createDirectory(path: string): Promise<void> {
    return withOsErrors('create', path, () => mkdir(path, 0o700))
  }

  rename(from: string, to: string): Promise<void> {
    return withOsErrors('rename', from, () => rename(from, to))
  }

  /** A file, or a folder with nothing in it. */
  remove(path: string): Promise<void> {
    return withOsErrors('remove', path, async () => {
      try {
        await unlink(path)
      } catch (error) {
        if (errnoOf(error) !== EISDIR) throw error
        await rmdir(path)
      }
    })
  }

  syncDirectory(path: string): Promise<void> {
    return withOsErrors('sync', path, async () => {
      const fd = await openFd(path, constants.O_RDONLY | constants.O_DIRECTORY)
      try {
        await syncFd(fd)
      } finally {
        await closeFd(fd)
      }
    })
  }

  space(path: string): Promise<IoSpace> {
    return withOsErrors('stat', path, async () => {
      const stat = await statfs(path)
      return { totalBytes: stat.blocks * stat.bsize, freeBytes: stat.bavail * stat.bsize }
    })
  }

  lock(path: string, holder: string): Promise<IoLock> {
    return lockFile(path, holder, this.#binding)
  }
}
