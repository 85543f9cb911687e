/**
 * Images that QEMU's own tool makes, in and out again; and images that are made to do harm. After
 * each of the latter nothing may be left: no volume, no process, no folder, no descriptor.
 */
import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { PoolService } from '../../src/api/service.ts'
import type { ImageFormat, ImportRequest, WrittenFormat } from '../../src/api/shapes.ts'
import { VarveError } from '../../src/base/errors.ts'
import { MIB } from '../../src/base/units.ts'
import { initPool } from '../../src/daemon/embedded.ts'
import { openService } from '../../src/daemon/open-service.ts'
import { qcow2Image, vdiImage, vhdImage, vmdkImage } from '../support/image-headers.ts'
import { ServedPool } from '../support/varve-process.ts'

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'varve-images-'))
const poolPath = join(folder, 'pool')
const run = promisify(execFile)
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
t.setTimeout(600_000)

function path(name: string): string {
  return join(folder, name)
}

async function tool(name: string, ...args: string[]): Promise<string> {
  return (await run(name, args, { cwd: folder, timeout: 120_000 })).stdout
}

/** A raw file of `sizeBytes` with random bytes at `places`: [offset, length]. */
function rawFile(name: string, sizeBytes: number, places: [number, number][]): string {
  writeFileSync(path(name), '')
  truncateSync(path(name), sizeBytes)
  const fd = openSync(path(name), 'r+')
  for (const [offset, length] of places) writeSync(fd, randomBytes(length), 0, length, offset)
  closeSync(fd)
  return path(name)
}

const SOURCES: Record<string, string> = {
  empty: rawFile('empty.raw', 8 * MIB, []),
  small: rawFile('small.raw', 4 * MIB, [[0, 3 * MIB + 512]]),
  sparse: rawFile('sparse.raw', 200 * MIB, [
    [7 * MIB + 1024, 2 * MIB],
    [199 * MIB, 64 * 1024],
  ]),
  fragmented: rawFile(
    'fragmented.raw',
    24 * MIB,
    Array.from({ length: 300 }, (_, index) => [index * 81920 + 512 * (index % 9), 512 + index]),
  ),
}

type Recipe = [name: string, format: ImageFormat, ...convert: string[]]

const CONTAINERS: Recipe[] = [
  ...['512', '4k', '64k', '2M'].map((size): Recipe => {
    return [`clusters of ${size}`, 'qcow2', '-O', 'qcow2', '-o', `cluster_size=${size}`]
  }),
  ['subclusters', 'qcow2', '-O', 'qcow2', '-o', 'extended_l2=on,cluster_size=128k'],
  ['compat 0.10', 'qcow2', '-O', 'qcow2', '-o', 'compat=0.10'],
  ['lazy refcounts', 'qcow2', '-O', 'qcow2', '-o', 'lazy_refcounts=on'],
  ['zlib', 'qcow2', '-c', '-O', 'qcow2'],
  ['zstd', 'qcow2', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd'],
  ['monolithicSparse', 'vmdk', '-O', 'vmdk'],
  ['streamOptimized', 'vmdk', '-O', 'vmdk', '-o', 'subformat=streamOptimized'],
  ['dynamic', 'vhd', '-O', 'vpc', '-o', 'force_size=on'],
  ['fixed', 'vhd', '-O', 'vpc', '-o', 'subformat=fixed,force_size=on'],
  ['dynamic', 'vdi', '-O', 'vdi'],
  ['static', 'vdi', '-O', 'vdi', '-o', 'static=on'],
  ['dynamic', 'vhdx', '-O', 'vhdx'],
  ['fixed', 'vhdx', '-O', 'vhdx', '-o', 'subformat=fixed'],
]

const COMPRESSORS: [ImageFormat, string[]][] = [
  ['raw+gz', ['gzip', '-1', '-c']],
  ['raw+zst', ['zstd', '-q', '-c']],
  ['raw+xz', ['xz', '-0', '-c']],
]

async function compress(command: string[], source: string, target: string): Promise<void> {
  const [name, ...args] = command
  const options = { encoding: 'buffer', maxBuffer: 256 * MIB } as const
  writeFileSync(target, (await run(name, [...args, source], options)).stdout)
}

function importOf(name: string, image: string, more: Partial<ImportRequest> = {}): ImportRequest {
  return { name, path: image, sizeBytes: null, labels: {}, ...more }
}

/** The bytes of a volume, against those of the raw file it was made from. */
async function sameBytes(service: PoolService, name: string, source: string): Promise<boolean> {
  const out = path(`out-${name}.raw`)
  await service.exportImage({ name, path: out, overwrite: true }, {})
  // `cmp` of the shorter: QEMU rounds sizes up to its own units.
  const isSame = await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', out, source).then(
    () => true,
    () => false,
  )
  rmSync(out)
  return isSame
}

