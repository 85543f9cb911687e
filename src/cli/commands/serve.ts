/** `varve serve`: the daemon in the foreground. */
import { readFile, stat } from 'node:fs/promises'
import { Option } from 'commander'
import type { Command } from 'commander'
import { resolve } from 'node:path'
import type { Compression, FuseRequest } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import type { Daemon, ServeOptions } from '../../daemon/serve.ts'
import {
  addHelp,
  globalOptions,
  mustPoolPath,
  parseDays,
  parsePercent,
  parseTcpAddress,
} from '../arguments.ts'
import { textColumn } from '../columns.ts'
import type { Cli } from '../context.ts'
import { writeOut } from '../context.ts'
import { EXIT_INTERRUPTED } from '../exit-codes.ts'
import { addResultOptions, tableText, writeJsonLines } from '../output.ts'
import type { OutputOptions } from '../output.ts'

/** A group may read a key: that is how a certificate's owner lets a service have it. */
const OTHERS_MASK = 0o007

interface Options extends OutputOptions {
  socket?: string
  tcp?: { host: string; port: number }
  tlsCert?: string
  tlsKey?: string
  tlsCa?: string
  allowPlaintext?: boolean
  allow?: string[]
  allowFile?: string
  readOnly?: string[]
  fuse?: string
  vhostUser?: string
  fuseTransport: FuseRequest['transport']
  allowOther?: boolean
  warnAt?: number
  settle: 'idle' | 'off'
  scrubEvery: number
  compression: Compression
  logLevel: string
}

export function registerServe(program: Command, cli: Cli): void {
  const command = program.command('serve')
  addListenOptions(command)
  command
    .summary('present every disk over NBD until told to stop')
    .description(
      'Presents every volume and snapshot as an NBD export of its name, those made later too. ' +
        'With --vhost-user also as drives that guests reach through shared memory. ' +
        'Other commands reach the pool through this process. SIGTERM and SIGINT let clients ' +
        'finish, write a checkpoint and exit; a second one exits at once. While somebody uses a ' +
        'mounted filesystem or an attached device of the pool, the first is refused, with the ' +
        'users, and the second takes it from them.',
    )
    .option('--read-only <names...>', 'volumes that clients may not write')
    .option('--vhost-user <folder>', 'a vhost-user-blk socket NAME.sock there for every disk')
    .option('--fuse <folder>', 'show the pool there as a filesystem, too')
    .addOption(fuseTransportOption())
    .option('--allow-other', 'other users may look and read in it')
    .option('--warn-at <percent>', 'how full to call nearly full (default: 85)', parsePercent)
    .addOption(
      new Option('--settle <when>', 'when to store what is at rest once, compressed')
        .choices(['idle', 'off'])
        .default('idle'),
    )
    .addOption(
      new Option('--compression <codec>', 'of what is settled when idle')
        .choices(['off', 'lz4', 'zstd'])
        .default('lz4'),
    )
    .option('--scrub-every <days>', 'how often to verify everything; 0: never', parseDays, 30)
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
        tls: await readTls(cli, options),
        allowPlaintext: options.allowPlaintext === true,
        allow: options.allow ?? [],
        allowFilePath: options.allowFile ?? null,
        readOnlyNames: options.readOnly ?? [],
        fuse: fuseRequestOf(options),
        vhostUserFolder: options.vhostUser ?? null,
        warnPercent: options.warnAt ?? null,
        idleCompression: options.settle === 'idle' ? options.compression : null,
        scrubEveryDays: options.scrubEvery === 0 ? null : options.scrubEvery,
      }
      await runDaemon(cli, serveOptions, options)
    })
  addResultOptions(command)
  addHelp(command, [
    'varve --pool /srv/pool serve',
    'varve serve --fuse /mnt/pool',
    'varve serve --vhost-user /run/varve/vhost-user',
    'varve serve --tcp 127.0.0.1:10809 --read-only golden',
    'varve serve --tcp 0.0.0.0:10809 --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem',
    'varve serve ... --tls-ca ca.pem --allow cert:web1=web* --allow cert:backup=*@*:ro',
    'varve serve --socket /run/varve/nbd.sock --allow user:libvirt-qemu=vm-*',
  ])
}

