/**
 * The generic tests of xfstests on an ext4 made on two volumes of a pool, attached as devices.
 * What fails there is run again on plain files behind the same kind of device: a failure that
 * shows there, too, is the host's or the test's, and only the others are ours.
 *
 *     node dist/tools/xfstests.js --xfstests FOLDER [--smoke] [TEST...]
 *
 * FOLDER holds a built xfstests; no Debian release packages one. Needs root.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { attachPlainFiles, attachVolumes } from './xfstests/devices.ts'
import type { Devices } from './xfstests/devices.ts'
import { runCheck } from './xfstests/run-check.ts'
import type { CheckResult } from './xfstests/run-check.ts'

/** A test of each kind that a block device can get wrong, in about a minute. */
const SMOKE_TESTS = [
  'generic/001',
  'generic/008',
  'generic/013',
  'generic/075',
  'generic/091',
  'generic/113',
  'generic/247',
  'generic/260',
  'generic/263',
  'generic/392',
]

/**
 * The quick tests, without the groups that are about who may do what, or about features that an
 * ext4 here has not: nothing of them depends on the device.
 */
const QUICK_ARGUMENTS = ['-g', 'generic/quick']
const LEFT_OUT_GROUPS = [
  'acl',
  'atomicwrites',
  'cap',
  'casefold',
  'clone',
  'dax',
  'dedupe',
  'encrypt',
  'fiexchange',
  'idmapped',
  'quota',
  'verity',
]

const USAGE = `Usage: npm run xfstests -- --xfstests FOLDER [options] [TEST...]

  --xfstests FOLDER  a built xfstests (or set VARVE_XFSTESTS)
  --smoke            a dozen tests, about a minute, instead of the quick group
  --on DEVICES       volumes, or plain to run on plain files only (volumes)
  --size SIZE        of each of the two devices, as losetup's users write it (10G)
  --folder PATH      where to put pool and files; others must be able to enter it (${tmpdir()})
`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      xfstests: { type: 'string', default: process.env.VARVE_XFSTESTS ?? '' },
      smoke: { type: 'boolean', default: false },
      on: { type: 'string', default: 'volumes' },
      size: { type: 'string', default: '10G' },
      folder: { type: 'string', default: tmpdir() },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help || values.xfstests === '' || !['volumes', 'plain'].includes(values.on)) {
    process.stdout.write(USAGE)
    return values.help ? 0 : 2
  }
  const folder = mkdtempSync(join(values.folder, 'varve-xfstests-'))
  const on = (devices: Promise<Devices>, tests: readonly string[]): Promise<CheckResult> =>
    onDevices(devices, values.xfstests, folder, tests)
  try {
    const plain = (): Promise<Devices> => attachPlainFiles(folder, values.size)
    const tests = testArguments(positionals, values.smoke)
    if (values.on === 'plain') return report('plain files', await on(plain(), tests), null)
    const ours = await on(attachVolumes(folder, values.size), tests)
    const again = ours.failed.length === 0 ? null : await on(plain(), ours.failed)
    return report('volumes', ours, again)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function testArguments(named: readonly string[], isSmoke: boolean): string[] {
  if (named.length > 0) return [...named]
  if (isSmoke) return SMOKE_TESTS
  return [...QUICK_ARGUMENTS, ...LEFT_OUT_GROUPS.flatMap((group) => ['-x', group])]
}

async function onDevices(
  attaching: Promise<Devices>,
  xfstests: string,
  folder: string,
  tests: readonly string[],
): Promise<CheckResult> {
  const devices = await attaching
  try {
    return await runCheck(xfstests, folder, devices, tests)
  } finally {
    await devices.detach()
  }
}

/** Prints what it comes to; 1 when something is ours. */
function report(name: string, result: CheckResult, again: CheckResult | null): number {
  const { ranCount, failed, skippedCount, seconds } = result
  const passedCount = ranCount - failed.length
  const minutes = (seconds / 60).toFixed(1)
  console.log(
    `on ${name}: ${passedCount} passed, ${failed.length} failed, ` +
      `${skippedCount} cannot run here; ${minutes} minutes`,
  )
  const elsewhere = new Set(again?.failed)
  for (const test of failed) {
    console.log(elsewhere.has(test) ? `${test}: also fails on plain files` : `${test}: FAILED`)
  }
  return ranCount > 0 && failed.every((test) => elsewhere.has(test)) ? 0 : 1
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`xfstests: ${error instanceof Error ? error.message : String(error)}\n`)
  return 1
})
