/** Filesystems made from folders, archives and OCI images: whole, the same again, or not at all. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createReadStream } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { withRootfsImage } from '../../../src/image/rootfs/build-rootfs.ts'
import type { RootfsSource } from '../../../src/image/rootfs/build-rootfs.ts'
import { uuidOf } from '../../../src/image/rootfs/make-ext4.ts'
import { OciWriter } from '../../support/oci-writer.ts'
import { tarOf } from '../../support/tar-writer.ts'
import type { TarPart } from '../../support/tar-writer.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-rootfs-test-'))
// Work folders are made here, so that what is left in it can be told.
const workParent = join(folder, 'work')
mkdirSync(workParent)
process.env.TMPDIR = workParent
t.setTimeout(300_000)
t.teardown(() => rmSync(folder, { recursive: true }))

const environment = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }

function tool(name: string, ...args: string[]): string {
  const options = { env: environment, maxBuffer: 1 << 26, stdio: 'pipe' as const }
  return execFileSync(name, args, options).toString()
}

function source(path: string, more: Partial<RootfsSource> = {}): RootfsSource {
  return {
    ...{ path, input: null, sizeBytes: null, platform: 'linux/amd64', tag: null },
    ...{ unpackedBytesMax: null, timeoutMs: null, ...more },
  }
}

interface Made {
  image: string
  digest: string
  warnings: string[]
}

let imageCount = 0

/** Builds, has `e2fsck` judge it, and keeps the image. */
async function make(path: string, more: Partial<RootfsSource> = {}): Promise<Made> {
  imageCount += 1
  const image = join(folder, `image-${imageCount}`)
  const warnings = await withRootfsImage(source(path, more), {}, (made, warned) => {
    tool('cp', '--sparse=always', made, image)
    return Promise.resolve(warned)
  })
  tool('e2fsck', '-fn', image)
  t.strictSame(readdirSync(workParent), [], 'no work folder is left')
  return { image, digest: createHash('sha256').update(readFileSync(image)).digest('hex'), warnings }
}

async function refuse(
  path: string,
  expected: { code: string; message: RegExp },
  more: Partial<RootfsSource> = {},
): Promise<void> {
  const work = withRootfsImage(source(path, more), {}, () => Promise.resolve('used'))
  await t.rejects(work, expected, String(expected.message))
  t.strictSame(readdirSync(workParent), [], 'no work folder is left')
}

function ask(image: string, request: string): string {
  return tool('debugfs', '-R', request, image)
}

function content(image: string, path: string): string {
  return ask(image, `cat ${path}`)
}

/** Names in a folder, without the filesystem's own. */
function names(image: string, path: string): string[] {
  return ask(image, `ls -p ${path}`)
    .split('\n')
    .map((line) => line.split('/')[5])
    .filter((name) => name !== undefined && !['.', '..', 'lost+found', ''].includes(name))
    .sort()
}

let fileCount = 0

function file(bytes: Buffer | string): string {
  fileCount += 1
  const path = join(folder, `file-${fileCount}`)
  writeFileSync(path, bytes)
  return path
}

const PARTS: TarPart[] = [
  { name: './', type: '5', mode: 0o750, userId: 3, mtimeSeconds: 1_600_000_000 },
  { name: 'etc/', type: '5', mode: 0o755, mtimeSeconds: 1_500_000_000 },
  { name: 'etc/passwd', body: 'root', mode: 0o4640, userId: 70000, groupId: 5 },
  {
    name: 'etc/ping',
    body: 'cap',
    pax: { 'SCHILY.xattr.security.capability': '\x01\0\0\x02\0\x20' + '\0'.repeat(14) },
  },
  { name: 'etc/second', type: '1', linkName: 'etc/passwd' },
  { name: 'etc/soft', type: '2', linkName: '../../../outside', mode: 0o777 },
  { name: 'dev/null', type: '3', major: 1, minor: 3, mode: 0o666, groupId: 9 },
  { name: 'dev/vda', type: '4', major: 254, minor: 300, mode: 0o660 },
  { name: 'dev/pipe', type: '6', mode: 0o600, mtimeSeconds: 1_550_000_000 },
  { name: 'implied/by/this', body: '' },
  { name: 'later', body: 'x', pax: { mtime: '4000000000.25' } },
]

