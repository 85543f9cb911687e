/**
 * fallocate(2) from Node: through the addon on a thread, or, without it, by the `fallocate`
 * command of util-linux on an inherited descriptor. Where neither is to be had, `unsupported`.
 */
import { spawn } from 'node:child_process'
import { OperatingError } from '../base/errors.ts'
import { toolEnvironment } from '../base/host-tool.ts'
import type { Binding } from '../native/binding.ts'
import { osError } from './os-errors.ts'

export type FallocateKind = 'punch' | 'allocate'

// From linux/falloc.h.
const FALLOC_FL_KEEP_SIZE = 1
const FALLOC_FL_PUNCH_HOLE = 2

const MODES: Readonly<Record<FallocateKind, { flags: number; option: string }>> = {
  punch: { flags: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, option: '--punch-hole' },
  allocate: { flags: FALLOC_FL_KEEP_SIZE, option: '--keep-size' },
}

interface Range {
  fd: number
  path: string
  offsetBytes: number
  lengthBytes: number
}

function byCommand(
  kind: FallocateKind,
  range: Range,
  environment: Record<string, string>,
): Promise<void> {
  const { fd, path, offsetBytes, lengthBytes } = range
  const args = [MODES[kind].option, '-o', String(offsetBytes), '-l', String(lengthBytes)]
  return new Promise((resolve, reject) => {
    // The child sees our descriptor as its own number 3.
    const child = spawn('fallocate', [...args, '/proc/self/fd/3'], {
      cwd: '/',
      env: environment,
      stdio: ['ignore', 'ignore', 'pipe', fd],
    })
    let complaint = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint += text))
    child.once('error', (cause) => {
      reject(
        new OperatingError('unsupported', `cannot ${kind} ${path}: no addon and no fallocate`, {
          cause,
          hint: 'Build the addon with tools/build-native, or install util-linux.',
        }),
      )
    })
    child.once('close', (status) => {
      if (status === 0) resolve()
      else reject(commandError(kind, path, complaint.trim()))
    })
  })
}

function commandError(kind: FallocateKind, path: string, complaint: string): OperatingError {
  const isFull = complaint.includes('No space left')
  const isForeign = complaint.includes('not supported')
  const code = isFull ? 'no-space' : isForeign ? 'unsupported' : 'io'
  return new OperatingError(code, `cannot ${kind} ${path}: ${complaint}`, { details: { path } })
}

/** `environment`: of the command, where there is no addon. */
export async function fallocate(
  kind: FallocateKind,
  range: Range,
  binding: Binding | null,
  environment: Record<string, string> = toolEnvironment(),
): Promise<void> {
  if (binding === null) {
    await byCommand(kind, range, environment)
    return
  }
  const { fd, path, offsetBytes, lengthBytes } = range
  const result = await binding.fallocate(fd, MODES[kind].flags, offsetBytes, lengthBytes)
  if (result < 0) throw osError(kind, path, -result)
}
