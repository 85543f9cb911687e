/** Where an image layout's files are: in a folder of the host, or in an archive just unpacked. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { systemError } from '../system-error.ts'
import { contentPath } from './apply-tar.ts'
import type { ContentStore } from './content-store.ts'
import { badSource } from './limits.ts'
import type { LayoutFiles } from './oci-layout.ts'
import type { RootfsTree } from './tree.ts'

const CHUNK_BYTES = 262144

export class FolderLayout implements LayoutFiles {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  /** A folder that came out of an archive may hold links to anywhere: none is followed. */
  open(name: string): Promise<AsyncIterable<Buffer>> {
    return readRegular(join(this.#path, name), name)
  }
}

export class ArchivedLayout implements LayoutFiles {
  readonly #tree: RootfsTree
  readonly #store: ContentStore

  constructor(tree: RootfsTree, store: ContentStore) {
    this.#tree = tree
    this.#store = store
  }

  async open(name: string): Promise<AsyncIterable<Buffer>> {
    const path = contentPath(this.#store, this.#tree, name)
    if (path === null) throw badSource(`the layout has no ${name}`)
    return readRegular(path, name)
  }
}

/** The bytes of a file that is neither a link nor a pipe; closed at the end or when left. */
export async function readRegular(path: string, shown: string): Promise<AsyncIterable<Buffer>> {
  let file: FileHandle
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    throw systemError(`cannot read ${shown}`, error)
  }
  const isFile = (await file.stat()).isFile()
  if (!isFile) {
    await file.close()
    throw badSource(`${shown} is no regular file`)
  }
  return chunksOf(file, shown)
}

async function* chunksOf(file: FileHandle, shown: string): AsyncGenerator<Buffer> {
  try {
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES)
      if (bytesRead === 0) return
      yield buffer.subarray(0, bytesRead)
    }
  } catch (error) {
    throw systemError(`cannot read ${shown}`, error)
  } finally {
    await file.close()
  }
}
