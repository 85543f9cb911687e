/**
 * A device that carries whole messages, such as /dev/fuse: one read takes one message, one write
 * gives one. Messages arrive in *slots*, memory that their owner lays out: a header piece, then a
 * body piece that takes what is longer than the header. A slot is the owner's from the message's
 * arrival on, until it is named again.
 */
export interface MessageOwner {
  /** A slot for a message to come, or -1 when there is none; then `resume` when there is. */
  takeSlot(): number
  /** Nothing came into a slot that was taken. */
  returnSlot(slot: number): void
  /** Where a slot is: arena offset and length of its header, then of its body, into `pairs`. */
  describeSlot(slot: number, pairs: Uint32Array): void
  message(slot: number, lengthBytes: number): void
  /** What `send` gave is with the device, or (-errno) is not. */
  sent(tag: number, result: number): void
  /**
   * No more messages come and none may be sent: 0 after `close`, else -errno (-ENODEV: unmounted).
   * All slots have been returned or have brought their message, all that was sent is told, and the
   * descriptor is closed.
   */
  ended(result: number): void
}

export interface MessageDevice {
  /** A slot has become free. */
  resume(): void
  /** Gives one message of `count` pieces, (arena offset, length) each; see `sent`. */
  send(pairs: Uint32Array, count: number, tag: number): void
  /** Takes no more messages. Idempotent. */
  close(): void
}
