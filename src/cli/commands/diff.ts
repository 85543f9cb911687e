/** `varve diff`. */
import type { Command } from 'commander'
import type { DiffExtent } from '../../api/shapes.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { sizeColumn, textColumn } from '../columns.ts'
import type { Column } from '../columns.ts'
import type { Cli } from '../context.ts'
import { writeOut } from '../context.ts'
import { addRecordOptions, tableText, writeJson, writeJsonLines, writeRecord } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  summary?: boolean
}

const COLUMNS: readonly Column<DiffExtent>[] = [
  sizeColumn('offset', (extent) => extent.offsetBytes),
  sizeColumn('length', (extent) => extent.lengthBytes),
  textColumn('kind', (extent) => extent.kind),
]

/** Rows that are written at once. */
const BATCH_COUNT = 1024

export function registerDiff(program: Command, cli: Cli): void {
  const command = program
    .command('diff')
    .summary('what differs between two disks')
    .description('Lists the extents that changed from A to B, or everything mapped in A.')
    .argument('<a>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('[b]', 'a disk of the same lineage')
    .option('-s, --summary', 'only the totals')
    .option('-H, --script', 'no header, tabs between columns')
    .action(async (a: string, b: string | undefined, options: Options) => {
      const [from, to] = b === undefined ? [null, a] : [a, b]
      await withService(cli, command, (service) =>
        interruptible(cli, (signal) => {
          const extents = service.diff(from, to, signal)
          if (options.summary === true) return writeSummary(cli, options, extents)
          if (options.output === 'json') return writeWhole(cli, from, to, extents)
          return writeExtents(cli, options, extents)
        }),
      )
    })
  addRecordOptions(command)
  addHelp(command, [
    'varve diff vm1@monday vm1',
    'varve diff -s vm1@monday vm1@tuesday',
    'varve diff vm1',
  ])
}

async function writeSummary(
  cli: Cli,
  options: Options,
  extents: AsyncIterable<DiffExtent>,
): Promise<void> {
  const summary = { extentCount: 0, dataBytes: 0, zeroBytes: 0 }
  for await (const extent of extents) {
    summary.extentCount += 1
    if (extent.kind === 'data') summary.dataBytes += extent.lengthBytes
    else summary.zeroBytes += extent.lengthBytes
  }
  const size = options.exact === true ? String : formatSize
  await writeRecord(cli, options, 'summary', summary, [
    ['extents', String(summary.extentCount)],
    ['data', size(summary.dataBytes)],
    ['zero', size(summary.zeroBytes)],
  ])
}

async function writeWhole(
  cli: Cli,
  from: string | null,
  to: string,
  extents: AsyncIterable<DiffExtent>,
): Promise<void> {
  const list: DiffExtent[] = []
  for await (const extent of extents) list.push(extent)
  await writeJson(cli, { from, to, extents: list })
}

/** As they come; the columns are of one width within a batch, exact without a header. */
async function writeExtents(
  cli: Cli,
  options: Options,
  extents: AsyncIterable<DiffExtent>,
): Promise<void> {
  let batch: DiffExtent[] = []
  let first = true
  const flush = async (): Promise<void> => {
    if (options.output === 'jsonl') {
      await writeJsonLines(cli, batch)
    } else if (first || batch.length > 0) {
      const text = tableText(batch, COLUMNS, options)
      const skipHeader = !first && options.script !== true
      await writeOut(cli.stdout, skipHeader ? text.slice(text.indexOf('\n') + 1) : text)
    }
    first = false
    batch = []
  }
  for await (const extent of extents) {
    batch.push(extent)
    if (batch.length === BATCH_COUNT) await flush()
  }
  await flush()
}