/** Where NBD clients come in, and who may. */
function addListenOptions(command: Command): void {
  command
    .option('--socket <path>', 'of the NBD unix socket (default: nbd.sock in the pool)')
    .option('--tcp <host:port>', 'listen here too', parseTcpAddress)
    .option('--tls-cert <file>', 'PEM; with --tls-key, clients may or must use TLS')
    .option('--tls-key <file>', 'PEM')
    .option('--tls-ca <file>', 'PEM; clients must show a certificate of this authority')
    .option('--allow-plaintext', 'clients without TLS may come from other hosts')
    .option('--allow <rule>', 'CLIENT=EXPORT[:ro]; only what rules say, but to the owner', collect)
    .option('--allow-file <file>', 'such rules, one a line')
}

export function fuseTransportOption(): Option {
  return new Option('--fuse-transport <kind>', 'how the filesystem speaks to the kernel')
    .choices(['auto', 'native', 'fuse-native'])
    .default('auto')
}

function fuseRequestOf(options: Options): FuseRequest | null {
  if (options.fuse === undefined) {
    if (options.allowOther !== true) return null
    throw new OperatingError('usage', '--allow-other is about --fuse')
  }
  return {
    path: resolve(options.fuse),
    allowOther: options.allowOther === true,
    transport: options.fuseTransport,
  }
}

export type RunDaemonOptions = OutputOptions & { logLevel: string }

/** Serves until a signal ends it. What is in use on this host puts the end off until the next. */
export async function runDaemon(
  cli: Cli,
  serveOptions: ServeOptions,
  options: RunDaemonOptions,
): Promise<void> {
  const signals = new StopSignals(cli)
  const { serve } = await cli.loadBackend()
  const daemon = await serve(serveOptions, options.logLevel)
  try {
    await announce(cli, options, daemon)
    await signals.next()
    await withdraw(cli, daemon, signals)
    signals.exitAtNext()
  } finally {
    await daemon.close()
  }
}

async function withdraw(cli: Cli, daemon: Daemon, signals: StopSignals): Promise<void> {
  try {
    await daemon.withdraw(false)
  } catch (error) {
    if (!(error instanceof OperatingError) || error.code !== 'busy') throw error
    cli.stderr.write(
      `varve: not stopping: ${error.message}\n` +
        '  Close what uses it, then ask again; asked now, whoever uses it gets errors.\n',
    )
    await signals.next()
    await daemon.withdraw(true)
  }
}

/** SIGINT and SIGTERM from the start of the command on, one after the other. */
class StopSignals {
  readonly #cli: Cli
  #pendingCount = 0
  #isExiting = false
  #waiter: (() => void) | null = null

  constructor(cli: Cli) {
    this.#cli = cli
    const arrived = (): void => this.#arrived()
    cli.onSignal('SIGINT', arrived)
    cli.onSignal('SIGTERM', arrived)
  }

  /** The next one that was not waited for yet. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#pendingCount === 0) {
        this.#waiter = resolve
        return
      }
      this.#pendingCount -= 1
      resolve()
    })
  }

  /** Asked once more while it is ending, the process ends at once. */
  exitAtNext(): void {
    this.#isExiting = true
    if (this.#pendingCount > 0) this.#cli.exitNow(EXIT_INTERRUPTED)
  }

  #arrived(): void {
    if (this.#isExiting) this.#cli.exitNow(EXIT_INTERRUPTED)
    const waiter = this.#waiter
    this.#waiter = null
    if (waiter === null) this.#pendingCount += 1
    else waiter()
  }
}

/** One line an export and address, then the line that says that all of them answer. */
async function announce(cli: Cli, options: RunDaemonOptions, daemon: Daemon): Promise<void> {
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
  for (const { path } of status.mounts) await writeOut(cli.stdout, `mounted: ${path}\n`)
  await writeOut(cli.stdout, `ready: ${daemon.controlPath}\n`)
}

function collect(text: string, before: string[] = []): string[] {
  return [...before, text]
}

async function readTls(cli: Cli, options: Options): Promise<ServeOptions['tls']> {
  const { tlsCert, tlsKey, tlsCa } = options
  if (tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) return null
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new OperatingError('usage', 'TLS needs both --tls-cert and --tls-key')
  }
  await warnOfReaders(cli, tlsKey)
  return {
    cert: await readText(tlsCert),
    key: await readText(tlsKey),
    ca: tlsCa === undefined ? null : await readText(tlsCa),
  }
}

/** Whoever has the key is us, as far as clients can tell. */
async function warnOfReaders(cli: Cli, keyPath: string): Promise<void> {
  const stats = await stat(keyPath).catch(() => null)
  if (stats === null || (stats.mode & OTHERS_MASK) === 0) return
  cli.stderr.write(`varve: warning: others may read ${keyPath}; chmod 600 ${keyPath}\n`)
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new OperatingError(missing ? 'not-found' : 'io', `cannot read ${path}`, { cause: error })
  }
}
