/** Headers of images, which may be anything: what is refused, and that nothing else happens. */
import t from 'tap'
import { CorruptionError, OperatingError } from '../../../src/base/errors.ts'
import { Prng } from '../../../src/base/prng.ts'
import type { ImageFacts } from '../../../src/image/format/facts.ts'
import { inspectImage } from '../../../src/image/format/inspect.ts'
import { verifyVirtualSize } from '../../../src/image/image-bytes.ts'
import { detectFormat } from '../../../src/image/image-format.ts'
import type { ContainerFormat } from '../../../src/image/image-format.ts'
import {
  MemoryBytes,
  qcow2Image,
  vdiImage,
  vhdImage,
  vhdxImage,
  vmdkImage,
} from '../../support/image-headers.ts'

function inspect(format: ContainerFormat, content: Buffer): Promise<ImageFacts> {
  return inspectImage(format, new MemoryBytes(content))
}

const WHOLE: [ContainerFormat, Buffer, number][] = [
  ['qcow2', qcow2Image(), 1048576],
  ['qcow2', qcow2Image({ version: 2 }), 1048576],
  ['vdi', vdiImage(), 2097152],
  ['vhd', vhdImage(), 4096],
  ['vmdk', vmdkImage(), 65536],
  ['vhdx', vhdxImage(), 3145728],
]

t.test('a whole image is understood, and one that is cut off anywhere is not', async (t) => {
  for (const [format, content, sizeBytes] of WHOLE) {
    const facts = await inspect(format, content)
    t.equal(facts.virtualSizeBytes, sizeBytes, format)
    t.strictSame([facts.references, facts.extents], [[], null])
    // Of qcow2 and VMDK the last cluster may be short: programs write only its beginning.
    const tailBytes = format === 'qcow2' || format === 'vmdk' ? 65536 : 512
    for (const end of [0, 3, 70, 511, 513, 1600, content.length - tailBytes]) {
      const cut = content.subarray(0, end)
      await t.rejects(inspect(format, cut), CorruptionError, `${format} of ${end} bytes`)
    }
  }
  const { blocks } = await inspect('vhdx', vhdxImage())
  t.strictSame(blocks, { blockBytes: 1048576, bits: new Uint8Array([2]) })
})

t.test('what an image refers to is told as it stands there', async (t) => {
  const names = ['base.qcow2', '/etc/shadow', 'json:{"driver":"nbd"}', 'nbd://host/x', '']
  for (const backing of names) {
    const { references } = await inspect('qcow2', qcow2Image({ backing, backingFormat: 'raw' }))
    t.strictSame(references, [{ role: 'backing', name: backing, format: 'raw' }])
  }
  const unsaid = await inspect('qcow2', qcow2Image({ version: 2, backing: 'b' }))
  t.strictSame(unsaid.references, [{ role: 'backing', name: 'b', format: null }])
  const { references } = await inspect('qcow2', qcow2Image({ dataFile: '/dev/sda' }))
  t.strictSame(references, [{ role: 'data-file', name: '/dev/sda', format: 'raw' }])
  const text = '# Disk DescriptorFile\nRW 8 FLAT "/etc/passwd" 0\nRW 2 ZERO\nRW 4 SPARSE "s.vmdk"\n'
  const { extents, virtualSizeBytes } = await inspect('vmdk', Buffer.from(text))
  t.equal(virtualSizeBytes, 14 * 512)
  t.strictSame(
    extents?.map(({ name, type }) => [type, name]),
    [
      ['FLAT', '/etc/passwd'],
      ['ZERO', null],
      ['SPARSE', 's.vmdk'],
    ],
  )
})

