/** The tools of the host that devices and mounts are made with; see `base/host-tool.ts`. */
import { OperatingError } from '../base/errors.ts'
import { runHostTool } from '../base/host-tool.ts'
import type { ToolResult } from '../base/host-tool.ts'

export type CommandResult = ToolResult

/**
 * Resolves whatever the exit code. Rejects `unsupported` when the tool is not installed, `io` when
 * it does not end in time.
 */
export type RunCommand = (
  tool: Tool,
  args: readonly string[],
  timeoutMs: number,
) => Promise<CommandResult>

/** The tools and the Debian packages that hold them. */
const PACKAGES = {
  losetup: 'mount',
  mount: 'mount',
  umount: 'mount',
  blkid: 'util-linux',
  partx: 'util-linux',
  realpath: 'coreutils',
  stat: 'coreutils',
  ls: 'coreutils',
  dd: 'coreutils',
  btrfs: 'btrfs-progs',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  'nbd-client': 'nbd-client',
} as const

export type Tool = keyof typeof PACKAGES

export const runCommand: RunCommand = (tool, args, timeoutMs) => {
  return runHostTool(tool, PACKAGES[tool], args, timeoutMs)
}

/** What a tool said went wrong, in one line. */
export function complaintOf(tool: Tool, result: CommandResult): string {
  const lines = result.stderr.split('\n').map((line) => line.trim())
  const said = lines.filter((line) => line !== '' && !line.startsWith('dmesg(1)')).slice(0, 3)
  return said.length > 0 ? said.join('; ') : `${tool} exits ${result.exitCode}`
}

/** As `run`, and rejects `io` with what the tool said unless it exits 0. */
export async function mustRun(
  run: RunCommand,
  tool: Tool,
  args: readonly string[],
  timeoutMs: number,
): Promise<string> {
  const result = await run(tool, args, timeoutMs)
  if (result.exitCode === 0) return result.stdout
  throw new OperatingError('io', complaintOf(tool, result), {
    details: { tool, exitCode: result.exitCode },
  })
}
