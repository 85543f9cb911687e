/** `varve export-socket`: one disk on a vhost-user socket, by the daemon that runs. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { ExportSocket } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { addHelp } from '../arguments.ts'
import { textColumn } from '../columns.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, tableText, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

interface Options extends OutputOptions {
  path?: string
  readOnly?: boolean
  remove?: boolean
}

export function registerExportSocket(program: Command, cli: Cli): void {
  const command = program
    .command('export-socket')
    .summary('offer one disk to a virtual machine over vhost-user')
    .description(
      'Has the running `varve serve` offer a volume or snapshot as a vhost-user-blk drive on a ' +
        'unix socket of its own, and prints where. The guest reads and writes it through ' +
        'memory that its monitor shares; one monitor at a time. The socket goes with the disk, ' +
        'with --remove, or with the server. A guest that is connected when the socket is ' +
        'removed keeps its drive. Snapshots are read-only.',
    )
    .argument('<name>', 'of a volume or volume@snapshot')
    .option(
      '--path <path>',
      'of the socket (default: in the folder of --vhost-user, or in the pool)',
    )
    .option('--read-only', 'the guest may not write')
    .option('--remove', 'take back the sockets that were asked for so')
    .action(async (name: string, options: Options) => {
      if (options.remove !== true) return offer(cli, command, name, options)
      if (options.path === undefined && options.readOnly !== true) {
        return remove(cli, command, name, options)
      }
      throw new OperatingError('usage', '--remove takes back all sockets of a disk')
    })
  addResultOptions(command)
  addHelp(command, [
    'varve export-socket web',
    'varve export-socket web --path /run/vm/web.sock',
    'varve export-socket golden@v1',
    'varve export-socket web --remove',
  ])
}

async function offer(cli: Cli, command: Command, name: string, options: Options): Promise<void> {
  const request = {
    name,
    path: options.path === undefined ? null : resolve(options.path),
    readOnly: options.readOnly === true,
  }
  const socket = await withService(cli, command, (service) => service.exportSocket(request))
  await write(cli, options, 'socket', socket, [socket])
}

async function remove(cli: Cli, command: Command, name: string, options: Options): Promise<void> {
  const sockets = await withService(cli, command, (service) => service.withdrawSocket(name))
  await write(cli, options, 'removed', sockets, sockets)
}

async function write(
  cli: Cli,
  options: Options,
  key: string,
  value: object,
  sockets: ExportSocket[],
): Promise<void> {
  const columns = [
    textColumn<ExportSocket>('name', (row) => row.name),
    textColumn<ExportSocket>('access', (row) => (row.readOnly ? 'read' : 'write')),
    textColumn<ExportSocket>('path', (row) => row.path),
  ]
  await writeResult(cli, options, key, value, tableText(sockets, columns, {}))
}