/** Children of ours that run, folders for their sockets, and files that are open. */
function leftovers(): string[] {
  const folders = readdirSync(tmpdir()).filter((name) =>
    name.startsWith(`varve-image-${process.pid}-`),
  )
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'latin1')
  const open = readdirSync('/proc/self/fd').length
  return [...folders, children.trim(), `${open} descriptors`]
}

let service: PoolService

t.before(async () => {
  await initPool(poolPath, 'auto', {})
  service = await openService(poolPath, 'auto')
})
t.after(() => service.close())

t.test('every format comes in as it is, its holes for nothing', async (t) => {
  for (const [kind, source] of Object.entries(SOURCES)) {
    for (const [index, [what, format, ...convert]] of CONTAINERS.entries()) {
      const name = `${format}-${index}-${kind}`
      const image = path(`${name}.${format}`)
      await tool('qemu-img', 'convert', '-f', 'raw', ...convert, source, image)
      const { dataBytes, imageBytes } = await service.importImage(importOf(name, image), {})
      t.equal(imageBytes, statSync(source).size, `${format}, ${what}, ${kind}`)
      t.ok(await sameBytes(service, name, source), 'the bytes are the same')
      const isSparse = !/fixed|static/.test(what)
      if (kind === 'sparse' && isSparse) t.ok(dataBytes < 80 * MIB, `${dataBytes} read`)
      await service.remove({ names: [name], recursive: false, dryRun: false })
      rmSync(image)
    }
    for (const [format, command] of COMPRESSORS) {
      const image = path(`${kind}.raw.${format.slice(4)}`)
      await compress(command, source, image)
      await service.importImage(importOf('c', image), {})
      t.ok(await sameBytes(service, 'c', source), `${format}, ${kind}`)
      await service.remove({ names: ['c'], recursive: false, dryRun: false })
      rmSync(image)
    }
  }
})

t.test('of an image with internal snapshots the active disk is taken', async (t) => {
  const image = path('snapshots.qcow2')
  await tool('qemu-img', 'convert', '-O', 'qcow2', SOURCES.small, image)
  await tool('qemu-img', 'snapshot', '-c', 'one', image)
  await tool('qemu-io', '-c', 'write -P 9 1M 100k', image)
  await tool('qemu-img', 'convert', '-O', 'raw', image, path('active.raw'))
  await service.importImage(importOf('active', image), {})
  t.ok(await sameBytes(service, 'active', path('active.raw')))
})

