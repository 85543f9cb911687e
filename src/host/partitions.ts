/** What a disk holds: a filesystem, or partitions, and which of them is meant. */
import { OperatingError } from '../base/errors.ts'
import { formatSize } from '../base/units.ts'
import { ROOT_TYPES } from './filesystems.ts'

export interface Partition {
  number: number
  offsetBytes: number
  sizeBytes: number
  /** A GUID, or a number as `0x83`. */
  typeId: string
  /** Empty where the table has no names. */
  label: string
  contents: Contents
}

/** What libblkid makes of the first bytes. */
export interface Contents {
  /** `ext4`, `LVM2_member`; null: nothing that it knows. */
  type: string | null
  isFilesystem: boolean
  /** `gpt`, `dos`; null: no table. */
  tableType: string | null
}

/** The output of `blkid -p -o export`. */
export function parseContents(text: string): Contents {
  const found = new Map(
    text.split('\n').map((line): [string, string] => {
      const at = line.indexOf('=')
      return at < 0 ? [line, ''] : [line.slice(0, at), line.slice(at + 1)]
    }),
  )
  return {
    type: found.get('TYPE') ?? null,
    isFilesystem: found.get('USAGE') === 'filesystem',
    tableType: found.get('PTTYPE') ?? null,
  }
}

/** The output of `partx --bytes --pairs -o NR,START,SECTORS,SIZE,TYPE,NAME`. */
export function parsePartitions(text: string): Omit<Partition, 'contents'>[] {
  return text.split('\n').flatMap((line) => {
    const pairs = new Map(
      [...line.matchAll(/([A-Z]+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]),
    )
    const number = Number(pairs.get('NR'))
    const start = Number(pairs.get('START'))
    const sectors = Number(pairs.get('SECTORS'))
    const sizeBytes = Number(pairs.get('SIZE'))
    if (!(number > 0) || !(sectors > 0) || !(sizeBytes > 0) || Number.isNaN(start)) return []
    // The table does not say how long a sector is; size and count do.
    const offsetBytes = start * (sizeBytes / sectors)
    const [typeId, label] = [pairs.get('TYPE') ?? '', pairs.get('NAME') ?? '']
    return [{ number, offsetBytes, sizeBytes, typeId: typeId.toLowerCase(), label }]
  })
}

/** The Discoverable Partitions Specification's root partitions of the usual machines. */
const ROOT_TYPE_IDS: ReadonlySet<string> = new Set([
  '4f68bce3-e8cd-4db1-96e7-fbcaf984b709', // x86-64
  '44479540-f297-41b2-9af7-d131d5f0458a', // x86
  'b921b045-1df0-41c3-af44-4c6f280d3fae', // arm64
  '69dad710-2ce4-4e3c-b16c-21a1d49abed3', // arm
  '72ec70a6-cf74-40e6-bd49-4bda08e8f224', // riscv64
])
/** Under which a dos table has swap, and extended partitions as containers. */
const NO_FILESYSTEM_IDS: ReadonlySet<string> = new Set(['0x5', '0xf', '0x85', '0x82'])

/** What is to be mounted: all of the disk when `partition` is null. */
export interface Choice {
  partition: Partition | null
  type: string
}

/**
 * By number when one is asked for. Else the whole disk when it is one filesystem; the only
 * partition with one; the partition that the table says is Linux's root; the largest that could
 * be. Rejects `usage` or `not-found` with the partitions that there are.
 */
export function chooseFilesystem(
  disk: string,
  whole: Contents,
  partitions: readonly Partition[],
  wantedNumber: number | null,
): Choice {
  if (wantedNumber !== null) return choosePartition(disk, partitions, wantedNumber)
  if (whole.isFilesystem || (whole.type !== null && whole.tableType === null)) {
    return { partition: null, type: mustBeFilesystem(disk, whole) }
  }
  const able = partitions.filter(({ contents, typeId }) => {
    return contents.isFilesystem && !NO_FILESYSTEM_IDS.has(typeId)
  })
  const chosen = able.length === 1 ? able[0] : likelyRoot(able)
  if (chosen !== null) {
    return { partition: chosen, type: mustBeFilesystem(disk, chosen.contents) }
  }
  const fact =
    partitions.length === 0
      ? `${disk} has neither a filesystem nor partitions`
      : `${disk} has no partition that is clearly meant`
  const hint =
    partitions.length === 0
      ? `Make one with \`varve mkfs ${disk} --type ext4\`.`
      : `Choose with --partition. There are: ${partitions.map(describe).join('; ')}.`
  throw new OperatingError(partitions.length === 0 ? 'not-found' : 'usage', fact, {
    hint,
    details: { name: disk, partitions },
  })
}

function choosePartition(
  disk: string,
  partitions: readonly Partition[],
  wantedNumber: number,
): Choice {
  const found = partitions.find(({ number }) => number === wantedNumber)
  if (found !== undefined) {
    const name = `partition ${wantedNumber} of ${disk}`
    return { partition: found, type: mustBeFilesystem(name, found.contents) }
  }
  const there = partitions.map(describe).join('; ')
  throw new OperatingError('not-found', `${disk} has no partition ${wantedNumber}`, {
    hint: there === '' ? 'It has no partitions at all.' : `There are: ${there}.`,
    details: { name: disk, partitions },
  })
}

function likelyRoot(able: readonly Partition[]): Partition | null {
  const marked = able.filter(({ typeId }) => ROOT_TYPE_IDS.has(typeId))
  if (marked.length > 0) return largest(marked)
  return largest(able.filter(({ contents }) => ROOT_TYPES.includes(contents.type ?? '')))
}

/** The first of the largest. */
function largest(partitions: readonly Partition[]): Partition | null {
  let found: Partition | null = null
  for (const partition of partitions) {
    if (found === null || partition.sizeBytes > found.sizeBytes) found = partition
  }
  return found
}

function mustBeFilesystem(where: string, contents: Contents): string {
  if (contents.isFilesystem && contents.type !== null) return contents.type
  const fact =
    contents.type === null
      ? `there is no filesystem on ${where}`
      : `${where} holds ${contents.type}, which is not a filesystem`
  throw new OperatingError(contents.type === null ? 'not-found' : 'unsupported', fact, {
    hint: 'Use `varve attach`, and the tool that made it on the device.',
    details: { type: contents.type },
  })
}

/** `2: ext4, 20.0 GiB, root` */
function describe({ number, contents, sizeBytes, label }: Partition): string {
  const words = [contents.type ?? 'unknown', formatSize(sizeBytes)]
  if (label !== '') words.push(label)
  return `${number}: ${words.join(', ')}`
}
