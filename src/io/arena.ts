/**
 * The arena: one pinned, 4 KiB-aligned range of memory that all hot-path I/O reads into and
 * writes from, so that payload bytes are never copied in JavaScript. A buddy allocator hands out
 * pieces of 4 KiB to {@link ARENA_PIECE_BYTES_MAX}, each a power of two and aligned to its size.
 */
export const ARENA_PIECE_BYTES_MIN = 4096
/** Larger transfers are cut into pieces; also the longest single read or write of an export. */
export const ARENA_PIECE_BYTES_MAX = 1048576

/** Told once when memory has come back after an allocation failed. */
export interface ArenaWaiter {
  arenaFreed(): void
}

export interface Arena {
  readonly memory: Buffer
  readonly sizeBytes: number
  readonly usedBytes: number
  /** Offset of a piece of at least `lengthBytes` (at most the maximum), -1 when there is none. */
  allocate(lengthBytes: number): number
  /** Gives back what `allocate(lengthBytes)` returned; the same length must be named. */
  free(offsetBytes: number, lengthBytes: number): void
  /** First come, first told: at most one waiter is told for each piece that is freed. */
  wait(waiter: ArenaWaiter): void
}

/** Arena memory as soon as there is some. */
export async function allocateArena(arena: Arena, lengthBytes: number): Promise<number> {
  for (;;) {
    const offset = arena.allocate(lengthBytes)
    if (offset >= 0) return offset
    await new Promise<void>((resolve) => arena.wait({ arenaFreed: resolve }))
  }
}
