/** Readers of images, archives and layouts: everything in them is a stranger's. */
import { createHash } from 'node:crypto'
import { inspectImage } from '../../src/image/format/inspect.ts'
import type { ContainerFormat } from '../../src/image/image-format.ts'
import { detectFormat } from '../../src/image/image-format.ts'
import { applyTar } from '../../src/image/rootfs/apply-tar.ts'
import { ByteReader } from '../../src/image/rootfs/byte-reader.ts'
import type { ContentStore } from '../../src/image/rootfs/content-store.ts'
import { Budget } from '../../src/image/rootfs/limits.ts'
import { chooseImage } from '../../src/image/rootfs/oci-layout.ts'
import { TarReader } from '../../src/image/rootfs/tar-reader.ts'
import { RootfsTree } from '../../src/image/rootfs/tree.ts'
import {
  MemoryBytes,
  qcow2Image,
  vdiImage,
  vhdImage,
  vhdxImage,
  vmdkImage,
} from '../support/image-headers.ts'
import { tarOf, tarPart, withChecksum } from '../support/tar-writer.ts'
import type { FuzzTarget } from './target.ts'
import { judge } from './target.ts'

/** A header may not make us read more than this many times what there is. */
const READ_FACTOR_MAX = 40

/** `spread`: the seed is made of the parts of the image that are not zeros, at these offsets. */
function image(format: ContainerFormat, seeds: readonly Buffer[]): FuzzTarget {
  const sizeBytesMax = Math.max(...seeds.map((seed) => seed.length))
  return {
    name: `image-${format}`,
    sizeBytesMax,
    seeds: () => seeds.map((seed) => new Uint8Array(seed)),
    async run(input) {
      const bytes = new MemoryBytes(Buffer.from(input.buffer, input.byteOffset, input.length))
      await detectFormat(`a.${format}`, bytes).catch(() => null)
      bytes.readBytes = 0
      try {
        const facts = await inspectImage(format, bytes)
        for (const { name } of facts.references) judge(name.length <= 65536, 'a name, no story')
      } finally {
        const mostBytes = READ_FACTOR_MAX * (input.length + 65536)
        judge(bytes.readBytes <= mostBytes, 'a header is not read for ever')
      }
    },
  }
}

const DESCRIPTOR =
  '# Disk DescriptorFile\nRW 8 FLAT "a" 0\nRW 2 ZERO\nRW 4 SPARSE "s.vmdk"\nparentCID=ffffffff\n'

const PARTS = [
  tarPart({ name: 'dir/', type: '5' }),
  tarPart({
    name: 'dir/file',
    body: 'content',
    pax: { mtime: '12.5', 'SCHILY.xattr.user.a': 'b' },
  }),
  tarPart({ name: 'link', type: '2', linkName: 'dir/file' }),
  tarPart({ name: 'hard', type: '1', linkName: 'dir/file' }),
  tarPart({ name: 'dir/.wh.file' }),
  tarPart({ name: 'long', type: 'L', body: 'n'.repeat(120) }),
  tarPart({ name: 'tty', type: '3', major: 5, minor: 1 }),
  tarPart({
    name: 'sparse',
    body: `2\n0\n3\n100\n4\n${'\0'.repeat(498)}`.slice(0, 512) + 'abcdefg',
    pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '104' },
  }),
  tarPart({ name: 'old', body: 'xyz', pax: { 'GNU.sparse.map': '0,3', 'GNU.sparse.size': '9' } }),
]

/** Contents are counted and let go. */
const nowhere: Pick<ContentStore, 'add'> = {
  async add(chunks, sizeBytes) {
    let dataBytes = 0
    for await (const { offsetBytes, bytes } of chunks) {
      judge(offsetBytes + bytes.length <= sizeBytes, 'data lies in its file')
      dataBytes += bytes.length
    }
    return { contentNumber: 1, dataBytes }
  },
}

async function* piecesOf(input: Uint8Array, pieceBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < input.length; at += pieceBytes) {
    yield input.subarray(at, at + pieceBytes)
    await Promise.resolve()
  }
}

const tar: FuzzTarget = {
  name: 'tar',
  sizeBytesMax: 16384,
  seeds: () => [tarOf(), ...PARTS.map((part) => new Uint8Array(part)), Buffer.concat(PARTS)],
  repair(input) {
    const bytes = Buffer.from(input.buffer, input.byteOffset, input.length)
    for (let at = 0; at + 512 <= bytes.length; at += 512) {
      const isHeader = bytes.toString('latin1', at + 257, at + 262) === 'ustar'
      if (isHeader) withChecksum(bytes.subarray(at, at + 512))
    }
  },
  async run(input) {
    const reader = new TarReader(new ByteReader(piecesOf(input, 700)))
    const budget = new Budget(2 ** 30)
    const tree = new RootfsTree(budget, () => undefined)
    await applyTar(reader, { tree, store: nowhere as ContentStore, budget }, 1, true)
  },
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

const DIGEST = `sha256:${'a'.repeat(64)}`
const OCI = 'application/vnd.oci.image'

/** Three documents, one a line; digests that stand for the next document are made right. */
const oci: FuzzTarget = {
  name: 'oci-layout',
  sizeBytesMax: 4096,
  seeds: () => {
    const descriptor = (type: string): unknown => ({
      mediaType: `${OCI}.${type}`,
      digest: DIGEST,
      size: 1,
      platform: { os: 'linux', architecture: 'amd64' },
      annotations: { 'org.opencontainers.image.ref.name': 'latest' },
    })
    const index = { manifests: [descriptor('manifest.v1+json')] }
    const nested = { manifests: [descriptor('index.v1+json')] }
    const layer = { mediaType: `${OCI}.layer.v1.tar+gzip`, digest: DIGEST, size: 9 }
    const manifest = { config: descriptor('config.v1+json'), layers: [layer] }
    const config = { rootfs: { diff_ids: [DIGEST] } }
    return [
      [index, manifest, config],
      [nested, index, manifest],
    ].map((documents) => Buffer.from(documents.map((one) => JSON.stringify(one)).join('\n')))
  },
  async run(input) {
    const documents = Buffer.from(input).toString('latin1').split('\n').slice(0, 4)
    const blobs = new Map<string, Buffer>()
    let below = ''
    for (const document of documents.reverse()) {
      const [digest, size] = below.split(' ')
      const text =
        below === ''
          ? document
          : document.replace(DIGEST, digest).replace('"size":1', `"size":${size}`)
      const bytes = Buffer.from(text, 'latin1')
      blobs.set(`blobs/sha256/${sha256(bytes)}`, bytes)
      below = `sha256:${sha256(bytes)} ${bytes.length}`
      blobs.set('index.json', bytes)
    }
    const open = async (name: string): Promise<AsyncIterable<Buffer>> => {
      const bytes = blobs.get(name) ?? Buffer.alloc(0)
      return await Promise.resolve(piecesOf(bytes, 4096) as AsyncGenerator<Buffer>)
    }
    const layers = await chooseImage({ open }, { platform: 'linux/amd64', tag: null })
    for (const { blob } of layers) judge(/^sha\d+:[0-9a-f]+$/.test(blob.digest), 'a digest')
  },
}

export const TARGETS: readonly FuzzTarget[] = [
  image('qcow2', [qcow2Image({ backing: 'b', backingFormat: 'raw' }), qcow2Image({ version: 2 })]),
  image('vmdk', [vmdkImage(), Buffer.from(DESCRIPTOR)]),
  image('vhdx', [vhdxImage()]),
  image('vhd', [vhdImage(), vhdImage(4)]),
  image('vdi', [vdiImage()]),
  tar,
  oci,
]
