/**
 * `Io` on io_uring: reads, syncs and sockets through the ring, buffered writes by one synchronous
 * pwritev (DESIGN.md section 8 says why), the control path shared with node-io.
 */
import { assert, assertSafe } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { Arena } from './arena.ts'
import type { DescriptorIo } from './descriptors.ts'
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
import type { MessageDevice, MessageOwner } from './messages.ts'
import { PosixIo } from './posix-io.ts'
import { RingDescriptors } from './ring-descriptors.ts'
import { RingListener } from './ring-listener.ts'
import { RingMessages } from './ring-messages.ts'
import { RingSocket } from './ring-socket.ts'
import type { Ring } from './ring.ts'

const EINTR = 4

export class RingIo extends PosixIo {
  readonly kind = 'ring'
  readonly #ring: Ring
  readonly #binding: Binding
  readonly #listeners = new Set<RingListener>()
  #descriptors: RingDescriptors | null = null

  constructor(arena: Arena, ring: Ring, binding: Binding) {
    super(arena, binding)
    this.#ring = ring
    this.#binding = binding
  }

  read(
    file: IoFile,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void {
    const { fd } = nodeFile(file)
    this.#ring.read(fd, offsetBytes, arenaOffset, lengthBytes, completion, tag)
  }

  writeSync(file: IoFile, offsetBytes: number, vector: IoVector): number {
    assertSafe(offsetBytes, 'write offset')
    const { fd } = nodeFile(file)
    const { pairs, count } = vector
    for (let index = 0; index < count; index++) {
      const end = pairs[2 * index] + pairs[2 * index + 1]
      assert(end <= this.arena.sizeBytes, 'a written piece lies in the arena')
    }
    let done = 0
    let piece = 0
    let skip = 0
    while (piece < count) {
      const written = this.#ring.write(fd, offsetBytes + done, vector, piece, skip)
      if (written === -EINTR) continue
      if (written < 0) return written
      done += written
      const before = piece
      skip += written
      while (piece < count && skip >= pairs[2 * piece + 1]) {
        skip -= pairs[2 * piece + 1]
        piece += 1
      }
      // A call that wrote nothing of a piece that has bytes will not do better next time.
      if (written === 0 && piece === before) return -Errno.EIO
    }
    return done
  }

  sync(file: IoFile, completion: IoCompletion, tag: number): void {
    this.#ring.sync(nodeFile(file).fd, completion, tag)
  }

  atTurnEnd(hook: TurnHook): void {
    this.#ring.atTurnEnd(hook)
  }

  async listen(address: SocketAddress, accept: (socket: IoSocket) => void): Promise<IoListener> {
    const ring = this.#ring
    const binding = this.#binding
    const listener = await RingListener.open(address, ring, binding, (fd, peer, identity) => {
      accept(new RingSocket(fd, peer, identity, ring, binding))
    })
    this.#listeners.add(listener)
    return listener
  }

  override openMessages(fd: number, owner: MessageOwner): MessageDevice {
    return new RingMessages(fd, owner, this.#ring, this.#binding)
  }

  descriptors(): DescriptorIo {
    this.#descriptors ??= new RingDescriptors(this.#ring, this.#binding, this.#listeners)
    return this.#descriptors
  }

  async shutdown(): Promise<void> {
    await Promise.all([...this.#listeners].map((listener) => listener.close()))
    await this.#ring.drained()
    this.#ring.close()
  }
}