t.test('every format goes out as it is', async (t) => {
  await service.importImage(importOf('out', SOURCES.sparse), {})
  const formats: [WrittenFormat, boolean][] = [
    ['qcow2', false],
    ['qcow2', true],
    ['vmdk', false],
    ['vmdk', true],
    ['vhd', false],
    ['vhdx', false],
    ['vdi', false],
  ]
  for (const [format, isCompressed] of formats) {
    const image = path(`out.${format}`)
    const request = { name: 'out', path: image, overwrite: true, format, isCompressed }
    const steps: number[] = []
    const progress = ({ doneBytes }: { doneBytes: number }): void => void steps.push(doneBytes)
    const { dataBytes } = await service.exportImage(request, { progress })
    t.equal(dataBytes, statSync(image).size)
    t.ok(dataBytes < 48 * MIB, `${format} of ${dataBytes} bytes: holes are not written`)
    t.equal(steps.at(-1), 200 * MIB, 'progress comes to its end')
    const driver = format === 'vhd' ? 'vpc' : format
    await t.resolves(tool('qemu-img', 'compare', '-f', driver, image, SOURCES.sparse), format)
  }
  const again = { name: 'out', path: path('out.qcow2'), overwrite: false, format: 'qcow2' } as const
  await t.rejects(service.exportImage(again, {}), { code: 'exists' })
  const wrong = { ...again, format: 'vdi', isCompressed: true, overwrite: true } as const
  await t.rejects(service.exportImage(wrong, {}), { code: 'usage' })
  const nowhere = { ...again, path: path('no/such/place.qcow2') }
  await t.rejects(service.exportImage(nowhere, {}), { code: 'not-found' })
  t.strictSame(
    readdirSync(folder).filter((name) => name.endsWith('.partial')),
    [],
  )
})

t.test(
  'a backing chain is followed within the folder that was allowed, and no further',
  async (t) => {
    mkdirSync(path('chain'))
    mkdirSync(path('elsewhere'))
    const base = path('chain/base.raw')
    copyFileSync(SOURCES.small, base)
    const inChain = { cwd: path('chain'), timeout: 60_000 }
    const create = async (name: string, backing: string, format: string): Promise<void> => {
      const words = ['create', '-q', '-f', 'qcow2', '-u', '-b', backing, '-F', format, name, '4M']
      await run('qemu-img', words, inChain)
    }
    await create('middle.qcow2', 'base.raw', 'raw')
    await run('qemu-io', ['-c', 'write -P 5 64k 64k', 'middle.qcow2'], inChain)
    await create('top.qcow2', 'middle.qcow2', 'qcow2')
    await run('qemu-io', ['-c', 'write -P 6 1M 64k', 'top.qcow2'], inChain)
    const top = path('chain/top.qcow2')
    await tool('qemu-img', 'convert', '-O', 'raw', top, path('chain.raw'))
    await t.rejects(service.importImage(importOf('top', top), {}), {
      code: 'unsupported',
      message: /backing file, middle\.qcow2/,
      hint: /--allow-backing/,
    })
    const allowed = { allowBacking: path('chain') }
    await service.importImage(importOf('top', top, allowed), {})
    t.ok(await sameBytes(service, 'top', path('chain.raw')))
    const flat = path('chain/flat.vmdk')
    const words = ['convert', '-O', 'vmdk', '-o', 'subformat=twoGbMaxExtentFlat']
    await tool('qemu-img', ...words, SOURCES.sparse, flat)
    await t.rejects(service.importImage(importOf('flat', flat), {}), { code: 'unsupported' })
    await service.importImage(importOf('flat', flat, allowed), {})
    t.ok(await sameBytes(service, 'flat', SOURCES.sparse), 'extents in files of their own')

    await create('outside.qcow2', SOURCES.small, 'raw')
    await create('dots.qcow2', '../small.raw', 'raw')
    symlinkSync(SOURCES.small, path('chain/link.raw'))
    await create('link.qcow2', 'link.raw', 'raw')
    await create('protocol.qcow2', 'nbd://127.0.0.1:1/x', 'raw')
    await create('json.qcow2', 'json:{"driver":"file","filename":"/etc/passwd"}', 'raw')
    await create('probed.qcow2', 'base.raw', 'raw')
    await create('loop-a.qcow2', 'loop-b.qcow2', 'qcow2')
    await create('loop-b.qcow2', 'loop-a.qcow2', 'qcow2')
    for (let depth = 0; depth < 70; depth += 1) {
      await create(
        `deep-${depth}.qcow2`,
        depth === 0 ? 'base.raw' : `deep-${depth - 1}.qcow2`,
        depth === 0 ? 'raw' : 'qcow2',
      )
    }
    const before = leftovers()
    const refused: [string, RegExp][] = [
      ['outside', /outside/],
      ['dots', /outside/],
      ['link', /outside/],
      ['protocol', /no file/],
      ['json', /no file/],
      ['loop-a', /loop/],
      ['deep-69', /rest on one another/],
    ]
    for (const [name, message] of refused) {
      const request = importOf('refused', path(`chain/${name}.qcow2`), allowed)
      await t.rejects(service.importImage(request, {}), { message }, name)
    }
    t.strictSame(leftovers(), before)
    await t.rejects(service.volume('refused'), { code: 'not-found' })
  },
)

