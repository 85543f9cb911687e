/** `varve serve`: the daemon in the foreground. */
import { readFile } from 'node:fs/promises'
import { Option } from 'commander'
import type { Command } from 'commander'
import { OperatingError } from '../../base/errors.ts'
import type { Daemon, ServeOptions } from '../../daemon/serve.ts'
import { addHelp, globalOptions, mustPoolPath, parseTcpAddress } from '../arguments.ts'
import { textColumn } from '../columns.ts'
import type { Cli } from '../context.ts'
import { writeOut } from '../context.ts'
import { EXIT_INTERRUPTED } from '../exit-codes.ts'
import { addResultOptions, tableText, writeJsonLines } from '../output.ts'
import type { OutputOptions } from '../output.ts'

interface Options extends OutputOptions {
  socket?: string
  tcp?: { host: string; port: number }
  tlsCert?: string
  tlsKey?: string
  tlsCa?: string
  allowPlaintext?: boolean
  readOnly?: string[]
  logLevel: string
}

export function registerServe(program: Command, cli: Cli): void {
  const command = program
    .command('serve')
    .summary('present every disk over NBD until told to stop')
    .description(
      'Presents every volume and snapshot as an NBD export of its name, those made later too. ' +
        'Other commands reach the pool through this process. SIGTERM and SIGINT let clients ' +
        'finish, write a checkpoint and exit; a second one exits at once.',
    )
    .option('--socket <path>', 'of the NBD unix socket (default: nbd.sock in the pool)')
    .option('--tcp <host:port>', 'listen here too', parseTcpAddress)
    .option('--tls-cert <file>', 'PEM; with --tls-key, clients may or must use TLS')
    .option('--tls-key <file>', 'PEM')
    .option('--tls-ca <file>', 'PEM; clients must show a certificate of this authority')
    .option('--allow-plaintext', 'clients without TLS may come from other hosts')
    .option('--read-only <names...>', 'volumes that clients may not write')
    .addOption(
      new Option('--log-level <level>', 'of the log on stderr')
        .choices(['error', 'warn', 'info', 'debug', 'silent'])
        .default('info'),
    )
    .action(async (options: Options) => {
      const poolPath = mustPoolPath(cli, command)
      const serveOptions: ServeOptions = {
        poolPath,
        ioKind: globalOptions(command).io,
        socketPath: options.socket ?? null,
        tcp: options.tcp ?? null,
        tls: await readTls(options),
        allowPlaintext: options.allowPlaintext === true,
        readOnlyNames: options.readOnly ?? [],
      }
      const { serve } = await cli.loadBackend()
      const stop = waitForStop(cli)
      const daemon = await serve(serveOptions, options.logLevel)
      try {
        await announce(cli, options, daemon)
        await stop
      } finally {
        await daemon.close()
      }
    })
  addResultOptions(command)
  addHelp(command, [
    'varve --pool /srv/pool serve',
    'varve serve --tcp 127.0.0.1:10809 --read-only golden',
    'varve serve --tcp 0.0.0.0:10809 --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem',
  ])
}

/** Resolves at the first signal; listening begins before the pool is opened. */
function waitForStop(cli: Cli): Promise<void> {
  return new Promise((resolve) => {
    let asked = false
    const stop = (): void => {
      if (asked) cli.exitNow(EXIT_INTERRUPTED)
      asked = true
      resolve()
    }
    cli.onSignal('SIGINT', stop)
    cli.onSignal('SIGTERM', stop)
  })
}

/** One line an export and address, then the line that says that all of them answer. */
async function announce(cli: Cli, options: Options, daemon: Daemon): Promise<void> {
  const status = daemon.status()
  if (options.output !== 'table') {
    await writeJsonLines(cli, [{ ready: true, control: daemon.controlPath, ...status }])
    return
  }
  const columns = [
    textColumn<{ name: string; uri: string }>('name', (row) => row.name),
    textColumn<{ name: string; uri: string }>('uri', (row) => row.uri),
  ]
  const rows = status.exports
  if (rows.length > 0) await writeOut(cli.stdout, tableText(rows, columns, {}))
  await writeOut(cli.stdout, `ready: ${daemon.controlPath}\n`)
}

async function readTls(options: Options): Promise<ServeOptions['tls']> {
  const { tlsCert, tlsKey, tlsCa } = options
  if (tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) return null
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new OperatingError('usage', 'TLS needs both --tls-cert and --tls-key')
  }
  return {
    cert: await readPem(tlsCert),
    key: await readPem(tlsKey),
    ca: tlsCa === undefined ? null : await readPem(tlsCa),
  }
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new OperatingError(missing ? 'not-found' : 'io', `cannot read ${path}`, { cause: error })
  }
}
