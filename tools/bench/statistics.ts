/** The few figures we publish: medians, and how far the rounds lay apart. */

export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** With a straight line between neighbours: 0 is the least, 1 the most. */
export function quantile(values: readonly number[], part: number): number {
  if (values.length === 0) throw new Error('a quantile of nothing')
  const sorted = values.toSorted((a, b) => a - b)
  const place = (sorted.length - 1) * part
  const below = Math.floor(place)
  const above = Math.ceil(place)
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below)
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

/** The median, and half the distance of the farthest rounds beside it. */
export function withSpread(values: readonly number[]): string {
  const center = median(values)
  return `${center.toFixed(center >= 1000 ? 0 : 1)} ±${(spread(values) * 50).toFixed(0)} %`
}
