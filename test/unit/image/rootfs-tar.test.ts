/** Archives of strangers: read as tar itself reads them, refused where they lie, never trusted. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync, linkSync } from 'node:fs'
import { closeSync, openSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { OperatingError } from '../../../src/base/errors.ts'
import { ByteReader } from '../../../src/image/rootfs/byte-reader.ts'
import { Budget, LINK_COUNT_MAX } from '../../../src/image/rootfs/limits.ts'
import { splitPath } from '../../../src/image/rootfs/raw-path.ts'
import { TarReader } from '../../../src/image/rootfs/tar-reader.ts'
import type { TarEntry } from '../../../src/image/rootfs/tar-reader.ts'
import { RootfsTree } from '../../../src/image/rootfs/tree.ts'
import type { Attributes, FileNode, TreeNode } from '../../../src/image/rootfs/tree.ts'
import { tarOf, tarPart, withChecksum } from '../../support/tar-writer.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-tar-'))
t.teardown(() => rmSync(folder, { recursive: true }))

interface ReadEntry extends TarEntry {
  content: Buffer
}

async function* pieces(bytes: Buffer, stepBytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += stepBytes) yield bytes.subarray(at, at + stepBytes)
}

async function readAll(bytes: Buffer, stepBytes = 65536): Promise<ReadEntry[]> {
  const reader = new TarReader(new ByteReader(pieces(bytes, stepBytes)))
  const entries: ReadEntry[] = []
  for (let entry = await reader.next(); entry !== null; entry = await reader.next()) {
    const content = Buffer.alloc(Math.min(entry.sizeBytes, 1 << 24))
    for await (const chunk of reader.body()) chunk.bytes.copy(content, chunk.offsetBytes)
    entries.push({ ...entry, content })
  }
  return entries
}

/** A tree with what archives find hard: long names, bytes that are no text, holes, links. */
function sampleFolder(): string {
  const path = join(folder, 'sample')
  mkdirSync(join(path, 'deep'.repeat(30), 'er'.repeat(60)), { recursive: true })
  writeFileSync(join(path, 'deep'.repeat(30), 'er'.repeat(60), 'x'.repeat(255)), 'far away')
  writeFileSync(Buffer.concat([Buffer.from(`${path}/`), Buffer.from([0xff, 0x0a, 0xe4])]), 'bytes')
  writeFileSync(join(path, 'name\nof two lines'), '')
  writeFileSync(join(path, 'straße'), 'utf8')
  symlinkSync('t'.repeat(300), join(path, 'link'))
  linkSync(join(path, 'straße'), join(path, 'second'))
  const fd = openSync(join(path, 'holes'), 'w')
  for (let at = 0; at < 12; at += 1) writeSync(fd, `data ${at}`, at * 1_000_000 + 4096)
  closeSync(fd)
  truncateSync(join(path, 'holes'), 14_000_000)
  return path
}

t.test('what GNU tar writes in each of its formats is read the same', async (t) => {
  const path = sampleFolder()
  const digests = new Set<string>()
  const formats = [
    ['--format=gnu'],
    ['--format=gnu', '--sparse'],
    ['--format=pax'],
    ...['0.0', '0.1', '1.0'].map((v) => ['--format=pax', '--sparse', `--sparse-version=${v}`]),
  ]
  for (const format of formats) {
    const options = [...format, '--sort=name', '--hard-dereference', '--mtime=@1700000000.5']
    const bytes = execFileSync('tar', [...options, '-cf', '-', '-C', path, '.'], {
      maxBuffer: 1 << 26,
    })
    const entries = await readAll(bytes)
    const hash = createHash('sha256')
    for (const entry of entries) {
      const { name, kind, linkName, sizeBytes, mtimeSeconds, mode, content } = entry
      hash.update(JSON.stringify([name, kind, linkName, sizeBytes, mtimeSeconds, mode]))
      hash.update(content)
    }
    digests.add(hash.digest('hex'))
    t.equal(entries.find(({ name }) => name === './holes')?.sizeBytes, 14_000_000, format.join())
    t.ok(
      entries.find(({ name }) => name === './\xff\n\xe4'),
      'bytes that are no text survive',
    )
    t.equal(entries.find(({ name }) => name === './link')?.linkName, 't'.repeat(300))
  }
  t.equal(digests.size, 1, 'all formats say the same')
})

