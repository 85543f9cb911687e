/**
 * `Io` on node:fs and node:net alone: where io_uring or the addon is not to be had. Reads and
 * syncs run on libuv's threads, writes are synchronous, sockets are Node's.
 */
import { fdatasync, read, writevSync } from 'node:fs'
import { assert, assertSafe } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type {
  IoCompletion,
  IoFile,
  IoListener,
  IoSocket,
  IoVector,
  SocketAddress,
  TurnHook,
} from './io.ts'
import { nodeFile } from './node-files.ts'
import { NodeListener } from './node-listener.ts'
import { NodeTurn } from './node-turn.ts'
import { errnoOf } from './os-errors.ts'
import { identityOfStream } from './peer-identity.ts'
import { PosixIo } from './posix-io.ts'
import { StreamSocket, peerOf } from './stream-socket.ts'

/** IOV_MAX of Linux: the most pieces one writev takes. */
const PIECES_PER_CALL_MAX = 1024

export class NodeIo extends PosixIo {
  readonly kind = 'node'
  readonly #turn = new NodeTurn()
  readonly #listeners = new Set<NodeListener>()

  read(
    file: IoFile,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void {
    assertSafe(offsetBytes, 'read offset')
    assert(arenaOffset + lengthBytes <= this.arena.sizeBytes, 'a read fits the arena')
    const { fd } = nodeFile(file)
    const { memory } = this.arena
    let done = 0
    const step = (): void => {
      read(fd, memory, arenaOffset + done, lengthBytes - done, offsetBytes + done, finish)
    }
    const finish = (error: Error | null, count: number): void => {
      if (error !== null) {
        completion.ioComplete(tag, -errnoOf(error))
        return
      }
      done += count
      // Only a read of nothing proves the end of the file.
      if (count === 0 || done === lengthBytes) completion.ioComplete(tag, done)
      else step()
    }
    step()
  }

  writeSync(file: IoFile, offsetBytes: number, vector: IoVector): number {
    assertSafe(offsetBytes, 'write offset')
    const { fd } = nodeFile(file)
    let pieces = this.#piecesOf(vector)
    let done = 0
    try {
      while (pieces.length > 0) {
        const written = writevSync(fd, pieces.slice(0, PIECES_PER_CALL_MAX), offsetBytes + done)
        if (written === 0) return -Errno.EIO
        done += written
        pieces = dropBytes(pieces, written)
      }
      return done
    } catch (error) {
      return -errnoOf(error)
    }
  }

  sync(file: IoFile, completion: IoCompletion, tag: number): void {
    fdatasync(nodeFile(file).fd, (error) => {
      completion.ioComplete(tag, error === null ? 0 : -errnoOf(error))
    })
  }

  atTurnEnd(hook: TurnHook): void {
    this.#turn.atTurnEnd(hook)
  }

  async listen(address: SocketAddress, accept: (socket: IoSocket) => void): Promise<IoListener> {
    const listener = await NodeListener.open(address, (stream) => {
      const identity = identityOfStream(stream, this.addon)
      accept(new StreamSocket(stream, peerOf(stream), identity, this.arena, this.#turn))
    })
    this.#listeners.add(listener)
    return listener
  }

  async shutdown(): Promise<void> {
    await Promise.all([...this.#listeners].map((listener) => listener.close()))
  }

  #piecesOf(vector: IoVector): Buffer[] {
    const pieces: Buffer[] = []
    for (let index = 0; index < vector.count; index++) {
      const offset = vector.pairs[2 * index]
      const end = offset + vector.pairs[2 * index + 1]
      assert(end <= this.arena.sizeBytes, 'a written piece lies in the arena')
      if (end > offset) pieces.push(this.arena.memory.subarray(offset, end))
    }
    return pieces
  }
}

/** What is left of `pieces` after their first `byteCount` bytes. */
function dropBytes(pieces: Buffer[], byteCount: number): Buffer[] {
  let index = 0
  let left = byteCount
  while (index < pieces.length && left >= pieces[index].length) {
    left -= pieces[index].length
    index += 1
  }
  const rest = pieces.slice(index)
  if (left > 0) rest[0] = rest[0].subarray(left)
  return rest
}