t.test(
  'an archive becomes a filesystem with owners, modes, times, links and devices',
  async (t) => {
    const { image, warnings } = await make(file(tarOf(...PARTS)))
    t.strictSame(warnings, [])
    const passwd = ask(image, 'stat etc/passwd')
    t.match(passwd, /Mode: {2}04640/)
    t.match(passwd, /User: 70000 +Group: +5/)
    t.match(passwd, /Links: 2/)
    t.match(passwd, /mtime: 0x6553f100/)
    t.equal(content(image, 'etc/second'), 'root')
    t.match(ask(image, 'ea_list etc/ping'), /security.capability \(20\) = 01 00 00 02 00 20/)
    t.match(ask(image, 'stat etc/soft'), /Fast link dest: "..\/..\/..\/outside"/)
    t.match(ask(image, 'stat dev/null'), /character special[^]*Device major\/minor number: 01:03/)
    t.match(ask(image, 'stat dev/vda'), /block special[^]*Device major\/minor number: 254:300/)
    t.match(ask(image, 'stat dev/pipe'), /FIFO[^]*mtime: 0x5c631f80/)
    t.match(ask(image, 'stat later'), /mtime: 0xee6b2800:00000001/)
    t.match(ask(image, 'stat /'), /Mode: {2}0750[^]*User: +3[^]*mtime: 0x5f5e1000/)
    t.match(ask(image, 'stat implied'), /Mode: {2}0755/)
    t.strictSame(names(image, '/'), ['dev', 'etc', 'implied', 'later'])
  },
)

t.test('the same tree is the same bytes, however it is packed; another is another', async (t) => {
  const tar = tarOf(...PARTS)
  const plain = file(tar)
  const { digest } = await make(plain)
  // A host clock that has moved on must not show.
  await new Promise((resolve) => setTimeout(resolve, 1100))
  t.equal((await make(file(gzipSync(tar)))).digest, digest, 'gzip')
  for (const program of ['zstd', 'xz']) {
    execFileSync(program, ['-q', '-k', '-f', plain])
    const path = `${plain}.${program === 'zstd' ? 'zst' : 'xz'}`
    t.equal((await make(path)).digest, digest, program)
  }
  const streamed = { path: null, input: createReadStream(plain) as AsyncIterable<Uint8Array> }
  t.equal((await make('', streamed)).digest, digest, 'a stream')
  t.not((await make(file(tarOf(...PARTS, { name: 'more' })))).digest, digest)
  t.equal(uuidOf(Buffer.alloc(16, 0xff)), 'ffffffff-ffff-8fff-bfff-ffffffffffff')
})

t.test('a folder becomes a filesystem, and again the same', async (t) => {
  const path = join(folder, 'tree')
  mkdirSync(join(path, 'many'), { recursive: true })
  for (let index = 0; index < 3000; index += 1) writeFileSync(join(path, 'many', `${index}`), 'x')
  writeFileSync(join(path, 'a'), 'a')
  linkSync(join(path, 'a'), join(path, 'b'))
  symlinkSync('/nowhere', join(path, 'c'))
  writeFileSync(join(path, 'x'.repeat(255)), 'long')
  writeFileSync(join(path, 'two\nlines'), 'odd')
  writeFileSync(join(path, 'holes'), 'begin')
  truncateSync(join(path, 'holes'), 2 ** 32)
  utimesSync(join(path, 'a'), 1_000_000_000, 1_000_000_000)
  chmodSync(path, 0o711)
  const first = await make(path)
  await new Promise((resolve) => setTimeout(resolve, 1100))
  t.equal((await make(path)).digest, first.digest, 'the same bytes')
  const { image } = first
  t.ok(statSync(image).size < 512 << 20, 'holes are not counted for the size')
  t.equal(names(image, 'many').length, 3000)
  t.match(ask(image, 'stat a'), /Links: 2[^]*mtime: 0x3b9aca00/)
  t.match(ask(image, 'stat holes'), /Size: 4294967296/)
  t.match(ask(image, 'stat /'), /Mode: {2}0711/)
  t.match(ask(image, 'stat c'), /Fast link dest: "\/nowhere"/)
  t.equal(content(image, 'x'.repeat(255)), 'long')
})

