/** All targets by name; only the module of the one that is wanted is loaded. */
import { OperatingError } from '../../src/base/errors.ts'
import type { FuzzTarget } from './target.ts'

type TargetModule = () => Promise<{ TARGETS: readonly FuzzTarget[] }>

const MODULES: readonly [TargetModule, readonly string[]][] = [
  [
    () => import('./format-targets.ts'),
    [
      'superblock',
      'segment-header',
      'segment-footer',
      'record',
      'node',
      'catalogue',
      'directory',
      'fingerprints',
    ],
  ],
  [() => import('./frame-targets.ts'), ['frame-lz4', 'frame-zstd']],
  [
    () => import('./protocol-targets.ts'),
    [
      'nbd-option-data',
      'nbd-handshake',
      'nbd-request',
      'api-document',
      'api-frames',
      'words',
      'host-output',
    ],
  ],
  [
    () => import('./image-targets.ts'),
    ['image-qcow2', 'image-vmdk', 'image-vhdx', 'image-vhd', 'image-vdi', 'tar', 'oci-layout'],
  ],
  [() => import('./pool-targets.ts'), ['pool-raw', 'pool-settled']],
]

/** Those that one process can run without loading more than one of them needs. */
export const TARGET_GROUPS: readonly (readonly string[])[] = MODULES.map(([, names]) => names)
export const TARGET_NAMES: readonly string[] = TARGET_GROUPS.flat()

/** Rejects `usage` for a name that is none. */
export async function loadTarget(name: string): Promise<FuzzTarget> {
  for (const [load, names] of MODULES) {
    if (!names.includes(name)) continue
    const { TARGETS } = await load()
    const target = TARGETS.find((one) => one.name === name)
    if (target !== undefined) return target
  }
  throw new OperatingError('usage', `there is no target "${name}"`, {
    hint: `There are: ${TARGET_NAMES.join(', ')}.`,
  })
}
