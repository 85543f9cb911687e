/**
 * Root filesystems through the real program, judged by others: the kernel mounts what was made,
 * `e2fsck` looks through it, `umoci` builds images and unpacks them by itself.
 */
import { execFile, execFileSync, spawn } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import t from 'tap'
import type { Test } from 'tap'
import { varveCommand } from '../../tools/project.ts'
import { mustVarve, varve } from '../support/varve-process.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-rootfs-'))
const pool = join(folder, 'pool')
const workParent = join(folder, 'work')
mkdirSync(workParent)
process.env.TMPDIR = workParent
process.env.PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`
t.setTimeout(300_000)
t.teardown(() => rmSync(folder, { recursive: true }))

const isRoot = process.getuid?.() === 0
const noMount = isRoot && existsSync('/dev/loop-control') ? false : 'mounting needs root'
const runFile = promisify(execFile)

async function tool(name: string, ...args: string[]): Promise<string> {
  const options = { maxBuffer: 1 << 27, timeout: 120_000, killSignal: 'SIGKILL' as const }
  return (await runFile(name, args, options)).stdout
}

function has(program: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

const noUmoci = noMount !== false ? noMount : has('umoci') ? false : 'umoci is not installed'

/** Every name below `path` with all that stat tells, contents, and attributes. */
async function listing(path: string): Promise<string[]> {
  const format = '%P|%y|%m|%U|%G|%T@|%n|%l|\\0'
  const found = await tool('find', path, '-mindepth', '1', '-printf', format)
  const lines = found.split('\0').map((line) => {
    const fields = line.split('|')
    // ext4 counts a folder's folders, others need not; times are whole seconds.
    if (fields[1] === 'd') fields[6] = ''
    if (fields[5] !== undefined) fields[5] = fields[5].split('.')[0]
    return fields.join('|')
  })
  const sums = await tool('find', path, '-type', 'f', '-exec', 'md5sum', '-z', '{}', '+')
  const own = lines.filter((line) => line !== '' && !line.startsWith('lost+found|'))
  const hashes = sums.split('\0').map((line) => line.replace(`${path}/`, ''))
  const attributes = has('getfattr')
    ? await tool(
        'getfattr',
        '-R',
        '-h',
        '-d',
        '-m',
        '^(user|security|trusted)\\.',
        '--absolute-names',
        path,
      )
    : ''
  const blocks = attributes.split('\n\n').map((block) => block.replace(`# file: ${path}`, ''))
  return [...own, ...hashes, ...blocks].sort()
}

/** Mounts what a volume holds and lists it. */
async function mounted<T>(name: string, look: (path: string) => Promise<T>): Promise<T> {
  const image = join(folder, `${name}.raw`)
  const path = join(folder, `${name}.mnt`)
  await mustVarve(pool, 'export', name, image)
  await tool('e2fsck', '-fn', image)
  mkdirSync(path)
  await tool('mount', '-o', 'ro,loop', image, path)
  try {
    return await look(path)
  } finally {
    await tool('umount', path)
    rmSync(image)
  }
}

/** With everything that is easily lost. */
async function sampleTree(): Promise<string> {
  const path = join(folder, 'tree')
  mkdirSync(join(path, 'many'), { recursive: true })
  for (let index = 0; index < 10_000; index += 1) {
    writeFileSync(join(path, 'many', `file-${index}`), `content ${index}`)
  }
  writeFileSync(Buffer.from(`${path}/two\nlines`), 'a')
  writeFileSync(Buffer.concat([Buffer.from(`${path}/`), Buffer.from([0xff, 0x41])]), 'b')
  writeFileSync(join(path, 'ü'.repeat(127)), 'c')
  writeFileSync(join(path, 'x'.repeat(255)), 'd')
  const fd = openSync(join(path, 'holes'), 'w')
  writeSync(fd, 'end', 90_000_000)
  closeSync(fd)
  truncateSync(join(path, 'holes'), 100_000_000)
  const script = [
    'cd "$1"; mkdir -p bin empty; cp /bin/true bin/su; chown 1:2 bin/su; chmod 6755 bin/su',
    'ln bin/su hard; ln -s ../su bin/soft; chown -h 5:6 bin/soft; ln -s "$(printf %0200d 1)" long',
    'mknod null c 1 3; mknod disk b 8 17; mkfifo pipe; chmod 1777 empty; touch -d @86400 empty',
    'touch -h -d @1000000 long; chown 100000:4000000000 pipe',
    'if command -v setfattr; then',
    'setfattr -n user.a -v "x\\ny" many; setfattr -n trusted.t -v 1 hard',
    'setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 many/file-1; fi',
  ]
  await tool('sh', '-ec', script.join('\n'), 'sh', path)
  return path
}

t.test('a folder and an archive of it come out as they went in', { skip: noMount }, async (t) => {
  await mustVarve(pool, 'init')
  const path = await sampleTree()
  const expected = await listing(path)
  await mustVarve(pool, 'import', '--rootfs', path, 'folder')
  t.strictSame(await mounted('folder', listing), expected)
  const archive = join(folder, 'tree.tar')
  for (const format of ['pax', 'gnu']) {
    const attributes = format === 'pax' ? ['--xattrs', '--xattrs-include=*'] : []
    const options = [`--format=${format}`, '--numeric-owner', '--sparse', ...attributes]
    await tool('tar', ...options, '-cf', archive, '-C', path, '.')
    await mustVarve(pool, 'import', '--rootfs', archive, format)
    const found = await mounted(format, listing)
    // The GNU format has no attributes.
    const kept = (line: string): boolean =>
      format === 'pax' || (!line.includes('="') && !line.includes('=0s'))
    t.strictSame(found.filter(kept), expected.filter(kept), format)
  }
  t.strictSame(readdirSync(workParent), [], 'no work folder is left')
})

