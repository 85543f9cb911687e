/**
 * The tour itself: one golden image, three clones, a real client that writes to one of them, a
 * snapshot, an accident, and the way back. Everything claimed is read back over NBD and compared.
 */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { HttpService } from '../../src/api/http-service.ts'
import { MIB, formatSize } from '../../src/base/units.ts'
import { run, Server } from '../command.ts'
import { contentHash } from '../content-hash.ts'
import { varveCommand } from '../project.ts'
import { table } from '../table.ts'
import type { Narrator } from './narrator.ts'

const CLONES = ['web', 'db', 'build']
const WRITTEN_BYTES_MAX = 64 * MIB

export function uriOf(pool: string, name: string): string {
  return `nbd+unix:///${name}?socket=${join(pool, 'nbd.sock')}`
}

/** From nothing to three clones being served; resolves to the server. */
export async function serveClones(
  narrator: Narrator,
  pool: string,
  imagePath: string,
): Promise<Server> {
  narrator.heading('1. A pool, a golden volume, three clones')
  narrator.say(`export VARVE_POOL=${pool}`)
  await narrator.varve('init')
  await narrator.varve('import', imagePath, 'golden')
  await narrator.varve('clone', 'golden', ...CLONES)

  narrator.heading('2. Every disk is an NBD export')
  narrator.show('varve', ['serve'])
  const [program, first] = varveCommand
  // The control socket is the last thing that comes up.
  return Server.start(program, [...first, 'serve'], join(pool, 'control.sock'), {
    VARVE_POOL: pool,
  })
}

/** Attaches real clients, writes, snapshots, breaks and restores; throws when anything differs. */
export async function breakAndRestore(
  narrator: Narrator,
  pool: string,
  imagePath: string,
): Promise<void> {
  const web = uriOf(pool, 'web')
  const { stdout: size } = await narrator.client('nbdinfo', '--size', web)
  const imageBytes = statSync(imagePath).size
  narrator.verify(
    Number(size) === Math.ceil(imageBytes / 512) * 512,
    `web is a drive of ${formatSize(Number(size))}`,
  )
  await narrator.client('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', imagePath, web)
  narrator.verify(true, 'byte for byte the golden image, says qemu-img')
  const goldenHash = await contentHash(uriOf(pool, 'golden'))

  narrator.heading('3. Write, snapshot, have an accident')
  const writtenBytes = Math.min(WRITTEN_BYTES_MAX, Math.floor(Number(size) / 8192) * 4096)
  const offsetBytes = Math.floor(Number(size) / 8192) * 4096
  const write = (pattern: string, offset: number) =>
    narrator.client(
      'qemu-io',
      ...['-f', 'raw', web, '-c', `write -P ${pattern} ${offset} ${writtenBytes}`, '-c', 'flush'],
    )
  await write('0xda', offsetBytes)
  const writtenHash = await contentHash(web)
  narrator.verify(writtenHash !== goldenHash, 'web has changed')
  await narrator.varve('snapshot', 'web@before')
  await write('0xff', 0)
  narrator.verify((await contentHash(web)) !== writtenHash, 'the start of web is overwritten')
  narrator.verify(
    (await contentHash(uriOf(pool, 'web@before'))) === writtenHash,
    'the snapshot web@before still holds what was written',
  )

  narrator.heading('4. Restore')
  await narrator.varve('restore', 'web@before')
  narrator.verify((await contentHash(web)) === writtenHash, 'web is what it was, by SHA-256')
  for (const name of ['golden', 'db', 'build']) {
    narrator.verify((await contentHash(uriOf(pool, name))) === goldenHash, `${name} never changed`)
  }
}

/** What it all takes on disk, beside what plain copies would take. */
export async function showSpace(
  narrator: Narrator,
  pool: string,
  imagePath: string,
): Promise<void> {
  narrator.heading('6. What it takes')
  await narrator.varve('list')
  const service = new HttpService(join(pool, 'control.sock'))
  try {
    const info = await service.info()
    const copies = info.volumeCount + info.snapshotCount
    const { blocks } = statSync(imagePath)
    const rows = [
      ['logical', info.logicalBytes, `what the guests of ${info.volumeCount} volumes see`],
      ['mapped', info.mappedBytes, 'what they have written, as if each had its own'],
      ['physical', info.physicalBytes, "what the pool's files take on disk"],
      ['plain copies', blocks * 512 * copies, `${copies} sparse copies of the image`],
    ] as const
    const cells = rows.map(([name, bytes, meaning]) => [`${name}: ${meaning}`, formatSize(bytes)])
    narrator.say(`\n${table(['', 'size'], cells)}`)
    narrator.verify(
      info.physicalBytes < blocks * 512 * copies,
      'the pool takes less than plain copies would',
    )
  } finally {
    await service.close()
  }
}

/** Lines to paste, for the disk `db`. */
export function showAttaching(narrator: Narrator, pool: string): void {
  const socket = join(pool, 'nbd.sock')
  narrator.heading('Attach a VM')
  narrator.say(`QEMU
  qemu-system-x86_64 -m 2G -blockdev \\
    driver=nbd,node-name=root,export=db,server.type=unix,server.path=${socket} \\
    -device virtio-blk-pci,drive=root

libvirt
  <disk type='network' device='disk'>
    <driver name='qemu' type='raw' discard='unmap'/>
    <source protocol='nbd' name='db'>
      <host transport='unix' socket='${socket}'/>
    </source>
    <target dev='vda' bus='virtio'/>
  </disk>

any NBD client
  ${uriOf(pool, 'db')}`)
}

/** A raw image as it is; any other format converted into `folder`. */
export async function rawImage(imagePath: string, folder: string): Promise<string> {
  const { stdout } = await run('qemu-img', ['info', '--output=json', imagePath])
  const { format } = JSON.parse(stdout) as { format: string }
  if (format === 'raw') return imagePath
  const rawPath = join(folder, 'image.raw')
  await run('qemu-img', ['convert', '-O', 'raw', imagePath, rawPath])
  return rawPath
}
