/**
 * An ext4 image from files, by `mke2fs`. Nothing in it is of the moment or of the host: identifier
 * and hash seed come from the tree's identity, the time is that of its newest file, and features
 * are named here. So the same tree gives the same bytes, which take no space a second time.
 */
import { statSync, truncateSync, writeFileSync } from 'node:fs'
import { clearInterval, setInterval } from 'node:timers'
import { OperatingError } from '../../base/errors.ts'
import { SECTOR_SIZE_BYTES } from '../image-file.ts'
import { systemError } from '../system-error.ts'
import { BLOCK_SIZE_BYTES, MIB, formatSize } from '../../base/units.ts'
import { roomyBytes } from './survey.ts'
import type { Survey } from './survey.ts'
import { startTool } from './tool.ts'
import type { RootfsTool } from './tool.ts'

export interface Ext4Options {
  /** Null: by what the tree needs. */
  sizeBytes: number | null
  signal: AbortSignal
  progress: (progress: { doneBytes: number; totalBytes: number }) => void
}

/** What every guest and boot loader of these ten years reads; `mke2fs`'s own change with it. */
const FEATURES =
  'none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,' +
  'sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum'
const INODE_BYTES = 256
const BYTES_PER_INODE = 16384
const RESERVED_INODE_COUNT = 11
/** Below, there is no room for a journal. */
const SIZE_BYTES_MIN: number = 8 * MIB
const PROGRESS_INTERVAL_MS = 300
const OUT_OF_ROOM = /no space|could not allocate (block|inode)|not enough space|no free space/i

/** Makes `imagePath`, a sparse file, from the files below `folder`. Resolves to its size. */
export async function makeExt4(
  imagePath: string,
  folder: string,
  survey: Survey,
  options: Ext4Options,
): Promise<number> {
  if (options.sizeBytes !== null) {
    if (await tryMake(imagePath, folder, survey, options.sizeBytes, options)) {
      return options.sizeBytes
    }
    throw tooSmall(options.sizeBytes, survey)
  }
  // Files on a compressing filesystem take less there than they will take here.
  const guesses = [
    roomyBytes(survey, survey.blockCount),
    roomyBytes(survey, survey.wholeBlockCount),
  ]
  for (const sizeBytes of new Set(guesses)) {
    if (await tryMake(imagePath, folder, survey, sizeBytes, options)) return sizeBytes
  }
  throw tooSmall(guesses[1], survey)
}

/** False: it does not fit. */
async function tryMake(
  imagePath: string,
  folder: string,
  survey: Survey,
  sizeBytes: number,
  { signal, progress }: Ext4Options,
): Promise<boolean> {
  if (sizeBytes % SECTOR_SIZE_BYTES !== 0 || sizeBytes < SIZE_BYTES_MIN) {
    throw new OperatingError('usage', `a filesystem of ${sizeBytes} bytes cannot be`, {
      hint: `A size is a multiple of 512 bytes, and at least ${formatSize(SIZE_BYTES_MIN)}.`,
    })
  }
  if (sizeBytes < survey.blockCount * BLOCK_SIZE_BYTES) return false
  try {
    writeFileSync(imagePath, '', { mode: 0o600 })
    truncateSync(imagePath, sizeBytes)
  } catch (error) {
    throw systemError(`cannot make a filesystem of ${formatSize(sizeBytes)}`, error)
  }
  const args = ['-q', '-F', ...mke2fsArguments(survey, sizeBytes), '-d', folder, imagePath]
  const totalBytes = survey.blockCount * BLOCK_SIZE_BYTES
  const timer = setInterval(() => {
    const doneBytes = Math.min(statSync(imagePath).blocks * 512, totalBytes)
    progress({ doneBytes, totalBytes })
  }, PROGRESS_INTERVAL_MS)
  const running = runFixed('mke2fs', args, survey, signal)
  const { exitCode, complaint } = await running.finally(() => clearInterval(timer))
  if (exitCode === 0) return true
  if (OUT_OF_ROOM.test(complaint)) return false
  throw new OperatingError('io', `mke2fs: ${firstLines(complaint) || `exits ${exitCode}`}`, {
    hint: 'Is every file readable, and is there room in $TMPDIR (/var/tmp)?',
  })
}