t.test('an archive means the same wherever its bytes are split', async (t) => {
  const bytes = tarOf(
    { name: 'a', body: 'x'.repeat(700), pax: { 'SCHILY.xattr.user.k': '\x00\xff=\n' } },
    { name: 'd/', type: '5', mode: 0o1777, userId: 7 },
    { name: 'l', type: '2', linkName: 'a' },
  )
  const whole = await readAll(bytes)
  t.strictSame(whole[0].xattrs.get('user.k'), Buffer.from([0, 255, 61, 10]))
  for (const stepBytes of [1, 3, 511, 512, 513, 1000]) {
    t.strictSame(await readAll(bytes, stepBytes), whole, `${stepBytes}`)
  }
})

t.test('numbers in binary and owners beyond octal are read', async (t) => {
  const part = tarPart({ name: 'big', body: 'abc' })
  part.fill(0, 108, 124)
  part.fill(0, 124, 136)
  part[108] = 0x80
  part.writeUInt32BE(4_000_000_000, 112)
  part[124] = 0x80
  part[135] = 3
  const [entry] = await readAll(Buffer.concat([withChecksum(part), Buffer.alloc(1024)]))
  t.equal(entry.userId, 4_000_000_000)
  t.equal(entry.content.toString(), 'abc')
})

t.test('an archive that lies or is damaged is refused', async (t) => {
  const refuse = (bytes: Buffer, pattern: RegExp): Promise<unknown> =>
    t.rejects(readAll(bytes), { code: 'usage', message: pattern }, String(pattern))
  const good = tarOf({ name: 'a', body: 'b'.repeat(3000) })
  await refuse(good.subarray(0, 2000), /cut short/)
  await refuse(good.subarray(0, 100), /cut short/)
  await refuse(Buffer.alloc(512, 'x'), /no tar archive|bad number/)
  await refuse(tarOf({ name: 'a', body: 'b', sizeBytes: 8 ** 11 - 1 }), /cut short/)
  await refuse(tarOf({ name: 'a', pax: { size: '9007199254740993' } }), /bad size/)
  await refuse(tarOf({ name: 'a', pax: { size: '17592186044416' } }), /larger than ext4/)
  await refuse(tarOf({ name: 'a', type: 'M' }), /not known/)
  await refuse(tarOf({ name: 'x', type: 'x', body: '999 a=b\n' }), /extended header is damaged/)
  await refuse(tarOf({ name: 'x', type: 'x', body: '5 a=b' }), /extended header is damaged/)
  await refuse(tarOf({ name: 'x', type: 'L', sizeBytes: 2 << 20 }), /longer than/)
  const sparse = (map: string, body: string, realsize = '100'): Buffer =>
    tarOf({
      name: 'a',
      body,
      pax: { 'GNU.sparse.size': realsize, 'GNU.sparse.map': map, 'GNU.sparse.minor': '1' },
    })
  t.equal((await readAll(sparse('10,3,50,2', 'abcde')))[0].content.toString('latin1', 50, 52), 'de')
  await refuse(sparse('50,2,10,3', 'abcde'), /map of a sparse file is wrong/)
  await refuse(sparse('10,3,99,2', 'abcde'), /map of a sparse file is wrong/)
  await refuse(sparse('10,3', 'abcde'), /not as long as its map/)
  await refuse(sparse('10,3,50', 'abcde'), /damaged/)
  await refuse(sparse('10,-3', 'abcde'), /damaged/)
  const inData = { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '9' }
  await refuse(tarOf({ name: 'a', pax: inData, body: '99999999\n'.padEnd(512, '\0') }), /pieces/)
  await refuse(tarOf({ name: 'a', pax: inData, body: '2\n1\n'.padEnd(512, '\0') }), /damaged/)
})

