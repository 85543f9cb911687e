/**
 * The disks that are open through this filesystem, by small numbers that are used again. Whoever
 * wants a disk gone may wait a moment for its handles: the kernel tells us of a close only after
 * close(2) has returned, so "rm" right behind "cp" would find the file in use.
 */
import { assert, must } from '../../base/assert.ts'
import { Errno } from '../../base/errors.ts'
import type { ExportTarget } from '../target.ts'
import { refusal } from './errors.ts'
import type { HandleNumber } from './operations.ts'

/** Each costs a target and its entry among the disk's users: some 20 MB for all. */
export const HANDLE_COUNT_MAX = 65_536

export interface Handle {
  readonly diskId: number
  readonly target: ExportTarget
  readonly isWritable: boolean
  /** Who opened it. */
  readonly client: string
}

interface Waiter {
  readonly diskIds: readonly number[]
  readonly resolve: (isUnused: boolean) => void
  readonly timer: NodeJS.Timeout
}

export class HandleTable {
  readonly #handles: (Handle | null)[] = []
  readonly #free: HandleNumber[] = []
  /** Handles of each disk that has some. */
  readonly #counts: Map<number, number> = new Map()
  readonly #waiters: Set<Waiter> = new Set()

  /** Throws ENFILE when there are too many already. */
  verifyRoom(): void {
    if (this.#free.length > 0 || this.#handles.length < HANDLE_COUNT_MAX) return
    throw refusal(Errno.ENFILE, `${HANDLE_COUNT_MAX} files are open`)
  }

  add(handle: Handle): HandleNumber {
    this.verifyRoom()
    const number = this.#free.pop() ?? this.#handles.length
    this.#handles[number] = handle
    this.#counts.set(handle.diskId, this.countOf(handle.diskId) + 1)
    return number
  }

  /** A transport names only what it was given and has not closed. */
  get(number: HandleNumber): Handle {
    return must(this.#handles[number], 'an open handle')
  }

  /** Takes it out of the table and closes its target. */
  close(number: HandleNumber): void {
    const { diskId, target } = this.get(number)
    const count = this.countOf(diskId) - 1
    assert(count >= 0, 'an open handle is counted')
    this.#handles[number] = null
    this.#free.push(number)
    if (count === 0) this.#counts.delete(diskId)
    else this.#counts.set(diskId, count)
    target.close()
    if (count === 0) this.#tellWaiters()
  }

  countOf(diskId: number): number {
    return this.#counts.get(diskId) ?? 0
  }

  /** Those that are open. */
  all(): Handle[] {
    return this.#handles.filter((handle) => handle !== null)
  }

  /** Resolves to true once no handle of these disks is open, to false after `timeoutMs`. */
  whenUnused(diskIds: readonly number[], timeoutMs: number): Promise<boolean> {
    if (this.#areUnused(diskIds)) return Promise.resolve(true)
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#waiters.delete(waiter)
        resolve(false)
      }, timeoutMs)
      const waiter: Waiter = { diskIds, resolve, timer }
      this.#waiters.add(waiter)
    })
  }

  #areUnused(diskIds: readonly number[]): boolean {
    return diskIds.every((diskId) => !this.#counts.has(diskId))
  }

  #tellWaiters(): void {
    for (const waiter of this.#waiters) {
      if (!this.#areUnused(waiter.diskIds)) continue
      clearTimeout(waiter.timer)
      this.#waiters.delete(waiter)
      waiter.resolve(true)
    }
  }
}

/** 0, or why this handle cannot be written through: EROFS or EBADF. */
export function writeErrno({ target, isWritable }: Handle): number {
  if (target.readOnly) return Errno.EROFS
  return isWritable ? 0 : Errno.EBADF
}
