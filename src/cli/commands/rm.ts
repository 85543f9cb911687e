/** `varve rm`. */
import type { Command } from 'commander'
import type { RemoveReport } from '../../api/shapes.ts'
import { CorruptionError, OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { confirm } from '../confirm.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { phaseWriter } from '../phases.ts'
import { addProgressOption } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  recursive?: boolean
  dryRun?: boolean
  yes?: boolean
  progress: ProgressMode
}

export function registerRm(program: Command, cli: Cli): void {
  const command = program
    .command('rm')
    .alias('remove')
    .summary('remove volumes and snapshots')
    .description(
      'Removes disks, all that are named or none. Clones keep what they share; the space of what ' +
        'nobody shares comes back with the next reclaim.',
    )
    .argument('<names...>', 'VOLUME or VOLUME@SNAPSHOT each')
    .option('-r, --recursive', 'with all snapshots of a volume')
    .option('-n, --dry-run', 'only say what would go and how much that would free, exactly')
    .option('-y, --yes', 'do not ask')
    .action(async (names: string[], options: Options) => {
      const recursive = options.recursive === true
      const dryRun = options.dryRun === true
      await withService(cli, command, async (service) => {
        const progress = phaseWriter(cli, options.progress)
        const plan = (): Promise<RemoveReport> =>
          interruptible(cli, (signal) =>
            service.remove({ names, recursive, dryRun: true }, { signal, progress }),
          )
        const isAsked = options.yes !== true && cli.terminal.stdin && cli.terminal.stderr
        if (!dryRun && isAsked) {
          await confirm(cli, `Remove ${await questionText(plan, names, recursive)}?`, false)
        }
        const report = dryRun ? await plan() : await service.remove({ names, recursive, dryRun })
        const sentence = `${dryRun ? 'would remove' : 'removed'} ${removalText(report)}`
        await writeResult(cli, options, 'remove', { dryRun, ...report }, sentence)
      })
    })
  addProgressOption(addResultOptions(command))
  addHelp(command, [
    'varve rm vm1@monday',
    'varve rm -n -r vm1',
    'varve rm -n -o json vm1@monday vm1@tuesday',
    'varve rm -y -r vm1',
  ])
}

/** A disk that is damaged must be removable, too: then nothing is said of what it frees. */
async function questionText(
  plan: () => Promise<RemoveReport>,
  names: readonly string[],
  recursive: boolean,
): Promise<string> {
  try {
    return removalText(await plan())
  } catch (error) {
    const isUnreadable = error instanceof OperatingError && error.code === 'io'
    if (!(error instanceof CorruptionError) && !isUnreadable) throw error
    const all = `${names.join(', ')}${recursive ? ' with all snapshots' : ''}`
    return `${all} (what that frees cannot be counted: ${error.message})`
  }
}

function removalText({ removed, freedBytes }: RemoveReport): string {
  const names = removed.join(', ')
  return freedBytes === null ? names : `${names} (frees ${formatSize(freedBytes)})`
}