type Case = [what: string, image: string, code: string, more?: Partial<ImportRequest>]

function write(name: string, content: Buffer | string): string {
  writeFileSync(path(name), content)
  return path(name)
}

function liars(): Case[] {
  const secret = write('secret', 'key of a stranger')
  const extent = (file: string): string =>
    `# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\nRW 1 FLAT "${file}" 0\n`
  const half = gzipSync(randomBytes(99999)).subarray(0, 5000)
  return [
    ['a backing file', write('b.qcow2', qcow2Image({ backing: secret })), 'unsupported'],
    ['a data file', write('d.qcow2', qcow2Image({ dataFile: secret })), 'unsupported'],
    ['a small L1', write('h.qcow2', qcow2Image({ sizeBytes: 2n ** 62n })), 'image-corrupt'],
    ['encryption', write('e.qcow2', qcow2Image({ encryption: 2 })), 'unsupported'],
    ['a VDI on another', write('v.vdi', vdiImage(4)), 'unsupported'],
    ['a VHD on another', write('v.vhd', vhdImage(4)), 'unsupported'],
    ['a VMDK on another', write('p.vmdk', vmdkImage('parentCID=1\n')), 'unsupported'],
    ['a file of the host', write('x.vmdk', extent(secret)), 'unsupported'],
    ['a device', write('y.vmdk', extent('/dev/sda')), 'unsupported'],
    ['not what it says', write('n.img', 'x'), 'image-corrupt', { format: 'qcow2' }],
    ['a name that lies', write('n.qcow2', 'x'), 'usage'],
    ['bytes that lie', write('n.raw', qcow2Image()), 'usage'],
    ['a broken gzip', write('g.gz', half), 'image-corrupt'],
    ['no gzip', write('n.gz', 'x'), 'image-corrupt', { format: 'raw+gz' }],
    ['no zstd', write('n.zst', 'x'), 'image-corrupt', { format: 'raw+zst' }],
    ['no xz', write('n.xz', 'x'), 'image-corrupt', { format: 'raw+xz' }],
    ['a folder', folder, 'usage'],
    ['nothing', path('nothing'), 'not-found'],
  ]
}

async function cutOff(): Promise<Case[]> {
  const cases: Case[] = []
  for (const [format, driver, ...options] of [
    ['qcow2', 'qcow2'],
    ['vmdk', 'vmdk'],
    ['vmdk', 'vmdk', '-o', 'subformat=streamOptimized'],
    ['vhd', 'vpc'],
    ['vhdx', 'vhdx'],
    ['vdi', 'vdi'],
  ] as const) {
    for (const fraction of [0.1, 0.5, 0.9]) {
      const image = path(`cut-${options.length}-${fraction}.${format}`)
      await tool('qemu-img', 'convert', '-O', driver, ...options, SOURCES.small, image)
      truncateSync(image, Math.floor(statSync(image).size * fraction))
      cases.push([`${format} cut at ${fraction}`, image, 'image-corrupt'])
    }
  }
  for (const [format, command] of COMPRESSORS) {
    const image = path(`cut.${format.slice(4)}`)
    await compress(command, SOURCES.small, image)
    truncateSync(image, Math.floor(statSync(image).size * 0.7))
    cases.push([`${format}, cut`, image, 'image-corrupt'])
  }
  return cases
}

