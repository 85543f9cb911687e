/**
 * What a client knows of a disk it has written: which stamp each block may have after a crash.
 *
 * Every block written carries the number of its write. At most one write to a block is in flight,
 * so the writes to one block are ordered; between blocks, a write answered before another was
 * sent precedes it in the log. After a crash:
 *
 * - a block has the stamp of a write to it, or none, never a mixture or another block's;
 * - it is not older than the last write answered before the last flush that was answered was
 *   sent, nor, since only the process died and not the kernel, than the last write answered;
 * - the state is a prefix of the log: if a write is there, so is every write that was answered
 *   before that one was sent, or a later one to the same block.
 */
export const BLOCK_BYTES = 4096

interface BlockHistory {
  /** Writes to the block in order. */
  writes: { stamp: number; sentAt: number; answeredAt: number }[]
}

export class StampedDisk {
  readonly name: string
  readonly blockCount: number
  readonly #blocks: Map<number, BlockHistory> = new Map()
  readonly #busy: Set<number> = new Set()
  #clock = 0
  #nextStamp = 1
  /** Clock when the last flush that was answered was sent. */
  #flushedAt = 0

  constructor(name: string, blockCount: number) {
    this.name = name
    this.blockCount = blockCount
  }

  /** Begins a write of a block nobody is writing; null when the block is busy. */
  begin(block: number): { bytes: Buffer; answered: () => void } | null {
    if (this.#busy.has(block)) return null
    this.#busy.add(block)
    const stamp = this.#nextStamp
    this.#nextStamp += 1
    const write = { stamp, sentAt: this.#tick(), answeredAt: Infinity }
    const history = this.#blocks.get(block) ?? { writes: [] }
    history.writes.push(write)
    this.#blocks.set(block, history)
    return {
      bytes: stampBytes(block, stamp),
      answered: () => {
        write.answeredAt = this.#tick()
        this.#busy.delete(block)
      },
    }
  }

  /** Begins a flush; call the function when it was answered. */
  beginFlush(): () => void {
    const sentAt = this.#tick()
    return () => {
      this.#flushedAt = Math.max(this.#flushedAt, sentAt)
    }
  }

  /** Number of writes ever begun. */
  get writeCount(): number {
    return this.#nextStamp - 1
  }

  /** Throws with the first block that breaks a promise; else what is there becomes the history. */
  verify(content: Buffer): void {
    let newestSentAt = 0
    const found = new Map<number, number>()
    for (const [block, { writes }] of this.#blocks) {
      const bytes = content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
      const index = writes.findIndex(({ stamp }) => stampBytes(block, stamp).equals(bytes))
      const isEmpty = index < 0 && bytes.every((byte) => byte === 0)
      if (index < 0 && !isEmpty) throw this.#broken(block, 'holds what nobody wrote')
      found.set(block, index)
      if (index >= 0) newestSentAt = Math.max(newestSentAt, writes[index].sentAt)
    }
    for (const [block, { writes }] of this.#blocks) {
      const index = found.get(block) ?? -1
      const lost = writes.slice(index + 1)
      if (lost.some((write) => write.answeredAt < this.#flushedAt)) {
        throw this.#broken(block, 'lost a write that was answered before a flush')
      }
      if (lost.some((write) => write.answeredAt < newestSentAt)) {
        throw this.#broken(block, 'lost a write that is older than one that is there')
      }
      if (lost.some((write) => write.answeredAt < Infinity)) {
        throw this.#broken(block, 'lost an answered write, though the kernel lives')
      }
    }
    this.#restart(found)
  }

  /** What is there now is durable and old; the rest never was. */
  #restart(found: ReadonlyMap<number, number>): void {
    for (const [block, index] of found) {
      const history = this.#blocks.get(block)
      if (history === undefined) continue
      history.writes = index < 0 ? [] : [{ ...history.writes[index], sentAt: 0, answeredAt: 0 }]
    }
    this.#busy.clear()
    this.#flushedAt = this.#tick()
  }

  #tick(): number {
    this.#clock += 1
    return this.#clock
  }

  #broken(block: number, fact: string): Error {
    const writes = this.#blocks.get(block)?.writes
    return new Error(`${this.name} block ${block} ${fact}: ${JSON.stringify(writes)}`)
  }
}

/** A block that says in every 16 bytes which block and write it is. */
function stampBytes(block: number, stamp: number): Buffer {
  const bytes = Buffer.alloc(BLOCK_BYTES)
  for (let offset = 0; offset < BLOCK_BYTES; offset += 16) {
    bytes.writeUInt32LE(block + 1, offset)
    bytes.writeUInt32LE(stamp, offset + 4)
    bytes.writeUInt32LE(offset, offset + 8)
  }
  return bytes
}
