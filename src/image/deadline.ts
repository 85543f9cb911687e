/** A limit on how long something may take, as one more reason for its signal to be aborted. */
import { OperatingError } from '../base/errors.ts'

export interface Deadline {
  signal: AbortSignal
  /** It has ended in time. */
  clear(): void
}

/** Aborts with `io` after `timeoutMs`, or when `signal` does. */
export function startDeadline(signal: AbortSignal | undefined, timeoutMs: number): Deadline {
  const controller = new AbortController()
  const timer = setTimeout(() => {
    const limit = `${timeoutMs / 1000} s`
    controller.abort(
      new OperatingError('io', `it was not done within ${limit}`, {
        hint: 'Allow more with --timeout.',
      }),
    )
  }, timeoutMs)
  // Whoever forgets it does not keep the process alive for a day.
  timer.unref()
  return {
    signal: signal === undefined ? controller.signal : AbortSignal.any([signal, controller.signal]),
    clear: () => clearTimeout(timer),
  }
}
