/** Pictures for docs/: lines and ratios as SVG, readable on a light page and on a dark one. */
import type { LinePlot, Plot, RatioPlot } from './report.ts'

const WIDTH = 720
const LINE_HEIGHT = 360
const BAR_HEIGHT = 12
const GROUP_GAP = 10
/** Told apart by those who see few colours, and in grey. */
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9']
const GREY = '#808080'

interface Frame {
  left: number
  right: number
  top: number
  bottom: number
}

/** A whole SVG document. */
export function plotSvg(plot: Plot): string {
  return plot.kind === 'lines' ? linesSvg(plot) : ratiosSvg(plot)
}

function linesSvg({ title, xLabel, yLabel, series }: LinePlot): string {
  const frame = { left: 64, right: WIDTH - 16, top: 60, bottom: LINE_HEIGHT - 44 }
  const points = series.flatMap((each) => each.points)
  const xs = [...new Set(points.map(([x]) => x))].toSorted((a, b) => a - b)
  const yTicks = ticks(Math.max(0, ...points.map(([, y]) => y)))
  const yMax = yTicks[yTicks.length - 1]
  const log = (x: number): number => Math.log(x / xs[0]) / Math.log(xs[xs.length - 1] / xs[0])
  const atX = (x: number): number => between(frame.left, frame.right, xs.length < 2 ? 0.5 : log(x))
  const atY = (y: number): number => between(frame.bottom, frame.top, y / yMax)
  const parts = [
    text(frame.left, 18, title, 'font-weight="bold"'),
    ...yTicks.flatMap((y) => [
      line([frame.left, atY(y)], [frame.right, atY(y)], `stroke="${GREY}" stroke-opacity="0.3"`),
      text(frame.left - 6, atY(y) + 4, String(y), 'text-anchor="end"'),
    ]),
    ...xs.map((x) => text(atX(x), frame.bottom + 18, String(x), 'text-anchor="middle"')),
    text((frame.left + frame.right) / 2, LINE_HEIGHT - 8, xLabel, 'text-anchor="middle"'),
    text(6, frame.top - 8, yLabel, ''),
    ...legend(
      series.map(({ name }) => name),
      frame.left,
      38,
    ),
    ...series.flatMap((each, index) => curve(each.points, colorOf(index), atX, atY)),
  ]
  return document(LINE_HEIGHT, title, parts)
}

function curve(
  points: readonly [number, number][],
  color: string,
  atX: (x: number) => number,
  atY: (y: number) => number,
): string[] {
  const places = points.map(([x, y]) => `${round(atX(x))},${round(atY(y))}`)
  return [
    `<polyline points="${places.join(' ')}" fill="none" stroke="${color}" stroke-width="2"/>`,
    ...points.map(
      ([x, y]) => `<circle cx="${round(atX(x))}" cy="${round(atY(y))}" r="3" fill="${color}"/>`,
    ),
  ]
}

function ratiosSvg({ title, seriesNames, groups }: RatioPlot): string {
  const groupHeight = seriesNames.length * BAR_HEIGHT + GROUP_GAP
  const height = 52 + groups.length * groupHeight + 30
  const frame: Frame = { left: 280, right: WIDTH - 48, top: 52, bottom: height - 30 }
  const values = groups.flatMap((group) => group.values.flatMap((value) => value ?? []))
  const xTicks = ticks(Math.max(1, ...values))
  const atX = (x: number): number => between(frame.left, frame.right, x / xTicks[xTicks.length - 1])
  const upright = (x: number, attributes: string): string =>
    line([atX(x), frame.top], [atX(x), frame.bottom], attributes)
  const parts = [
    text(6, 18, title, 'font-weight="bold"'),
    ...legend(seriesNames, 6, 38),
    ...xTicks.flatMap((x) => [
      upright(x, `stroke="${GREY}" stroke-opacity="0.3"`),
      text(atX(x), frame.bottom + 18, String(x), 'text-anchor="middle"'),
    ]),
    upright(1, `stroke="${GREY}" stroke-width="2"`),
    ...groups.flatMap((group, index) =>
      groupBars(group, frame, frame.top + index * groupHeight, atX),
    ),
  ]
  return document(height, title, parts)
}

function groupBars(
  { name, values }: RatioPlot['groups'][number],
  frame: Frame,
  top: number,
  atX: (x: number) => number,
): string[] {
  const middle = top + GROUP_GAP / 2 + (values.length * BAR_HEIGHT) / 2 + 4
  const bars = values.flatMap((value, index) => {
    if (value === null) return []
    const y = top + GROUP_GAP / 2 + index * BAR_HEIGHT
    const size = `width="${round(atX(value) - frame.left)}" height="${BAR_HEIGHT - 2}"`
    return [
      `<rect x="${frame.left}" y="${round(y)}" ${size} fill="${colorOf(index)}"/>`,
      text(atX(value) + 4, y + BAR_HEIGHT - 3, value.toFixed(2), 'font-size="10"'),
    ]
  })
  return [text(frame.left - 8, middle, name, 'text-anchor="end"'), ...bars]
}

function legend(names: readonly string[], left: number, top: number): string[] {
  let x = left
  return names.flatMap((name, index) => {
    const at = x
    // As wide as letters of this size are at most.
    x += 28 + name.length * 7
    return [
      `<rect x="${at}" y="${top - 9}" width="10" height="10" fill="${colorOf(index)}"/>`,
      text(at + 14, top, name, ''),
    ]
  })
}

/** From zero, at round distances, the last not below `most`. */
export function ticks(most: number): number[] {
  if (most <= 0) return [0, 1]
  const rough = most / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough)
  if (step === undefined) throw new Error(`no step for ${most}`)
  const count = Math.ceil(most / step - 1e-9)
  return Array.from({ length: count + 1 }, (_, index) => Number((index * step).toPrecision(6)))
}

function colorOf(index: number): string {
  return COLORS[index % COLORS.length]
}

function between(from: number, to: number, part: number): number {
  return from + (to - from) * part
}

function round(value: number): string {
  return value.toFixed(1)
}

function line(from: [number, number], to: [number, number], attributes: string): string {
  const [x1, y1, x2, y2] = [...from, ...to].map(round)
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" ${attributes}/>`
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${escapeXml(content)}</text>`
}

function escapeXml(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function document(height: number, title: string, parts: readonly string[]): string {
  const size = `width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`
  const style =
    '<style>text { fill: #222 } .page { fill: #fff } ' +
    '@media (prefers-color-scheme: dark) { text { fill: #ddd } .page { fill: #111 } }</style>'
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="sans-serif" font-size="12">`,
    `<title>${escapeXml(title)}</title>`,
    style,
    `<rect class="page" width="${WIDTH}" height="${height}"/>`,
    ...parts,
    '</svg>\n',
  ].join('\n')
}
