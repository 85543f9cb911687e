/**
 * The ways of keeping a corpus of images that `bench space` compares, each as its manual says for
 * images of disks. What a tool keeps outside its store, such as borg's cache, is not counted.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { run, type RunOptions } from '../command.ts'
import { stored, type CorpusImage, type Stored } from './corpus-images.ts'
import { storeInBtrfs } from './space-btrfs.ts'
import { storeInPool } from './space-pool.ts'

/** Who may be compared with whom: what compresses at about the same speed and strength. */
export type CodecClass = 'none' | 'fast' | 'strong'

/** Whether a guest's random reads can be served from it as it is. */
export type RandomReads = 'yes' | 'read-only' | 'no'

export interface SpaceMethod {
  /** As `--only` takes it. */
  name: string
  description: string
  codec: string
  codecClass: CodecClass
  reads: RandomReads
  /** Stores all images, one after the other, in an empty folder. */
  store(images: readonly CorpusImage[], folder: string): Promise<Stored>
}

/** Settles what is in the pool; every kind of settling that is compared is one of these. */
const SETTLE: Record<'lz4' | 'zstd', readonly string[]> = {
  lz4: ['settle', '--compression', 'lz4'],
  zstd: ['settle', '--compression', 'zstd'],
}

/** The manual's example for images of disks is the first. */
const BORG_CHUNKERS: Record<string, string> = {
  'fixed 4 MiB': 'fixed,4194304',
  'fixed 4 KiB': 'fixed,4096',
  'buzhash 2 MiB': 'buzhash,19,23,21,4095',
  'buzhash 64 KiB': 'buzhash,10,23,16,4095',
}

export const SPACE_METHODS: readonly SpaceMethod[] = [
  ours('varve-unsettled', 'none', 'none', null),
  ours('varve-lz4', 'lz4', 'fast', SETTLE.lz4),
  ours('varve-zstd', 'zstd', 'strong', SETTLE.zstd),
  {
    name: 'raw',
    description: 'sparse raw files, holes dug',
    codec: 'none',
    codecClass: 'none',
    reads: 'yes',
    store: storeRaw,
  },
  btrfs('lzo', 'fast'),
  btrfs('zstd', 'strong'),
  qcow2('zlib'),
  qcow2('zstd'),
  squashfs('lz4', 'fast'),
  squashfs('gzip', 'strong'),
  squashfs('zstd', 'strong'),
  {
    name: 'casync-zstd',
    description: 'casync make, 64 KiB chunks',
    codec: 'zstd',
    codecClass: 'strong',
    reads: 'read-only',
    store: storeInCasync,
  },
  ...Object.keys(BORG_CHUNKERS).flatMap((chunker) => [
    borg(chunker, 'lz4', 'fast'),
    borg(chunker, 'zstd', 'strong'),
  ]),
  restic('auto'),
  restic('max'),
]

function ours(
  name: string,
  codec: string,
  codecClass: CodecClass,
  settle: readonly string[] | null,
): SpaceMethod {
  return {
    name,
    description: settle === null ? 'varve import' : 'varve import, settle',
    codec,
    codecClass,
    reads: 'yes',
    store: (images, folder) => storeInPool(images, folder, settle),
  }
}

function storeRaw(images: readonly CorpusImage[], folder: string): Promise<Stored> {
  return stored(folder, async () => {
    for (const image of images) {
      const copy = join(folder, `${image.name}.img`)
      await run('cp', ['--sparse=always', '--reflink=never', image.path, copy])
    }
  })
}

function btrfs(codec: string, codecClass: CodecClass): SpaceMethod {
  return {
    name: `btrfs-${codec}`,
    description: 'btrfs compress, duperemove',
    codec,
    codecClass,
    reads: 'yes',
    store: (images, folder) => storeInBtrfs(images, folder, codec),
  }
}

function qcow2(codec: 'zlib' | 'zstd'): SpaceMethod {
  return {
    name: `qcow2-${codec}`,
    description: 'qemu-img convert -c, each by itself',
    codec,
    codecClass: 'strong',
    reads: 'yes',
    store: (images, folder) =>
      stored(folder, async () => {
        const words = ['convert', '-f', 'raw', '-O', 'qcow2', '-c', '-W', '-m', '16']
        for (const image of images) {
          const target = join(folder, `${image.name}.qcow2`)
          const codecWords = ['-o', `compression_type=${codec}`]
          await run('qemu-img', [...words, ...codecWords, image.path, target])
        }
      }),
  }
}

function squashfs(codec: string, codecClass: CodecClass): SpaceMethod {
  return {
    name: `squashfs-${codec}`,
    description: 'mksquashfs of all the files',
    codec,
    codecClass,
    reads: 'read-only',
    store: (images, folder) =>
      stored(folder, async () => {
        const target = join(folder, 'images.squashfs')
        const sources = images.map((image) => image.path)
        await run('mksquashfs', [...sources, target, '-comp', codec, '-no-progress', '-quiet'])
      }),
  }
}

function storeInCasync(images: readonly CorpusImage[], folder: string): Promise<Stored> {
  return stored(folder, async () => {
    const store = `--store=${join(folder, 'store.castr')}`
    for (const image of images) {
      const index = join(folder, `${image.name}.caibx`)
      await run('casync', ['make', store, '--compression=zstd', index, image.path])
    }
  })
}

function borg(chunker: string, codec: string, codecClass: CodecClass): SpaceMethod {
  return {
    name: `borg-${chunker.replaceAll(' ', '')}-${codec}`,
    description: `borg create, ${chunker}`,
    codec,
    codecClass,
    reads: 'no',
    store: async (images, folder) => {
      const repository = join(folder, 'repository')
      await borgInit(repository, folder)
      return stored(repository, async () => {
        for (const image of images) {
          await borgCreate(repository, folder, image, BORG_CHUNKERS[chunker], codec)
        }
      })
    },
  }
}

/** Its cache and configuration, `home`, are made anew as well. */
export async function borgInit(repository: string, home: string): Promise<void> {
  await run('borg', ['init', '--encryption=none', repository], borgOptions(home))
}

export async function borgCreate(
  repository: string,
  home: string,
  image: { name: string; path: string },
  chunker: string,
  codec: string,
): Promise<void> {
  const words = ['create', '--sparse', '--chunker-params', chunker, '--compression', codec]
  await run('borg', [...words, `${repository}::${image.name}`, image.path], borgOptions(home))
}

function borgOptions(home: string): RunOptions {
  return {
    env: { BORG_BASE_DIR: home, BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes' },
  }
}

function restic(compression: 'auto' | 'max'): SpaceMethod {
  return {
    name: `restic-${compression}`,
    description: `restic backup, compression ${compression}`,
    codec: 'zstd',
    codecClass: 'strong',
    reads: 'no',
    store: async (images, folder) => {
      const repository = join(folder, 'repository')
      mkdirSync(repository)
      const words = ['--repo', repository, '--no-cache', '--quiet']
      const options = { env: { RESTIC_PASSWORD: 'not a secret' } }
      await run('restic', [...words, 'init', '--repository-version', '2'], options)
      return stored(repository, async () => {
        for (const image of images) {
          const backup = ['backup', '--compression', compression, image.path]
          await run('restic', [...words, ...backup], options)
        }
      })
    },
  }
}
