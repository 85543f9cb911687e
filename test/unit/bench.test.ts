/** What is published of the benchmarks follows from what was measured. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { ratiosTo, ratioTable, coldestRead } from '../../tools/bench/comparison.ts'
import {
  documentedBenchmarks,
  documentPath,
  missingPictures,
  recordFolder,
  withTables,
} from '../../tools/bench/docs-tables.ts'
import { verifyEqualWork } from '../../tools/bench/equal-work.ts'
import type { Workload } from '../../tools/bench/fio.ts'
import { readGcPauses, recordGc } from '../../tools/bench/gc-pauses.ts'
import { plotSvg, ticks } from '../../tools/bench/plot-svg.ts'
import { cpuShare, parseCpuMs } from '../../tools/bench/process-cost.ts'
import { tryReadRecord, type BenchRecord } from '../../tools/bench/record.ts'
import { asMarkdown, isMet, type LinePlot } from '../../tools/bench/report.ts'
import type { Run, Subject } from '../../tools/bench/rounds.ts'
import { contendersOf, NBD_CONTENDERS } from '../../tools/bench/servers.ts'
import { median, pairRatios, quantile, spread } from '../../tools/bench/statistics.ts'
import { Server } from '../../tools/command.ts'

const READ: Workload = { name: 'read', pattern: 'randread', blockSizes: '4k', queueDepth: 1 }

function runsAt(...iops: number[]): Run[] {
  return iops.map((each) => ({
    iops: each,
    bytesPerSecond: each * 4096,
    movedBytes: 4096,
    operationCount: 1,
    latencyMedianUs: 1,
    latency99Us: 1,
    cpuCount: 1,
    cpuUsPerOperation: 1,
    device: { readBytes: 0, writtenBytes: 0 },
  }))
}

function subject(name: string, family: string): Subject {
  return { name, family, server: null, load: () => Promise.reject(new Error()) }
}

t.test('a median lies between the extremes, a quantile grows with its part', (t) => {
  const values = fc.array(fc.double({ min: 0.1, max: 1e6, noNaN: true }), { minLength: 1 })
  fc.assert(
    fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (all, part) => {
      const [least, most] = [Math.min(...all), Math.max(...all)]
      const center = median(all)
      return least <= center && center <= most && quantile(all, part * 0.5) <= quantile(all, part)
    }),
  )
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([4, 1, 2, 3]), 2.5)
  t.equal(quantile([1, 2, 3, 4, 5], 1), 5)
  t.equal(spread([9, 10, 12]), 0.3)
  t.strictSame(pairRatios([6, 8], [2, 4]), [3, 2])
  t.throws(() => median([]), /of nothing/)
  t.throws(() => pairRatios([1], [1, 2]), /unequal rounds/)
  t.end()
})

t.test('the ratio is against the best mode of the other, round by round', (t) => {
  const subjects = [subject('ours', 'ours'), subject('q a', 'q'), subject('q b', 'q')]
  const byName = new Map([
    ['ours', runsAt(3000, 2000, 4000)],
    ['q a', runsAt(1000, 1000, 1000)],
    ['q b', runsAt(1500, 2000, 500)],
  ])
  const comparison = {
    subjects,
    withoutRatio: new Set<string>(),
    measured: new Map([[READ, byName]]),
  }
  t.strictSame(ratiosTo('q', READ, comparison), [2, 1, 8])
  const { header, rows } = ratioTable('', comparison)
  t.strictSame(header, ['', 'ours', 'q', '÷'])
  t.match(rows[0][2], /\(b\)$/, 'the mode is named')
  t.equal(rows[0][3], '2.00')
  byName.delete('q b')
  t.strictSame(ratiosTo('q', READ, comparison), [3, 2, 4])
  byName.delete('q a')
  t.equal(ratiosTo('q', READ, comparison), null, 'nobody to compare with')
  const shown = ratioTable('', { ...comparison, withoutRatio: new Set(['q']) })
  t.strictSame(shown.header, ['', 'ours', 'q'], 'what keeps nothing is no measure')
  t.end()
})

t.test('what was read from the disk instead of memory is found', (t) => {
  const cold = runsAt(1)
  cold[0].device = { readBytes: 1024, writtenBytes: 0 }
  const measured = new Map([
    [
      READ,
      new Map([
        ['warm', runsAt(1)],
        ['cold', cold],
      ]),
    ],
  ])
  t.strictSame(
    coldestRead(measured, () => true),
    { part: 0.25, where: 'read of cold' },
  )
  t.strictSame(
    coldestRead(measured, (name) => name === 'warm'),
    { part: 0, where: 'read of warm' },
  )
  t.end()
})

t.test('a contender is chosen by its name or how it begins; another name is refused', (t) => {
  const names = (only: string[]): string[] =>
    contendersOf(NBD_CONTENDERS, only).map(({ name }) => name)
  t.strictSame(names(['nbdkit memory', 'varve']), ['varve', 'nbdkit memory'])
  t.equal(names(['qemu-nbd']).length, 3)
  t.throws(() => names(['qemu']), /qemu is none of varve, /)
  t.end()
})

t.test('CPU time is read past any name of a program, and of the window only', (t) => {
  const rest = 'S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 12'
  t.equal(parseCpuMs(`77 (a) b) ${rest}`), 2000)
  t.throws(() => parseCpuMs('nothing'))
  const samples = [0, 100, 200, 300, 400].map((elapsedMs) => ({
    elapsedMs,
    cpuMs: elapsedMs < 200 ? 0 : (elapsedMs - 200) * 2,
  }))
  t.equal(cpuShare(samples, 200, 400), 2)
  t.equal(cpuShare(samples, 390, 400), 1, 'too short a window: all of it')
  t.end()
})

t.test('a demand is met at its limit', (t) => {
  const bar = { what: '', measured: 1.5, unit: '' }
  t.ok(isMet({ ...bar, demanded: { atLeast: 1.5 } }))
  t.notOk(isMet({ ...bar, demanded: { atLeast: 1.51 } }))
  t.ok(isMet({ ...bar, demanded: { atMost: 1.5 } }))
  t.notOk(isMet({ ...bar, demanded: { atMost: 1.49 } }))
  t.end()
})

t.test('ticks begin at zero, reach the most and are few', (t) => {
  fc.assert(
    fc.property(fc.double({ min: 1e-3, max: 1e9, noNaN: true }), (most) => {
      const all = ticks(most)
      const last = all[all.length - 1]
      return all[0] === 0 && last >= most * (1 - 1e-5) && all.length >= 2 && all.length <= 7
    }),
  )
  t.end()
})

/** Names of elements in the order they are closed; throws where they are not nested. */
function closedElements(svg: string): string[] {
  const open: string[] = []
  const closed: string[] = []
  for (const [, slash, name, attributes] of svg.matchAll(/<(\/?)([a-z]+)([^<>]*)>/g)) {
    if (slash === '/') {
      if (open.pop() !== name) throw new Error(`</${name}> closes another element`)
      closed.push(name)
    } else if (attributes.endsWith('/')) closed.push(name)
    else open.push(name)
  }
  if (open.length > 0) throw new Error(`<${open[0]}> is not closed`)
  return closed
}

