/** `varve import --rootfs` on a pool that this process has open. */
import type { ImportCall } from '../api/service.ts'
import type * as shape from '../api/shapes.ts'
import { withRootfsImage } from '../image/rootfs/build-rootfs.ts'

/** `importImage` takes the filesystem that is made, as any raw image. */
export async function importRootfs(
  request: shape.ImportRequest,
  rootfs: shape.RootfsRequest,
  call: ImportCall,
  importImage: (image: shape.ImportRequest, call: ImportCall) => Promise<shape.ImportReport>,
): Promise<shape.ImportReport> {
  const { name, path, sizeBytes, labels } = request
  const source = {
    ...{ path, sizeBytes, input: call.input ?? null },
    ...{ platform: rootfs.platform, tag: rootfs.tag },
    unpackedBytesMax: request.sizeBytesMax ?? null,
    timeoutMs: request.timeoutMs ?? null,
  }
  return withRootfsImage(source, call, async (imagePath, warnings) => {
    const image = { name, path: imagePath, sizeBytes, labels, format: 'raw' as const }
    return { ...(await importImage(image, call)), warnings }
  })
}