t.test('no bytes make the reader fail in a way that is not foreseen', async () => {
  const good = Buffer.concat([
    tarPart({ name: 'a', body: 'x'.repeat(600), pax: { path: 'b', 'GNU.sparse.size': '4' } }),
    tarOf({ name: 'long', type: 'L', body: 'n'.repeat(200) }, { name: 's', type: 'S' }),
  ])
  const flips = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 8 })
  await fc.assert(
    fc.asyncProperty(flips, fc.nat(good.length), async (changes, lengthBytes) => {
      const bytes = Buffer.from(good.subarray(0, lengthBytes))
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
      for (let at = 0; at + 512 <= bytes.length; at += 512) {
        if (at % 1024 === 0) withChecksum(bytes.subarray(at, at + 512))
      }
      try {
        await readAll(bytes)
      } catch (error) {
        if (!(error instanceof OperatingError)) throw error
      }
    }),
    { numRuns: 500 },
  )
})

t.test('a name that leads out, or that no filesystem holds, is refused', async (t) => {
  for (const bad of ['/etc', '../x', 'a/../b', '..', 'a/..', '', 'a\0b', 'x'.repeat(256)]) {
    t.throws(() => splitPath(bad), { code: 'usage' }, JSON.stringify(bad))
  }
  t.throws(() => splitPath('d/'.repeat(600)), { code: 'usage' }, 'too deep')
  t.throws(() => splitPath('abcdefg/'.repeat(490)), { code: 'usage' }, 'too long')
  t.strictSame(splitPath('./a//b/./c/'), ['a', 'b', 'c'])
  t.strictSame(splitPath('./'), [])
  t.strictSame(splitPath('..a/...'), ['..a', '...'])
})

const attributes: Attributes = {
  mode: 0o644,
  userId: 0,
  groupId: 0,
  mtimeSeconds: 1,
  xattrs: new Map(),
}

class TreeRig {
  readonly dropped: (number | null)[] = []
  readonly tree = new RootfsTree(new Budget(Infinity), (file) => {
    this.dropped.push(file.contentNumber)
  })
  #nextNumber = 1

