/** The protocol's numbers against the kernel's own header, as a C compiler reads it. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Layout } from '../../../../src/base/layout.ts'
import * as abi from '../../../../src/export/fuse/abi.ts'

const HEADER = '/usr/include/linux/fuse.h'

interface Structure {
  readonly name: string
  readonly layout: Layout<Record<string, number>>
  /** Of the header's version that brought it. */
  readonly minor?: number
  /** Fields that are not called as ours are; '' for one that the header's versions differ in. */
  readonly names?: Readonly<Record<string, string>>
}

const STRUCTURES: readonly Structure[] = [
  { name: 'in_header', layout: abi.IN },
  { name: 'out_header', layout: abi.OUT },
  { name: 'attr', layout: abi.ATTR },
  { name: 'entry_out', layout: abi.ENTRY_OUT },
  { name: 'attr_out', layout: abi.ATTR_OUT },
  { name: 'setattr_in', layout: abi.SETATTR_IN },
  { name: 'mkdir_in', layout: abi.MKDIR_IN },
  { name: 'mknod_in', layout: abi.MKNOD_IN },
  { name: 'rename_in', layout: abi.RENAME_IN },
  { name: 'rename2_in', layout: abi.RENAME2_IN },
  { name: 'open_in', layout: abi.OPEN_IN },
  { name: 'create_in', layout: abi.CREATE_IN },
  { name: 'open_out', layout: abi.OPEN_OUT, names: { backingId: '' } },
  { name: 'read_in', layout: abi.RANGE_IN, names: { operationFlags: 'read_flags' } },
  { name: 'write_in', layout: abi.RANGE_IN, names: { operationFlags: 'write_flags' } },
  { name: 'write_out', layout: abi.WRITE_OUT },
  { name: 'release_in', layout: abi.RELEASE_IN },
  { name: 'fsync_in', layout: abi.FSYNC_IN },
  { name: 'getxattr_in', layout: abi.GETXATTR_IN },
  { name: 'getxattr_out', layout: abi.GETXATTR_OUT },
  { name: 'kstatfs', layout: abi.STATFS_OUT },
  { name: 'init_in', layout: abi.INIT_IN },
  { name: 'init_out', layout: abi.INIT_OUT, names: { unused: '' } },
  { name: 'fallocate_in', layout: abi.FALLOCATE_IN },
  { name: 'lseek_in', layout: abi.LSEEK_IN },
  { name: 'lseek_out', layout: abi.LSEEK_OUT },
  { name: 'copy_file_range_in', layout: abi.COPY_FILE_RANGE_IN },
  { name: 'dirent', layout: abi.DIRENT },
  {
    name: 'statx_out',
    layout: abi.STATX_OUT,
    minor: 39,
    names: {
      ...inStat('mask', 'blksize', 'attributes', 'nlink', 'uid', 'gid', 'mode', 'ino', 'size'),
      ...inStat('blocks', 'atime', 'btime', 'ctime', 'mtime'),
      attributesMask: 'stat.attributes_mask',
      spare0: '',
      device: 'stat.rdev_major',
      spare2: '',
    },
  },
]

/** Values of the header under their names there, and ours. */
const VALUES: readonly (readonly [name: string, value: number, minor?: number])[] = [
  ...Object.entries(abi.Opcode).map(
    ([name, value]) => [`FUSE_${name}`, value, name === 'STATX' ? 39 : 0] as const,
  ),
  ...Object.entries(abi.InitFlag).map(([name, value]) => [`FUSE_${name}`, value] as const),
  ...Object.entries(abi.OpenFlag).map(([name, value]) => {
    return [`FOPEN_${name}`, value, name === 'PARALLEL_DIRECT_WRITES' ? 38 : 0] as const
  }),
  ...Object.entries(abi.SetattrValid).map(([name, value]) => [`FATTR_${name}`, value] as const),
  ...Object.entries(abi.InitFlag2).map(([name, value]) => {
    return [`(FUSE_${name} >> 32)`, value, 40] as const
  }),
]

function inStat(...names: string[]): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, `stat.${name}`]))
}

function headerName(ours: string): string {
  return ours.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

/** A program that prints a line "NAME OURS THEIRS" for each thing that this header has. */
function program(): string {
  const lines: string[] = []
  const line = (minor: number, name: string, ours: number, theirs: string): void => {
    lines.push(`#if FUSE_KERNEL_MINOR_VERSION >= ${minor}`)
    lines.push(
      `  printf("%s %lld %lld\\n", "${name}", ${ours}LL, (long long)(${theirs}));`,
      '#endif',
    )
  }
  for (const { name, layout, minor = 0, names = {} } of STRUCTURES) {
    const type = `struct fuse_${name}`
    for (const [field, offset] of Object.entries(layout)) {
      const isEnd = field === 'endOffset'
      const theirs = names[field] ?? headerName(field)
      if (isEnd) line(minor, `${name}:size`, offset, `sizeof(${type})`)
      else if (theirs !== '')
        line(minor, `${name}.${field}`, offset, `offsetof(${type}, ${theirs})`)
    }
  }
  for (const [name, value, minor = 0] of VALUES) {
    line(minor, name.replaceAll(' ', ''), value, name)
  }
  const head = ['#include <linux/fuse.h>', '#include <stddef.h>', '#include <stdio.h>']
  return [...head, 'int main(void) {', ...lines, '  return 0;', '}', ''].join('\n')
}

const skip = existsSync(HEADER) ? false : `no ${HEADER} here`

await t.test("structures and numbers are as the kernel's header has them", { skip }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-abi-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const source = join(folder, 'abi.c')
  const executable = join(folder, 'abi')
  writeFileSync(source, program())
  execFileSync('cc', ['-std=gnu11', '-o', executable, source])
  const lines = execFileSync(executable, { encoding: 'utf8' }).trim().split('\n')
  t.ok(lines.length > 200, `${lines.length} things are compared`)
  for (const line of lines) {
    const [name, ours, theirs] = line.split(' ')
    if (ours !== theirs) t.equal(ours, theirs, name)
  }
})
