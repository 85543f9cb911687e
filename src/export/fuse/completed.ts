import type { TargetCompletion } from '../target.ts'
import { targetResult } from '../target.ts'
import { refusal } from './errors.ts'

/** As `targetResult`; rejects with the operation's errno. */
export async function completed(
  start: (completion: TargetCompletion, tag: number) => void,
): Promise<void> {
  const result = await targetResult(start)
  if (result < 0) throw refusal(-result, 'the disk refused')
}