async function beyondLimits(): Promise<Case[]> {
  const zeros = write('bomb.gz', gzipSync(Buffer.alloc(64 * MIB)))
  const create = ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', 'huge.qcow2', '1P']
  await tool('qemu-img', ...create)
  await tool('qemu-img', 'convert', '-O', 'vdi', SOURCES.small, 'whole.vdi')
  const whole = path('whole.vdi')
  return [
    ['a bomb', zeros, 'out-of-range', { sizeBytesMax: 16 * MIB }],
    ['a petabyte', path('huge.qcow2'), 'out-of-range'],
    ['more than allowed', whole, 'out-of-range', { sizeBytesMax: MIB }],
    ['a taken name', whole, 'exists', { name: 'out' }],
    ['no time', whole, 'io', { timeoutMs: 1 }],
  ]
}

async function physicalBytes(): Promise<number> {
  await service.reclaim({})
  return (await service.info()).physicalBytes
}

async function namesOf(): Promise<string[]> {
  return (await service.volumes()).map(({ name }) => name)
}

t.test('what is hostile or broken is refused, and leaves nothing', async (t) => {
  const cases = [...liars(), ...(await cutOff()), ...(await beyondLimits())]
  const names = await namesOf()
  const physicalBefore = await physicalBytes()
  const before = leftovers()
  for (const [what, image, code, more] of cases) {
    const startMs = performance.now()
    const failure = await service.importImage(importOf('victim', image, more), {}).then(
      () => null,
      (error: unknown) => error,
    )
    t.ok(failure instanceof VarveError, `${what}: ${String(failure)}`)
    t.match(failure, { code }, what)
    t.ok(performance.now() - startMs < 10_000, 'soon')
  }
  t.strictSame(leftovers(), before)
  t.strictSame(await namesOf(), names)
  t.ok((await physicalBytes()) < physicalBefore + MIB, 'nor any of their blocks')
  // A guest that writes a header of its own into its raw disk gets its bytes back, no more.
  const raw = path('n.raw')
  await service.importImage(importOf('guest', raw, { format: 'raw' }), {})
  t.ok(await sameBytes(service, 'guest', raw))
})

t.test('an interrupt leaves nothing, with a daemon and without', async (t) => {
  await service.close()
  const random = rawFile('random.raw', 512 * MIB, [[0, 256 * MIB]])
  const image = path('random.qcow2')
  await tool('qemu-img', 'convert', '-O', 'qcow2', random, image)
  rmSync(random)
  const ids: number[] = []
  const varve = async (words: string[], isStopped: boolean): Promise<number | null> => {
    const args = [MAIN, '--pool', poolPath, ...words, '--progress', 'json']
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    ids.push(child.pid ?? 0)
    if (isStopped) child.stderr.once('data', () => child.kill('SIGINT'))
    else child.stderr.resume()
    return new Promise((resolve) => child.on('exit', resolve))
  }
  for (const mode of ['alone', 'served']) {
    const daemon = mode === 'served' ? await ServedPool.start(poolPath) : null
    t.equal(await varve(['import', image, 'half'], true), 130, mode)
    const target = path(`half-${mode}.qcow2`)
    t.equal(await varve(['import', image, `whole-${mode}`], false), 0)
    const words = ['export', '--format', 'qcow2', '--compress', `whole-${mode}`, target]
    t.equal(await varve(words, true), 130)
    if (daemon !== null) ids.push(daemon.pid)
    if (daemon !== null) t.equal(await daemon.stop(), 0)
  }
  service = await openService(poolPath, 'auto')
  await t.rejects(service.volume('half'), { code: 'not-found' })
  const strays = readdirSync(folder).filter((name) => /half|partial/.test(name))
  t.strictSame(strays, [], 'no image, whole or half')
  const marks = ids.map((id) => `varve-image-${id}-`)
  const stale = readdirSync(tmpdir()).filter((name) => marks.some((mark) => name.startsWith(mark)))
  t.strictSame(stale, [], 'no socket')
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const running = processes.filter((id) => isQemuOf(id, [...marks, folder]))
  t.strictSame(running, [], 'no process')
})

function isQemuOf(processId: string, marks: string[]): boolean {
  try {
    const words = readFileSync(`/proc/${processId}/cmdline`, 'latin1')
    return /qemu-(nbd|img)/.test(words) && marks.some((mark) => words.includes(mark))
  } catch {
    return false
  }
}
