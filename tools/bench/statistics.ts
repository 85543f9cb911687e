/** The few figures we publish: medians, and how far the rounds lay apart. */

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('the median of nothing')
  const sorted = values.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Distance of the farthest rounds as a part of the median: 0.1 is ten percent. */
export function spread(values: readonly number[]): number {
  const center = median(values)
  return center === 0 ? 0 : (Math.max(...values) - Math.min(...values)) / center
}

/** Ratio a ÷ b of each round on its own, so that slow drift of the machine cancels out. */
export function pairRatios(a: readonly number[], b: readonly number[]): number[] {
  if (a.length !== b.length) throw new Error(`unequal rounds: ${a.length} and ${b.length}`)
  return a.map((value, index) => value / b[index])
}