const LOWER: TarPart[] = [
  { name: 'keep', body: '1' },
  { name: 'gone', body: '1' },
  { name: 'opaque/old', body: '1' },
  { name: 'opaque/sub/old', body: '1' },
  { name: 'swap-a', body: 'file' },
  { name: 'swap-b/', type: '5' },
  { name: 'swap-b/in', body: '1' },
  { name: 'linked', body: 'shared' },
]
const MIDDLE: TarPart[] = [
  { name: '.wh.gone' },
  { name: 'opaque/new', body: '2' },
  { name: 'opaque/.wh..wh..opq' },
  { name: 'swap-a/', type: '5' },
  { name: 'swap-a/in', body: '2' },
  { name: 'swap-b', body: 'file' },
  { name: 'hard', type: '1', linkName: 'linked' },
]
const UPPER: TarPart[] = [
  { name: '.wh.linked' },
  { name: '.wh.never' },
  { name: 'keep', body: '3' },
  { name: '.wh..wh.plnk', body: 'aufs' },
]
const LAYERS = [LOWER, MIDDLE, UPPER].map((parts) => tarOf(...parts))
let layoutCount = 0

function layout(): OciWriter {
  layoutCount += 1
  return new OciWriter(join(folder, `oci-${layoutCount}`))
}

t.test('layers of an OCI image lie on one another, whiteouts and all', async (t) => {
  const oci = layout()
  const path = oci.finish(oci.image(LAYERS))
  const { image, digest } = await make(path)
  t.strictSame(names(image, '/'), ['hard', 'keep', 'opaque', 'swap-a', 'swap-b'])
  t.strictSame(names(image, 'opaque'), ['new'])
  t.strictSame(names(image, 'swap-a'), ['in'])
  t.equal(content(image, 'swap-b'), 'file')
  t.equal(content(image, 'hard'), 'shared')
  t.equal(content(image, 'keep'), '3')
  t.match(ask(image, 'stat hard'), /Links: 1/)
  const archive = join(folder, 'oci.tar')
  execFileSync('tar', ['cf', archive, '-C', path, '.'])
  t.equal((await make(archive)).digest, digest, 'an archive of the layout is the same')
  const plain = await make(file(tarOf({ name: '.wh.a', body: 'x' })))
  t.strictSame(names(plain.image, '/'), ['.wh.a'], 'in a plain archive it is only a name')
})

