import t from 'tap'
import { startKernelMount } from '../../src/export/fuse/kernel-mount.ts'
import type { FuseCapabilities } from './fuse-conformance.ts'
import { fuseConformance, whyNoFuse } from './fuse-conformance.ts'

t.setTimeout(300_000)

const CAPABILITIES: FuseCapabilities = {
  ioKind: 'ring',
  fallocate: true,
  seekHole: true,
  sharedCopy: true,
  modifiedTimeAlone: true,
  birthTime: true,
  endsUnseen: true,
}

await t.test("the kernel's own protocol is the filesystem", { skip: whyNoFuse() ?? false }, (t) => {
  return fuseConformance(t, startKernelMount, CAPABILITIES)
})
