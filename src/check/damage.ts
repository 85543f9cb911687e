/** Addresses known to be bad, each with the finding that says why. */
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import type { Finding } from './report.ts'
import { AFFECTED_COUNT_MAX } from './report.ts'

/** Past this, damage is no longer attributed to disks; it is still reported. */
const BAD_SLOT_COUNT_MAX = 65536

export function addressKey(segment: number, slot: number): number {
  return segment * SEGMENT_SLOT_COUNT + slot
}

export class Damage {
  readonly #bySlot = new Map<number, Finding>()
  readonly #segments = new Set<number>()

  get isEmpty(): boolean {
    return this.#bySlot.size === 0
  }

  add(segment: number, slot: number, count: number, finding: Finding): void {
    this.#segments.add(segment)
    for (let at = slot; at < slot + count; at += 1) {
      if (this.#bySlot.size >= BAD_SLOT_COUNT_MAX) return
      this.#bySlot.set(addressKey(segment, at), finding)
    }
  }

  find(segment: number, slot: number): Finding | null {
    return this.#bySlot.get(addressKey(segment, slot)) ?? null
  }

  /** A quick no for most segments. */
  touches(segment: number): boolean {
    return this.#segments.has(segment)
  }
}

/** Adds a range to what a finding hits, joined to the last one where they meet. */
export function addAffected(
  finding: Finding,
  disk: string,
  offsetBytes: number,
  lengthBytes: number,
): void {
  const last = finding.affected.at(-1)
  if (last?.disk === disk && last.offsetBytes + last.lengthBytes === offsetBytes) {
    last.lengthBytes += lengthBytes
  } else if (finding.affected.length < AFFECTED_COUNT_MAX) {
    finding.affected.push({ disk, offsetBytes, lengthBytes })
  }
}