t.test('an image is chosen by platform and tag, or not at all', async (t) => {
  const oci = layout()
  const of = (word: string): ReturnType<OciWriter['image']> =>
    oci.image([tarOf({ name: word, body: word })])
  const arm = { ...of('arm'), platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } }
  const amd = { ...of('amd'), platform: { os: 'linux', architecture: 'amd64' } }
  const proof = { ...of('proof'), platform: { os: 'unknown', architecture: 'unknown' } }
  const tag = (name: string): { annotations: Record<string, string> } => ({
    annotations: { 'org.opencontainers.image.ref.name': name },
  })
  const other = { ...of('old'), ...tag('old') }
  oci.finish({ ...oci.index(oci.index(arm, amd), proof), ...tag('new') }, other)
  const chosen = async (more: Partial<RootfsSource>): Promise<string[]> =>
    names((await make(oci.path, more)).image, '/')
  t.strictSame(await chosen({ tag: 'new' }), ['amd'])
  t.strictSame(await chosen({ tag: 'new', platform: 'linux/arm64' }), ['arm'])
  t.strictSame(await chosen({ platform: 'linux/arm64/v8' }), ['arm'])
  t.strictSame(await chosen({ tag: 'old', platform: null }), ['old'])
  await refuse(
    oci.path,
    { code: 'not-found', message: /no image for linux\/s390x/ },
    {
      platform: 'linux/s390x',
    },
  )
  t.strictSame(await chosen({ tag: 'old' }), ['old'], 'by its configuration')
  await refuse(oci.path, { code: 'not-found', message: /tag none/ }, { tag: 'none' })
  let nested = oci.index(amd)
  for (let depth = 0; depth < 6; depth += 1) nested = oci.index(nested)
  oci.finish(nested)
  await refuse(oci.path, { code: 'usage', message: /too deep/ })
  oci.finish(of('one'), of('two'))
  await refuse(oci.path, { code: 'usage', message: /2 images/ }, { platform: null })
})

