import { CHECKPOINT_MUTANTS } from './checkpoint-mutants.ts'
import { DOOR_MUTANTS } from './door-mutants.ts'
import { LOG_MUTANTS } from './log-mutants.ts'
import { MAP_MUTANTS } from './map-mutants.ts'
import type { Mutant } from './mutant.ts'
import { ORDER_MUTANTS } from './order-mutants.ts'
import { RECLAIM_MUTANTS } from './reclaim-mutants.ts'
import { SETTLE_MUTANTS } from './settle-mutants.ts'

/** Each in its way something that could have been written; no two of them the same mistake. */
export const ALL_MUTANTS: readonly Mutant[] = [
  ...LOG_MUTANTS,
  ...CHECKPOINT_MUTANTS,
  ...MAP_MUTANTS,
  ...SETTLE_MUTANTS,
  ...RECLAIM_MUTANTS,
  ...ORDER_MUTANTS,
  ...DOOR_MUTANTS,
]