  file(path: string, layer: number): FileNode {
    const node: FileNode = {
      ...{ kind: 'file', attributes, contentNumber: this.#nextNumber },
      ...{ sizeBytes: 1, dataBytes: 1, linkCount: 0 },
    }
    this.#nextNumber += 1
    this.tree.put(path.split('/'), node, layer)
    return node
  }

  symlink(path: string, target: string, layer: number): void {
    this.tree.put(path.split('/'), { kind: 'symlink', attributes, target, linkCount: 0 }, layer)
  }

  directory(path: string, layer: number): void {
    this.tree.putDirectory(path.split('/'), attributes, layer)
  }

  whiteout(path: string, layer: number): void {
    this.tree.whiteout(path.split('/'), layer)
  }

  link(path: string, target: string, layer: number): void {
    this.tree.link(path.split('/'), target.split('/'), layer)
  }

  paths(node: TreeNode = this.tree.root, path = ''): string[] {
    if (node.kind !== 'directory') return [path]
    const below = [...node.entries].flatMap(([name, entry]) =>
      this.paths(entry.node, `${path}/${name}`),
    )
    return (below.length === 0 ? [`${path}/`] : below).sort()
  }
}

t.test('a whiteout hides lower layers and nothing of its own, in either order', async (t) => {
  for (const isWhiteoutFirst of [true, false]) {
    const rig = new TreeRig()
    rig.file('d/old', 1)
    rig.file('d/sub/old', 1)
    rig.file('gone', 1)
    if (isWhiteoutFirst) {
      rig.whiteout('d', 2)
      rig.whiteout('gone', 2)
    }
    rig.file('d/sub/new', 2)
    if (!isWhiteoutFirst) {
      rig.whiteout('d', 2)
      rig.whiteout('gone', 2)
    }
    rig.whiteout('never/was', 2)
    t.strictSame(rig.paths(), ['/d/sub/new'])
    t.strictSame(rig.dropped.sort(), [1, 2, 3], 'contents of what is hidden are let go')
  }
})

t.test('an opaque folder keeps only what its own layer puts there', async (t) => {
  for (const isFirst of [true, false]) {
    const rig = new TreeRig()
    rig.file('d/a', 1)
    rig.file('d/e/b', 1)
    rig.file('k', 1)
    if (isFirst) rig.tree.makeOpaque(['d'], 2)
    rig.file('d/e/c', 2)
    rig.directory('d', 2)
    if (!isFirst) rig.tree.makeOpaque(['d'], 2)
    t.strictSame(rig.paths(), ['/d/e/c', '/k'])
    rig.tree.makeOpaque([], 3)
    t.strictSame(rig.paths(), ['/'])
  }
})

t.test('a file takes the place of a folder, and the other way about', async (t) => {
  const rig = new TreeRig()
  rig.file('x/inside', 1)
  rig.file('y', 1)
  rig.symlink('z', '/etc', 1)
  rig.file('x', 2)
  rig.directory('y', 2)
  rig.file('y/inside', 2)
  rig.directory('z', 2)
  rig.file('z/passwd', 2)
  t.strictSame(rig.paths(), ['/x', '/y/inside', '/z/passwd'])
})

t.test('nothing goes through a symbolic link or a file', async (t) => {
  const rig = new TreeRig()
  rig.symlink('out', '/etc', 1)
  rig.file('file', 1)
  for (const layer of [1, 2]) {
    t.throws(() => rig.file('out/passwd', layer), { code: 'usage', message: /symbolic link/ })
    t.throws(() => rig.directory('out/d', layer), { code: 'usage' })
    t.throws(() => rig.file('file/below', layer), { code: 'usage', message: /no folder/ })
    t.throws(() => rig.link('h', 'out/passwd', layer), { code: 'usage' })
    t.throws(() => rig.link('h', 'nothing', layer), { code: 'usage' })
  }
  t.throws(() => rig.whiteout('out/passwd', 2), { code: 'usage' })
  t.throws(() => rig.tree.makeOpaque(['out'], 2), { code: 'usage' })
  rig.whiteout('file/was/a/folder', 2)
  rig.whiteout('out/was/a/folder', 1)
  t.strictSame(rig.paths(), ['/file', '/out'])
})

t.test('a hard link keeps its file when one of the names goes', async (t) => {
  const rig = new TreeRig()
  const node = rig.file('a/b', 1)
  rig.link('c', 'a/b', 2)
  rig.whiteout('a', 2)
  t.equal(rig.tree.tryFind(['c']), node)
  t.strictSame(rig.dropped, [])
  rig.link('c', 'c', 3)
  t.equal(node.linkCount, 1)
  rig.file('p/q', 3)
  // The folder that holds the file is replaced by the file itself.
  rig.link('p', 'p/q', 3)
  t.strictSame(rig.paths(), ['/c', '/p'])
  t.strictSame(rig.dropped, [])
  rig.file('c', 4)
  t.strictSame(rig.dropped, [1])
  t.throws(() => rig.link('d2', 'p/q', 4), { code: 'usage' })
  const full = rig.file('full', 4)
  full.linkCount = LINK_COUNT_MAX
  t.throws(() => rig.link('more', 'full', 4), { code: 'usage', message: /names/ })
})

t.test('a budget ends what has no end', async (t) => {
  const budget = new Budget(1000)
  budget.takeUnpacked(1000)
  t.throws(() => budget.takeUnpacked(1), { code: 'out-of-range' })
  t.throws(() => budget.takeMetadata(2 ** 30), { code: 'out-of-range' })
  t.throws(
    () => {
      for (;;) budget.takeEntry()
    },
    { code: 'out-of-range' },
  )
})