t.test('images that are half of something, encrypted or unknown are refused', async (t) => {
  const refused: [ContainerFormat, Buffer, RegExp][] = [
    ['qcow2', qcow2Image({ encryption: 2 }), /encrypted/],
    ['qcow2', qcow2Image({ incompatible: 32n }), /features/],
    ['vdi', vdiImage(4), /differs/],
    ['vhd', vhdImage(4), /differs/],
    ['vhd', vhdImage(9), /type 9/],
    ['vhdx', vhdxImage({ hasParent: true }), /differs/],
    ['vhdx', vhdxImage({ hasLog: true }), /log/],
    ['vmdk', vmdkImage('parentCID=12345678\n'), /differs/],
    ['vmdk', vmdkImage('parentCID=ffffffff\nparentFileNameHint="/etc/x"\n'), /differs/],
    ['vmdk', Buffer.from('# Disk DescriptorFile\nparentCID=00000001\n'), /differs/],
    ['vmdk', Buffer.from('COWD and so on'), /ESX/],
  ]
  for (const [format, content, message] of refused) {
    await t.rejects(inspect(format, content), { code: 'unsupported', message }, String(message))
  }
  const corrupt: [ContainerFormat, Buffer, RegExp][] = [
    ['qcow2', qcow2Image({ incompatible: 2n }), /corrupt/],
    ['qcow2', qcow2Image({ sizeBytes: 0x7fff_ffff_ffff_fe00n }), /L1 table/],
    ['vmdk', Buffer.from('# Disk DescriptorFile\n'), /no extents/],
    ['vmdk', Buffer.from('# Disk DescriptorFile\nRW x FLAT "a" 0\n'), /not understood/],
    ['parallels', Buffer.from('something else'), /not a Parallels/],
  ]
  for (const [format, content, message] of corrupt) {
    await t.rejects(inspect(format, content), { code: 'image-corrupt', message }, String(message))
  }
  // A sparse extent without a capacity would make QEMU look for a descriptor.
  const hollow = vmdkImage()
  hollow.writeBigUInt64LE(0n, 12)
  await t.rejects(inspect('vmdk', hollow), { code: 'image-corrupt' })
  const twice = qcow2Image()
  twice.writeUInt32BE(2, 36)
  twice.copy(twice, 65544, 65536, 65544)
  await t.rejects(inspect('qcow2', twice), { message: /twice/ })
  t.throws(() => verifyVirtualSize(2 ** 63, 2 ** 46), { code: 'out-of-range' })
})

t.test(
  'a format is found where name and bytes agree, and asked for where they do not',
  async (t) => {
    const qcow2 = new MemoryBytes(qcow2Image())
    const plain = new MemoryBytes(Buffer.alloc(4096))
    const fixedVhd = new MemoryBytes(
      Buffer.concat([Buffer.alloc(4096), Buffer.from('conectix'.padEnd(512))]),
    )
    const gzip = new MemoryBytes(Buffer.from([0x1f, 0x8b, 8, 0]))
    t.equal(await detectFormat('/a/b.qcow2', qcow2), 'qcow2')
    t.equal(await detectFormat('/a/b.QCOW2', qcow2), 'qcow2')
    t.equal(await detectFormat('/a/b.img', plain), 'raw')
    t.equal(await detectFormat('/a/b.vhd', fixedVhd), 'vhd')
    t.equal(await detectFormat('/a/b.img', fixedVhd), 'raw', 'a guest can write its last sector')
    t.equal(await detectFormat('/a/b.img.gz', gzip), 'raw+gz')
    t.equal(await detectFormat('/a/b.vmdk', new MemoryBytes(vmdkImage())), 'vmdk')
    t.equal(await detectFormat('/a/b.vhdx', new MemoryBytes(vhdxImage())), 'vhdx')
    t.equal(await detectFormat('/a/b.vdi', new MemoryBytes(vdiImage())), 'vdi')
    for (const [path, bytes] of [
      ['/a/b.img', qcow2],
      ['/a/b.vmdk', qcow2],
      ['/a/b.qcow2', plain],
      ['/a/b.gz', plain],
      ['/a/b.img', gzip],
      ['/a/b.qcow2.gz', gzip],
    ] as const) {
      await t.rejects(detectFormat(path, bytes), { code: 'usage' }, path)
    }
  },
)

t.test('any bytes at all are judged: quickly, and with an error of ours or none', async (t) => {
  const prng = new Prng(20261125)
  let understood = 0
  for (let round = 0; round < 4000; round += 1) {
    const [format, whole] = WHOLE[round % WHOLE.length]
    const content = Buffer.from(whole)
    const flips = 1 + prng.below(8)
    // Where the fields are: headers, tables, and the ends of both.
    const areas = [0, 512, 1536, 22 * 512, 65536, 131072, 196608, 327680, 393216, 1048576]
    for (let flip = 0; flip < flips; flip += 1) {
      const at = areas[prng.below(areas.length)] + prng.below(600)
      if (at >= content.length) continue
      content[at] = prng.below(3) === 0 ? 255 : prng.below(256)
    }
    const end = prng.below(4) === 0 ? prng.below(content.length) : content.length
    const bytes = new MemoryBytes(content.subarray(0, end))
    try {
      await inspectImage(format, bytes)
      understood += 1
    } catch (error) {
      const isOurs = error instanceof OperatingError || error instanceof CorruptionError
      if (!isOurs) t.fail(`${format}, round ${round}: ${String(error)}`)
    }
    if (bytes.readBytes > 64 * whole.length) t.fail(`${format} reads ${bytes.readBytes} bytes`)
  }
  t.ok(understood > 100 && understood < 3900, `${understood} of 4000 were still images`)
})
