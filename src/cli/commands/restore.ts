/** `varve restore`. */
import type { Command } from 'commander'
import type { PoolService } from '../../api/service.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { confirm } from '../confirm.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  dryRun?: boolean
  yes?: boolean
}

export function registerRestore(program: Command, cli: Cli): void {
  const command = program
    .command('restore')
    .summary('set a volume back to a snapshot')
    .description('The volume becomes what the snapshot is; what was written since is lost.')
    .argument('<snapshot>', 'VOLUME@SNAPSHOT; newer snapshots stay')
    .option('-n, --dry-run', 'only say how much would be lost')
    .option('-y, --yes', 'do not ask')
    .action(async (name: string, options: Options) => {
      const at = name.indexOf('@')
      if (at <= 0) {
        throw new OperatingError('usage', `${name} is not a snapshot`, {
          hint: 'A snapshot is named VOLUME@SNAPSHOT.',
        })
      }
      const volumeName = name.slice(0, at)
      await withService(cli, command, async (service) => {
        if (options.dryRun === true) {
          const changedBytes = await interruptible(cli, (signal) =>
            changedSince(service, name, volumeName, signal),
          )
          const sentence = `would give up ${formatSize(changedBytes)} changed since ${name}`
          await writeResult(cli, options, 'restore', { name, changedBytes }, sentence)
          return
        }
        const question = `Set ${volumeName} back to ${name}, losing what was written since?`
        await confirm(cli, question, options.yes === true)
        await writeResult(cli, options, 'volume', await service.restore(name), null)
      })
    })
  addResultOptions(command)
  addHelp(command, ['varve restore -n vm1@monday', 'varve restore -y vm1@monday'])
}

async function changedSince(
  service: PoolService,
  from: string,
  to: string,
  signal: AbortSignal,
): Promise<number> {
  let changedBytes = 0
  for await (const extent of service.diff(from, to, signal)) changedBytes += extent.lengthBytes
  return changedBytes
}