t.test('a picture is sound XML, within its frame, and has every point', (t) => {
  const plot: LinePlot = {
    kind: 'lines',
    id: 'x',
    title: 'a < b & c',
    xLabel: 'snapshots',
    yLabel: 'kIOPS',
    series: [
      {
        name: 'ours',
        points: [
          [1, 10],
          [10, 11],
          [1000, 9],
        ],
      },
      { name: 'theirs', points: [[1, 8]] },
    ],
  }
  const svg = plotSvg(plot)
  t.equal(closedElements(svg).filter((name) => name === 'circle').length, 4)
  t.match(svg, '<title>a &lt; b &amp; c</title>')
  t.notMatch(svg, /NaN|undefined|Infinity/)
  for (const [, cx, cy] of svg.matchAll(/cx="([\d.-]+)" cy="([\d.-]+)"/g)) {
    t.ok(Number(cx) >= 64 && Number(cx) <= 704 && Number(cy) >= 60 && Number(cy) <= 316)
  }
  const bars = plotSvg({
    kind: 'ratios',
    id: 'r',
    title: 'ratios',
    seriesNames: ['one', 'two'],
    groups: [
      { name: 'read', values: [0.5, 3.25] },
      { name: 'write', values: [null, 1] },
    ],
  })
  // The page, two in the legend, three bars.
  t.equal(closedElements(bars).filter((name) => name === 'rect').length, 6)
  t.match(bars, '>3.25<')
  t.notMatch(bars, /NaN|undefined|Infinity/)
  t.end()
})