/** Runs a script of `debugfs` on an image. Resolves to how many of its lines it refused. */
export async function runDebugfs(
  imagePath: string,
  scriptPath: string,
  survey: Survey,
  signal: AbortSignal,
): Promise<number> {
  const args = ['-w', '-f', scriptPath, imagePath]
  const { exitCode, complaint } = await runFixed('debugfs', args, survey, signal)
  if (exitCode !== 0) {
    throw new OperatingError('io', `debugfs: ${firstLines(complaint) || `exits ${exitCode}`}`)
  }
  // Its first line says which version it is.
  return complaint.split('\n').filter((line) => !/^debugfs \d/.test(line) && line !== '').length
}

/** The time in the filesystem where the tree has none to give. */
export function fixedSecondsOf(survey: Survey): number {
  // To the programs a zero means the time of day.
  return Math.min(Math.max(survey.newestSeconds, 1), 0x7fffffff)
}

async function runFixed(
  tool: RootfsTool,
  args: readonly string[],
  survey: Survey,
  signal: AbortSignal,
): Promise<{ exitCode: number; complaint: string }> {
  const environment = {
    E2FSPROGS_FAKE_TIME: String(fixedSecondsOf(survey)),
    // What the host's administrator prefers is not what makes images alike.
    MKE2FS_CONFIG: '/dev/null',
    MKE2FS_SYNC: '0',
  }
  const running = startTool(tool, args, ['ignore', 'ignore', 'pipe'], environment, signal)
  const exitCode = await running.ended
  if (signal.aborted) throw new OperatingError('canceled', 'canceled')
  return { exitCode, complaint: running.complaint() }
}

function mke2fsArguments(survey: Survey, sizeBytes: number): string[] {
  const needed = Math.ceil(survey.inodeCount * 1.25) + RESERVED_INODE_COUNT + 64
  const inodeCount = Math.max(needed, Math.floor(sizeBytes / BYTES_PER_INODE))
  const identifier = uuidOf(survey.identity.subarray(0, 16))
  const seed = uuidOf(survey.identity.subarray(16, 32))
  return [
    ...['-b', String(BLOCK_SIZE_BYTES), '-I', String(INODE_BYTES)],
    ...['-N', String(Math.min(inodeCount, 0xffffffff)), '-O', FEATURES],
    ...['-U', identifier, '-E', `hash_seed=${seed},root_owner=0:0`],
    // Replies to errors and what users may have are the mount's to choose.
    ...['-e', 'continue', '-o', 'Linux'],
  ]
}

/** Version 8 of RFC 9562: ours to make. */
export function uuidOf(bytes: Uint8Array): string {
  const own = Buffer.from(bytes)
  own[6] = (own[6] & 0x0f) | 0x80
  own[8] = (own[8] & 0x3f) | 0x80
  const digits = own.toString('hex')
  const at = [0, 8, 12, 16, 20, 32]
  return at
    .slice(1)
    .map((end, index) => digits.slice(at[index], end))
    .join('-')
}

function tooSmall(sizeBytes: number, survey: Survey): OperatingError {
  const wanted = roomyBytes(survey, survey.blockCount)
  return new OperatingError('no-space', `the tree does not fit into ${formatSize(sizeBytes)}`, {
    hint: `Give a larger --size; ${formatSize(wanted)} is roomy.`,
  })
}

function firstLines(text: string): string {
  const lines = text.split('\n').filter((line) => line !== '' && !/^mke2fs \d/.test(line))
  return lines.slice(0, 3).join('; ').slice(0, 400)
}