t.test('an OCI image that is not what it says is refused', async () => {
  const oci = layout()
  const manifest = oci.image([tarOf({ name: 'a', body: 'good' })])
  oci.finish({ ...manifest, size: manifest.size + 1 })
  await refuse(oci.path, { code: 'usage', message: /bytes it should have/ }, { platform: null })
  oci.finish(manifest)
  const text = readFileSync(oci.blobPath(manifest.digest), 'utf8')
  const layer = /"layers":\[\{[^}]*sha256:([0-9a-f]+)/.exec(text)?.[1] ?? ''
  const bytes = readFileSync(oci.blobPath(layer))
  bytes[4] ^= 1
  writeFileSync(oci.blobPath(layer), bytes)
  await refuse(oci.path, { code: 'usage', message: /another digest/ }, { platform: null })
  rmSync(oci.blobPath(layer))
  symlinkSync('/etc/passwd', oci.blobPath(layer))
  await refuse(oci.path, { code: 'io', message: /cannot read blobs/ }, { platform: null })
  const change = async (
    changeLayer: Parameters<OciWriter['image']>[1],
    expected: { code: string; message: RegExp },
  ): Promise<void> => {
    oci.finish(oci.image([tarOf({ name: 'b', body: 'x' })], changeLayer))
    await refuse(oci.path, expected, { platform: null })
  }
  const other = oci.blob('layer.v1.tar+gzip', gzipSync(tarOf({ name: 'c' })))
  await change(() => other, { code: 'usage', message: /does not unpack to/ })
  await change((one) => ({ ...one, mediaType: `${one.mediaType}+encrypted` }), {
    code: 'unsupported',
    message: /encrypted/,
  })
  await change((one) => ({ ...one, digest: '../../../etc/passwd' }), {
    code: 'usage',
    message: /not what the format says/,
  })
  writeFileSync(join(oci.path, 'index.json'), 'root:x:0')
  await refuse(oci.path, { code: 'usage', message: /^index.json is not JSON$/ })
})

t.test('a hostile archive is refused, and touches nothing', async (t) => {
  const victim = join(folder, 'victim')
  writeFileSync(victim, 'untouched')
  const bad = async (message: RegExp, ...parts: TarPart[]): Promise<void> =>
    refuse(file(tarOf(...parts)), { code: 'usage', message })
  await bad(/leads out/, { name: '../victim', body: 'x' })
  await bad(/absolute/, { name: victim, body: 'x' })
  const link: TarPart = { name: 'out', type: '2', linkName: folder }
  await bad(/symbolic link, which is not followed/, link, { name: 'out/victim', body: 'x' })
  await bad(/symbolic link/, link, { name: 'out/d/', type: '5' })
  await bad(/not in the tree/, link, { name: 'h', type: '1', linkName: 'out/victim' })
  await bad(/absolute/, { name: 'h', type: '1', linkName: victim })
  await bad(/leads out/, { name: 'h', type: '1', linkName: '../victim' })
  await bad(/cut short/, { name: 'a', body: 'x', sizeBytes: 8 ** 11 - 1 })
  await bad(/owner/, { name: 'a', pax: { uid: '4294967295' } })
  await bad(/target/, { name: 'a', type: '2', linkName: '' })
  t.equal(readFileSync(victim, 'utf8'), 'untouched')
  const good = tarOf({ name: 'a', body: 'y'.repeat(100_000) })
  const damaged = { code: 'usage', message: /cut short|cannot be unpacked|end mark/ }
  await refuse(file(gzipSync(good).subarray(0, 100)), damaged)
  await refuse(file(good.subarray(0, 512 * 100)), damaged)
  await refuse(file(good.subarray(0, good.length - 1024)), damaged)
  await refuse(file('no archive at all'), { code: 'usage', message: /cut short|no tar/ })
  await refuse(join(folder, 'nothing'), { code: 'not-found', message: /cannot read/ })
  const bomb = gzipSync(tarOf({ name: 'zeros', body: Buffer.alloc(64 << 20) }))
  const limit = { unpackedBytesMax: 1 << 20 }
  await refuse(file(bomb), { code: 'out-of-range', message: /larger than 1.00 MiB/ }, limit)
  const { image } = await make(file(bomb))
  t.ok(statSync(image).blocks * 512 < 4 << 20, 'zeros take no space')
})

t.test('a size that was given is kept, and refused when it is too small', async (t) => {
  const noise = file(
    tarOf({ name: 'a', body: readFileSync('/proc/self/exe').subarray(0, 40 << 20) }),
  )
  t.equal(
    statSync((await make(noise, { sizeBytes: (100 << 20) + 512 })).image).size,
    (100 << 20) + 512,
  )
  await refuse(noise, { code: 'no-space', message: /does not fit/ }, { sizeBytes: 20 << 20 })
  await refuse(noise, { code: 'no-space', message: /does not fit/ }, { sizeBytes: 41 << 20 })
  await refuse(noise, { code: 'usage', message: /cannot be/ }, { sizeBytes: 1000 })
})

t.test('what is given up leaves nothing, and what a killed process left is removed', async (t) => {
  const path = file(tarOf({ name: 'a', body: Buffer.alloc(200 << 20, 'x') }))
  for (const afterMs of [0, 50, 300]) {
    const controller = new AbortController()
    setTimeout(() => controller.abort(), afterMs)
    const work = withRootfsImage(source(path), { signal: controller.signal }, async () => {
      t.fail('it is not used')
    })
    await t.rejects(work, { code: 'canceled' }, `${afterMs} ms`)
    t.strictSame(readdirSync(workParent), [])
  }
  await refuse(path, { code: 'io', message: /not made in 0.05 s/ }, { timeoutMs: 50 })
  const own = /\d+/.exec(execFileSync('readlink', ['/proc/self/ns/pid']).toString())?.[0] ?? ''
  const stale = [
    `varve-rootfs.${own}.999999999.5.0123456789ab`,
    `varve-rootfs.${own}.${process.pid}.5.0123456789ab`,
  ]
  const kept = [`varve-rootfs.1.999999999.5.0123456789ab`, 'varve-rootfs.mine']
  for (const name of [...stale, ...kept]) {
    mkdirSync(join(workParent, name, 'tree'), { recursive: true })
    copyFileSync('/proc/self/stat', join(workParent, name, 'tree', 'x'))
  }
  await withRootfsImage(source(file(tarOf({ name: 'a' }))), {}, () => Promise.resolve())
  t.strictSame(readdirSync(workParent).sort(), [...kept].sort())
  for (const name of kept) rmSync(join(workParent, name), { recursive: true })
  t.notOk(existsSync(join(workParent, stale[0])))
})
