/** `varve fuse`: the pool as a filesystem, by the daemon that runs or by one of its own. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { FuseRequest, MountedFilesystem } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { addHelp, globalOptions, mustPoolPath } from '../arguments.ts'
import { textColumn } from '../columns.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, tableText, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'
import type { ServeOptions } from '../../daemon/serve.ts'
import { fuseTransportOption, runDaemon } from './serve.ts'

interface Options extends OutputOptions {
  fuseTransport: FuseRequest['transport']
  allowOther?: boolean
  list?: boolean
  unmount?: boolean
  force?: boolean
}

export function registerFuse(program: Command, cli: Cli): void {
  const command = program
    .command('fuse')
    .summary('show the pool as a filesystem')
    .description(
      'Mounts the pool on a folder: volumes/NAME are the bytes of the volumes, to read and ' +
        'write; snapshots/NAME/SNAPSHOT/disk those of the snapshots, to read. `truncate` ' +
        'resizes, `rm` removes, `mkdir snapshots/NAME/SNAPSHOT` takes a snapshot and `rmdir` ' +
        'removes it. Where a `varve serve` runs, it does the mounting; else this command serves ' +
        'all that `varve serve` would, until it is told to stop.',
    )
    .argument('[folder]', 'that is there')
    .addOption(fuseTransportOption())
    .option('--allow-other', 'other users may look and read in it')
    .option('-u, --unmount', 'take it away again')
    .option('--force', 'with --unmount: also while it is in use')
    .option('--list', 'where the pool is mounted')
    .action(async (folder: string | undefined, options: Options) => {
      if (options.list === true) await list(cli, command, options)
      else if (folder === undefined) throw new OperatingError('usage', 'name a folder')
      else if (options.unmount === true) await unmount(cli, command, folder, options)
      else await mount(cli, command, folder, options)
    })
  addResultOptions(command)
  addHelp(command, [
    'varve fuse /mnt/pool',
    'varve fuse --list',
    'varve fuse --unmount /mnt/pool',
    'cp debian.raw /mnt/pool/volumes/web',
  ])
}

async function list(cli: Cli, command: Command, options: Options): Promise<void> {
  const { mounts } = await withService(cli, command, (service) => service.status())
  const columns = [
    textColumn<MountedFilesystem>('path', (row) => row.path),
    textColumn<MountedFilesystem>('transport', (row) => row.transport),
    textColumn<MountedFilesystem>('access', (row) => (row.allowOther ? 'everyone' : 'owner')),
  ]
  await writeResult(cli, options, 'mounts', mounts, tableText(mounts, columns, {}))
}

async function unmount(
  cli: Cli,
  command: Command,
  folder: string,
  options: Options,
): Promise<void> {
  const path = resolve(folder)
  await withService(cli, command, (service) => service.fuseUnmount(path, options.force === true))
  await writeResult(cli, options, 'unmounted', { path }, null)
}

async function mount(cli: Cli, command: Command, folder: string, options: Options): Promise<void> {
  const request: FuseRequest = {
    path: resolve(folder),
    allowOther: options.allowOther === true,
    transport: options.fuseTransport,
  }
  const poolPath = mustPoolPath(cli, command)
  const { daemonRuns } = await cli.loadBackend()
  if (await daemonRuns(poolPath)) {
    const mounted = await withService(cli, command, (service) => service.fuseMount(request))
    await writeResult(cli, options, 'mount', mounted, null)
    return
  }
  const serveOptions: ServeOptions = {
    poolPath,
    ioKind: globalOptions(command).io,
    socketPath: null,
    tcp: null,
    tls: null,
    allowPlaintext: false,
    allow: [],
    allowFilePath: null,
    readOnlyNames: [],
    fuse: request,
    vhostUserFolder: null,
    warnPercent: null,
    idleCompression: 'lz4',
    scrubEveryDays: 30,
  }
  await runDaemon(cli, serveOptions, { ...options, logLevel: 'info' })
}
