#!/usr/bin/env node
import { runCli } from './run.ts'
import { processCli } from './terminal.ts'

// A reader that goes away fails the write that notices; without a listener it would be fatal.
process.stdout.on('error', () => undefined)

process.exitCode = await runCli(process.argv.slice(2), processCli())
// An unread pipe on standard input would keep the process alive.
process.stdin.destroy()
