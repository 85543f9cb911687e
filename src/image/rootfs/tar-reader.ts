/**
 * A tar archive as a sequence of entries: ustar, PAX and GNU, with long names, big numbers and
 * sparse files of all four formats. Nothing is written here, and no name is judged but for size.
 */
import type { ByteReader } from './byte-reader.ts'
import { FILE_BYTES_MAX, HEADER_BYTES_MAX, badSource } from './limits.ts'
import { decodePax, paxAttributes, paxCount, paxSeconds } from './pax.ts'
import { sparseNumber, sparsePiecesOf } from './pax.ts'
import type { PaxHeader } from './pax.ts'
import { shownPath } from './raw-path.ts'
import { TAR_BLOCK_BYTES, decodeGnuExtension, decodeGnuSparse } from './tar-header.ts'
import { decodeTarHeader, isZeroBlock } from './tar-header.ts'
import type { SparsePiece, TarHeader } from './tar-header.ts'

export type TarKind = 'file' | 'directory' | 'symlink' | 'hardlink' | 'character' | 'block' | 'fifo'

export interface TarEntry {
  kind: TarKind
  name: string
  linkName: string
  mode: number
  userId: number
  groupId: number
  mtimeSeconds: number
  major: number
  minor: number
  /** Of a file, holes included. */
  sizeBytes: number
  xattrs: Map<string, Buffer>
}

export interface TarChunk {
  offsetBytes: number
  bytes: Buffer
}

const KINDS: Record<string, TarKind> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
}
const CHUNK_BYTES = 65536
/** Sixteen bytes of memory each. */
const PIECE_COUNT_MAX = 1_000_000

/** What headers before an entry say of it. */
interface Extension {
  pax: PaxHeader | null
  name: string | null
  linkName: string | null
}

export class TarReader {
  readonly #input: ByteReader
  readonly #globals = new Map<string, string>()
  /** Of the entry that is being read: bytes of its data and of what fills its last block. */
  #storedBytes = 0
  #paddingBytes = 0
  #pieces: SparsePiece[] = []
  #isEndMarked = false

  constructor(input: ByteReader) {
    this.#input = input
  }

  /** Whether the archive ended as an archive does, rather than where its bytes happened to. */
  get isEndMarked(): boolean {
    return this.#isEndMarked
  }