t.test('an OCI image comes out as umoci unpacks it', { skip: noUmoci }, async (t) => {
  const layout = join(folder, 'layout')
  const image = `${layout}:v1`
  const bundle = join(folder, 'bundle')
  await tool('umoci', 'init', '--layout', layout)
  await tool('umoci', 'new', '--image', image)
  await tool('umoci', 'unpack', '--image', image, bundle)
  const steps = [
    'mkdir -p etc a/b/c swap; echo 1 >etc/one; echo 2 >a/b/c/two; echo 3 >gone; ln gone hard; ' +
      'echo 4 >swap/x',
    'rm -r gone a/b; mkdir a/b; echo 5 >a/b/new; rm -r swap; echo 6 >swap; chown 7:8 etc/one; ' +
      'mknod n c 1 5',
    'rm swap; mkdir swap; echo 7 >swap/y; ln -s swap link; rm -r etc; cp /bin/true su; ' +
      'chmod 4755 su',
  ]
  for (const step of steps) {
    await tool('sh', '-ec', `cd "$1"; ${step}`, 'sh', join(bundle, 'rootfs'))
    await tool('umoci', 'repack', '--refresh-bundle', '--image', image, bundle)
  }
  const unpacked = join(folder, 'unpacked')
  await tool('umoci', 'unpack', '--image', image, unpacked)
  await mustVarve(pool, 'import', '--rootfs', layout, 'oci')
  t.strictSame(await mounted('oci', listing), await listing(join(unpacked, 'rootfs')))
})

/** What a pool and the folder of work folders hold once nothing runs any more. */
async function leftovers(t: Test): Promise<void> {
  const { stdout } = await varve(pool, 'list', '-q')
  t.notMatch(stdout, 'given-up')
  t.strictSame(readdirSync(workParent), [], 'no work folder is left')
}

/** Until an import has a work folder. */
async function begun(): Promise<void> {
  while (readdirSync(workParent).length === 0) await sleep(10)
}

t.test('an interrupted import leaves nothing, and says so', { skip: noMount }, async (t) => {
  const archive = join(folder, 'large.tar')
  const noise = join(folder, 'noise')
  await tool('dd', 'if=/dev/urandom', `of=${noise}`, 'bs=1M', 'count=120', 'status=none')
  await tool('tar', '-cf', archive, '-C', folder, 'noise')
  const [program, first] = varveCommand
  for (const afterMs of [0, 200, 600]) {
    const args = [...first, '--pool', pool, 'import', '--rootfs', archive, 'given-up']
    const child = spawn(program, args, { stdio: 'ignore' })
    const ended = once(child, 'exit')
    await begun()
    await sleep(afterMs)
    child.kill('SIGINT')
    const [code] = (await ended) as [number | null]
    t.equal(code, 130, `${afterMs} ms`)
    await leftovers(t)
  }
  const args = [...first, '--pool', pool, 'import', '--rootfs', archive, 'given-up']
  const child = spawn(program, args, { stdio: 'ignore' })
  const ended = once(child, 'exit')
  await begun()
  await sleep(300)
  child.kill('SIGKILL')
  await ended
  // The builder notices by itself that it is alone.
  for (let tries = 0; tries < 50 && readdirSync(workParent).length > 0; tries += 1) await sleep(100)
  await leftovers(t)
  const check = await varve(pool, 'check')
  t.equal(check.code, 0, check.stdout + check.stderr)
})

t.test('a second import of a tree is found to be the first', { skip: noMount }, async (t) => {
  await mustVarve(pool, 'import', '--rootfs', join(folder, 'tree.tar'), 'again')
  await mustVarve(pool, 'export', 'again', join(folder, 'again.raw'))
  await mustVarve(pool, 'export', 'gnu', join(folder, 'gnu.raw'))
  await t.resolves(tool('cmp', join(folder, 'again.raw'), join(folder, 'gnu.raw')))
})

t.test('what cannot be is said in a sentence, with a way out', { skip: noMount }, async (t) => {
  const path = join(folder, 'no.tar')
  writeFileSync(path, 'this is no archive of any kind'.repeat(100))
  const wrong = await varve(pool, 'import', '--rootfs', path, 'given-up')
  t.match(wrong.stderr, /no tar archive/)
  t.equal(wrong.code, 2)
  const missing = await varve(pool, 'import', '--rootfs', join(folder, 'nothing'), 'given-up')
  t.equal(missing.code, 3)
  const lonely = await varve(pool, 'import', '--platform', 'linux/arm64', path, 'given-up')
  t.match(lonely.stderr, /--rootfs/)
  const proc = await varve(pool, 'import', '--rootfs', '/', 'given-up')
  t.match(proc.stderr, /another filesystem is mounted|temporary files/)
  await leftovers(t)
})
