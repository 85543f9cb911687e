/** `varve resize`. */
import type { Command } from 'commander'
import { formatSize } from '../../base/units.ts'
import type { PoolService } from '../../api/service.ts'
import { addHelp, parseSize } from '../arguments.ts'
import { confirm } from '../confirm.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

interface Options extends OutputOptions {
  shrink?: boolean
  dryRun?: boolean
  yes?: boolean
}

export function registerResize(program: Command, cli: Cli): void {
  const command = program
    .command('resize')
    .summary('make a volume larger or smaller')
    .argument('<name>')
    .argument('<size>', 'the new size, like 40G', parseSize)
    .option('--shrink', 'allow it to become smaller: what lies past the end is lost')
    .option('-n, --dry-run', 'only say how much would be lost')
    .option('-y, --yes', 'do not ask')
    .action(async (name: string, sizeBytes: number, options: Options) => {
      const allowShrink = options.shrink === true
      await withService(cli, command, async (service) => {
        if (options.dryRun === true) {
          const lostBytes = await mappedPast(service, name, sizeBytes)
          const sentence = `would give up ${formatSize(lostBytes)} past the new end of ${name}`
          await writeResult(cli, options, 'resize', { name, sizeBytes, lostBytes }, sentence)
          return
        }
        if (allowShrink) {
          const question = `Resize ${name} to ${formatSize(sizeBytes)}, losing what lies past that?`
          await confirm(cli, question, options.yes === true)
        }
        const volume = await service.resize({ name, sizeBytes, allowShrink })
        await writeResult(cli, options, 'volume', volume, null)
      })
    })
  addResultOptions(command)
  addHelp(command, [
    'varve resize vm1 40G',
    'varve resize -n vm1 10G',
    'varve resize --shrink vm1 10G',
  ])
}

/** Bytes of data at or past `endBytes`. */
async function mappedPast(service: PoolService, name: string, endBytes: number): Promise<number> {
  let lostBytes = 0
  for await (const extent of service.diff(null, name)) {
    const extentEnd = extent.offsetBytes + extent.lengthBytes
    const past = extentEnd - Math.max(extent.offsetBytes, endBytes)
    if (extent.kind === 'data' && past > 0) lostBytes += past
  }
  return lostBytes
}
