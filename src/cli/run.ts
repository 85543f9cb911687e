/** The command line from words to exit code. */
import { Command, CommanderError, Option } from 'commander'
import { VarveError } from '../base/errors.ts'
import { EXIT_CODE_HELP, EXIT_FAILED, EXIT_OK, EXIT_USAGE, exitCodeOf } from './exit-codes.ts'
import { registerAttach } from './commands/attach.ts'
import { registerCheck } from './commands/check.ts'
import { registerClone } from './commands/clone.ts'
import { registerCreate } from './commands/create.ts'
import { registerDetach } from './commands/detach.ts'
import { registerDevices } from './commands/devices.ts'
import { registerDiff } from './commands/diff.ts'
import { registerDoctor } from './commands/doctor.ts'
import { registerExport } from './commands/export.ts'
import { registerExportSocket } from './commands/export-socket.ts'
import { registerFuse } from './commands/fuse.ts'
import { registerHold } from './commands/hold.ts'
import { registerImport } from './commands/import.ts'
import { registerInfo } from './commands/info.ts'
import { registerInit } from './commands/init.ts'
import { registerList } from './commands/list.ts'
import { registerMkfs } from './commands/mkfs.ts'
import { registerMount } from './commands/mount.ts'
import { registerReclaim } from './commands/reclaim.ts'
import { registerRelease } from './commands/release.ts'
import { registerRename } from './commands/rename.ts'
import { registerResize } from './commands/resize.ts'
import { registerRestore } from './commands/restore.ts'
import { registerRm } from './commands/rm.ts'
import { registerScrub } from './commands/scrub.ts'
import { registerSettle } from './commands/settle.ts'
import { registerServe } from './commands/serve.ts'
import { registerSnapshot } from './commands/snapshot.ts'
import { registerTree } from './commands/tree.ts'
import { registerUmount } from './commands/umount.ts'
import { registerUsage } from './commands/usage.ts'
import { programVersion } from '../api/version.ts'
import type { Cli } from './context.ts'
import { API_VERSION } from './output.ts'

/** For the commands whose exit says more than done or failed. */
export type SetExitCode = (code: number) => void

/** In the order in which help lists them. */
const REGISTER: readonly ((program: Command, cli: Cli, setExitCode: SetExitCode) => void)[] = [
  registerInit,
  registerCreate,
  registerImport,
  registerList,
  registerInfo,
  registerTree,
  registerUsage,
  registerSnapshot,
  registerClone,
  registerRestore,
  registerRename,
  registerResize,
  registerRm,
  registerHold,
  registerRelease,
  registerDiff,
  registerExport,
  registerReclaim,
  registerScrub,
  registerSettle,
  registerCheck,
  registerServe,
  registerExportSocket,
  registerFuse,
  registerAttach,
  registerDetach,
  registerDevices,
  registerMount,
  registerUmount,
  registerMkfs,
  registerDoctor,
]

/** Runs one command; never throws, and writes errors to stderr. Resolves to the exit code. */
export async function runCli(words: readonly string[], cli: Cli): Promise<number> {
  let exitCode = EXIT_OK
  const program = buildProgram(cli, (code) => {
    exitCode = code
  })
  try {
    await program.parseAsync(words, { from: 'user' })
    return exitCode
  } catch (error) {
    // Help and version end this way too, with 0; commander has written what there is to say.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE
    if (isClosedPipe(error)) return EXIT_FAILED
    cli.stderr.write(errorText(error, wantsJson(words)))
    return exitCodeOf(error)
  }
}

function buildProgram(cli: Cli, setExitCode: SetExitCode): Command {
  const program = new Command('varve')
    .description('Thin disks, free snapshots and clones, served as drives.')
    .version(programVersion(), '-V, --version')
    .option('--pool <folder>', 'the pool (default: VARVE_POOL)')
    .addOption(
      new Option('--io <kind>', 'how the pool is read and written')
        .choices(['auto', 'ring', 'node'])
        .default('auto'),
    )
    .helpCommand('help [command]', 'help for a command')
    .configureHelp({ showGlobalOptions: true, sortOptions: true })
    .configureOutput({
      writeOut: (text) => cli.stdout.write(text),
      writeErr: (text) => cli.stderr.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, 'varve: ')),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .showHelpAfterError('(--help says more)')
    .exitOverride()
  for (const register of REGISTER) register(program, cli, setExitCode)
  const example = '  $ varve init /srv/pool && varve --pool /srv/pool create vm1 20G'
  return program.addHelpText('after', `\nExamples:\n${example}\n\n${EXIT_CODE_HELP}`)
}

/** `varve list | head`: the reader has seen enough, and that is no news. */
function isClosedPipe(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EPIPE'
}

/** An error in the words themselves comes before the options are known. */
function wantsJson(words: readonly string[]): boolean {
  return words.some((word, index) => {
    const format = /^(?:-o=?|--output=)(jsonl?)$/.exec(word)
    if (format !== null) return true
    return (word === '-o' || word === '--output') && /^jsonl?$/.test(words[index + 1] ?? '')
  })
}

function errorText(error: unknown, json: boolean): string {
  if (!(error instanceof VarveError)) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return `varve: this should not have happened: ${text}\n`
  }
  const { code, message, hint, details } = error
  if (json) {
    const body = { code, message, hint: hint ?? null, details }
    return `${JSON.stringify({ apiVersion: API_VERSION, error: body })}\n`
  }
  return hint === undefined ? `varve: ${message}\n` : `varve: ${message}\n  ${hint}\n`
}