  /** The next entry, whatever was left of the one before; null after the last. */
  async next(): Promise<TarEntry | null> {
    await this.#input.discard(this.#storedBytes + this.#paddingBytes)
    this.#expect(0)
    const extension: Extension = { pax: null, name: null, linkName: null }
    for (;;) {
      const block = await this.#input.tryRead(TAR_BLOCK_BYTES)
      if (block === null) return null
      if (isZeroBlock(block)) {
        this.#isEndMarked = true
        return null
      }
      const header = decodeTarHeader(block)
      if (await this.#extend(extension, header)) continue
      return this.#entry(header, block, extension)
    }
  }

  /** The data of the entry that `next` gave, in order, without its holes. */
  async *body(): AsyncGenerator<TarChunk> {
    for (const piece of this.#pieces) {
      const endBytes = piece.offsetBytes + piece.lengthBytes
      for (let at = piece.offsetBytes; at < endBytes;) {
        const lengthBytes = Math.min(CHUNK_BYTES - (at % CHUNK_BYTES), endBytes - at)
        const bytes = await this.#input.mustRead(lengthBytes)
        this.#storedBytes -= lengthBytes
        yield { offsetBytes: at, bytes }
        at += lengthBytes
      }
    }
  }

  /** Whether it was a header that belongs to the next entry. */
  async #extend(extension: Extension, header: TarHeader): Promise<boolean> {
    switch (header.type) {
      case 'x':
      case 'X':
        extension.pax = decodePax(await this.#headerBody(header))
        return true
      case 'g':
        for (const [key, value] of decodePax(await this.#headerBody(header)).values) {
          this.#globals.set(key, value)
        }
        return true
      case 'L':
        extension.name = untilZero(await this.#headerBody(header))
        return true
      case 'K':
        extension.linkName = untilZero(await this.#headerBody(header))
        return true
      case 'V':
        await this.#headerBody(header)
        return true
      default:
        return false
    }
  }

  async #headerBody(header: TarHeader): Promise<Buffer> {
    const { sizeBytes } = header
    if (sizeBytes > HEADER_BYTES_MAX) {
      throw badSource(`an extended header is longer than ${HEADER_BYTES_MAX} bytes`)
    }
    const bytes = await this.#input.mustRead(sizeBytes)
    await this.#input.discard(paddingOf(sizeBytes))
    return bytes
  }

  async #entry(header: TarHeader, block: Buffer, extension: Extension): Promise<TarEntry> {
    const own = extension.pax?.values ?? new Map<string, string>()
    const values = this.#globals.size === 0 ? own : new Map([...this.#globals, ...own])
    const name = values.get('path') ?? extension.name ?? header.name
    const kind = kindOf(header, name)
    const hasData = kind === 'file'
    const storedBytes = hasData ? (paxCount(values, 'size') ?? header.sizeBytes) : 0
    this.#expect(storedBytes)
    const entry: TarEntry = {
      kind,
      name: values.get('GNU.sparse.name') ?? name,
      linkName: values.get('linkpath') ?? extension.linkName ?? header.linkName,
      mode: header.mode,
      userId: paxCount(values, 'uid') ?? header.userId,
      groupId: paxCount(values, 'gid') ?? header.groupId,
      mtimeSeconds: paxSeconds(values, 'mtime') ?? header.mtimeSeconds,
      major: header.major,
      minor: header.minor,
      sizeBytes: storedBytes,
      xattrs: paxAttributes(values),
    }
    if (!hasData) return entry
    if (header.type === 'S') entry.sizeBytes = await this.#readGnuMap(block)
    else await this.#readPaxMap(entry, values, extension.pax?.sparsePairs ?? [])
    if (entry.sizeBytes > FILE_BYTES_MAX) {
      throw badSource(`a file is larger than ext4 can hold: ${shownPath(entry.name)}`)
    }
    this.#verifyPieces(entry)
    return entry
  }

  #expect(storedBytes: number): void {
    this.#storedBytes = storedBytes
    this.#paddingBytes = paddingOf(storedBytes)
    this.#pieces = [{ offsetBytes: 0, lengthBytes: storedBytes }]
  }

  /** Resolves to the size of the file. */
  async #readGnuMap(block: Buffer): Promise<number> {
    const { pieces, sizeBytes, isExtended } = decodeGnuSparse(block)
    let more = isExtended
    while (more) {
      const extension = decodeGnuExtension(await this.#input.mustRead(TAR_BLOCK_BYTES))
      for (const piece of extension.pieces) pieces.push(piece)
      if (pieces.length > PIECE_COUNT_MAX) throw tooManyPieces()
      more = extension.isExtended
    }
    this.#pieces = pieces
    return sizeBytes
  }

  async #readPaxMap(
    entry: TarEntry,
    values: ReadonlyMap<string, string>,
    pairs: string[],
  ): Promise<void> {
    const sizeBytes = paxCount(values, 'GNU.sparse.realsize') ?? paxCount(values, 'GNU.sparse.size')
    if (sizeBytes === null) return
    entry.sizeBytes = sizeBytes
    const map = values.get('GNU.sparse.map')
    if (values.get('GNU.sparse.major') === '1') this.#pieces = await this.#readMapInData()
    else if (map !== undefined) this.#pieces = sparsePiecesOf(map === '' ? [] : map.split(','))
    else this.#pieces = sparsePiecesOf(pairs)
    if (this.#pieces.length > PIECE_COUNT_MAX) throw tooManyPieces()
  }

  /** Format 1.0: a count, then offsets and lengths, a line each, filled up to a whole block. */
  async #readMapInData(): Promise<SparsePiece[]> {
    let partial = ''
    const numbers: string[] = []
    let expected = 1
    while (numbers.length < expected) {
      if (this.#storedBytes < TAR_BLOCK_BYTES)
        throw badSource('the map of a sparse file is damaged')
      const lines = (
        partial + (await this.#input.mustRead(TAR_BLOCK_BYTES)).toString('latin1')
      ).split('\n')
      this.#storedBytes -= TAR_BLOCK_BYTES
      partial = lines.pop() ?? ''
      if (partial.length > 2 * TAR_BLOCK_BYTES)
        throw badSource('the map of a sparse file is damaged')
      for (const line of lines) {
        if (numbers.length < expected) numbers.push(line)
        if (numbers.length === 1) expected = 1 + 2 * sparseNumber(numbers[0])
        if (expected > 2 * PIECE_COUNT_MAX) throw tooManyPieces()
      }
    }
    return sparsePiecesOf(numbers.slice(1))
  }

  /** Pieces ascend, lie within the file and are as long as the data. */
  #verifyPieces(entry: TarEntry): void {
    let at = 0
    let sumBytes = 0
    for (const { offsetBytes, lengthBytes } of this.#pieces) {
      if (offsetBytes < at || offsetBytes + lengthBytes > entry.sizeBytes) {
        throw badSource(`the map of a sparse file is wrong: ${shownPath(entry.name)}`)
      }
      at = offsetBytes + lengthBytes
      sumBytes += lengthBytes
    }
    if (sumBytes !== this.#storedBytes) {
      throw badSource(`a file is not as long as its map says: ${shownPath(entry.name)}`)
    }
  }
}

function kindOf(header: TarHeader, name: string): TarKind {
  const kind = KINDS[header.type]
  if (kind === undefined) {
    throw badSource(`an entry is of a kind that is not known here: ${shownPath(name)}`)
  }
  // How archives older than POSIX have folders.
  return kind === 'file' && header.type !== 'S' && name.endsWith('/') ? 'directory' : kind
}

function paddingOf(sizeBytes: number): number {
  return (TAR_BLOCK_BYTES - (sizeBytes % TAR_BLOCK_BYTES)) % TAR_BLOCK_BYTES
}

function untilZero(bytes: Buffer): string {
  const end = bytes.indexOf(0)
  return bytes.toString('latin1', 0, end < 0 ? bytes.length : end)
}

function tooManyPieces(): Error {
  return badSource(`a sparse file has more than ${PIECE_COUNT_MAX} pieces`)
}
