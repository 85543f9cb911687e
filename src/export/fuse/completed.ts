import type { TargetCompletion } from '../target.ts'
import { refusal } from './errors.ts'

/** One operation of a target as a promise, for control work; rejects with its errno. */
export async function completed(
  start: (completion: TargetCompletion, tag: number) => void,
): Promise<void> {
  const result = await new Promise<number>((resolve) => {
    start({ targetComplete: (_tag, code) => resolve(code) }, 0)
  })
  if (result < 0) throw refusal(-result, 'the disk refused')
}