const RECORD: BenchRecord = {
  apiVersion: 1,
  benchmark: 'nbd',
  isComplete: true,
  isQuick: false,
  startedAt: '2026-01-01 00:00',
  commit: 'abc',
  rounds: 5,
  seconds: 5,
  host: { cpu: 'a CPU', cpuCount: 2, memoryBytes: 2 ** 34, kernel: '6', node: 'v20' },
  loadAtStart: 0.1,
  tables: [{ title: 'Rates', header: ['', 'a'], rows: [['x | y', '1']] }],
  bars: [{ what: 'x', demanded: { atLeast: 3 }, measured: 2, unit: '' }],
  plots: [],
  notes: ['A note.'],
}

t.test('tables go between their marks, and nowhere else', (t) => {
  const document =
    'before\n<!-- bench nbd -->\nold\n<!-- end -->\nafter\n' +
    '<!-- bench fuse -->\nkept\n<!-- end -->\n'
  const once = withTables(document, [RECORD])
  t.notMatch(once, /\nold\n/)
  t.match(once, '\nkept\n')
  t.match(once, '| x \\| y | 1 |')
  t.match(once, '| x | ≥ 3.00 | 2.00 | no |')
  t.ok(once.startsWith('before\n') && once.includes('<!-- end -->\nafter\n'))
  t.equal(withTables(once, [RECORD]), once, 'twice is once')
  t.match(withTables(document, [{ ...RECORD, isComplete: false }]), '; interrupted.*')
  t.throws(() => withTables('no marks', [RECORD]), /no place/)
  t.match(asMarkdown(RECORD), '**Rates**')
  t.end()
})

t.test('the published tables are those of the records beside them', (t) => {
  const document = readFileSync(documentPath, 'utf8')
  const records = documentedBenchmarks(document).flatMap(
    (name) => tryReadRecord(recordFolder, name) ?? [],
  )
  t.equal(withTables(document, records), document, 'run: npm run bench -- docs')
  t.strictSame(missingPictures(document), [])
  for (const { benchmark, plots } of records) {
    for (const plot of plots) {
      const path = join(recordFolder, `${benchmark}-${plot.id}.svg`)
      t.equal(readFileSync(path, 'utf8'), plotSvg(plot), path)
    }
  }
  t.end()
})

t.test('pauses of the collector are noted by the program that has them', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-bench-test-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'gc')
  const program = 'for (let i = 0; i < 3; i += 1) gc()'
  const env = { ...process.env, ...recordGc(path) }
  const { status, stderr } = spawnSync(process.execPath, ['--expose-gc', '-e', program], { env })
  t.equal(status, 0, stderr.toString())
  const { threadCount, all, major } = readGcPauses(path)
  t.equal(threadCount, 1)
  t.ok(major.count >= 3, `${major.count} pauses of everything`)
  t.ok(all.count >= major.count)
  t.ok(all.medianMs <= all.p99Ms && all.p99Ms <= all.maxMs && all.maxMs > 0)
  t.throws(() => readGcPauses(join(folder, 'other')), /no pauses/)
  t.end()
})

t.test('a disk with holes is not compared', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-bench-test-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const image = join(folder, 'image.raw')
  const sizeBytes = 1024 * 1024
  const bytes = Buffer.alloc(sizeBytes, 1)
  bytes.fill(0, 7 * 4096, 8 * 4096)
  writeFileSync(image, bytes)
  const socket = join(folder, 'nbd.sock')
  const server = await Server.start('qemu-nbd', ['-t', '-f', 'raw', '-k', socket, image], socket)
  t.teardown(() => server.stop())
  const sizes = { diskBytes: sizeBytes, filledBytes: sizeBytes }
  const uri = `nbd+unix:///?socket=${socket}`
  await t.rejects(verifyEqualWork(uri, folder, sizes, true), /block 7 is zero/)
  const wrong = { ...sizes, diskBytes: 2 * sizeBytes }
  await t.rejects(verifyEqualWork(uri, folder, wrong, true), /has 1048576 bytes/)
})
