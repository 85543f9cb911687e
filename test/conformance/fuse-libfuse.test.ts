import t from 'tap'
import { startLibfuseMount } from '../../src/export/fuse/libfuse-mount.ts'
import type { FuseCapabilities } from './fuse-conformance.ts'
import { fuseConformance, whyNoFuse } from './fuse-conformance.ts'

t.setTimeout(300_000)

/** What libfuse 2 and fuse-native 2.2.6 do not pass on. */
const CAPABILITIES: FuseCapabilities = {
  ioKind: 'ring',
  fallocate: false,
  seekHole: false,
  sharedCopy: false,
  modifiedTimeAlone: false,
  birthTime: false,
  // Needs /sys/fs/fuse/connections, which may not be mounted.
  endsUnseen: false,
}

const skip = whyNoFuse() ?? false

for (const ioKind of ['ring', 'node'] as const) {
  await t.test(`fuse-native over ${ioKind}-io is the filesystem`, { skip }, (t) => {
    return fuseConformance(t, startLibfuseMount, { ...CAPABILITIES, ioKind })
  })
}
