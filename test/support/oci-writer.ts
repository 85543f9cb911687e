/** OCI image layouts made by hand, right and wrong. */
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'

export interface OciDescriptor {
  mediaType: string
  digest: string
  size: number
  platform?: { os: string; architecture: string; variant?: string }
  annotations?: Record<string, string>
}

const TYPES = 'application/vnd.oci.image.'

export class OciWriter {
  readonly path: string

  constructor(path: string) {
    this.path = path
    mkdirSync(join(path, 'blobs/sha256'), { recursive: true })
    writeFileSync(join(path, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  }

  blob(mediaType: string, bytes: Buffer): OciDescriptor {
    const digest = sha256(bytes)
    writeFileSync(this.blobPath(digest), bytes)
    return { mediaType: `${TYPES}${mediaType}`, digest: `sha256:${digest}`, size: bytes.length }
  }

  document(mediaType: string, value: unknown): OciDescriptor {
    return this.blob(mediaType, Buffer.from(JSON.stringify(value)))
  }

  /** An image of these tar archives, with gzip. */
  image(
    layers: Buffer[],
    changeLayer = (layer: OciDescriptor): OciDescriptor => layer,
  ): OciDescriptor {
    const config = this.document('config.v1+json', {
      architecture: 'amd64',
      os: 'linux',
      rootfs: { type: 'layers', diff_ids: layers.map((tar) => `sha256:${sha256(tar)}`) },
    })
    const blobs = layers.map((tar) => changeLayer(this.blob('layer.v1.tar+gzip', gzipSync(tar))))
    return this.document('manifest.v1+json', { schemaVersion: 2, config, layers: blobs })
  }

  index(...manifests: OciDescriptor[]): OciDescriptor {
    return this.document('index.v1+json', { schemaVersion: 2, manifests })
  }

  finish(...manifests: OciDescriptor[]): string {
    const text = JSON.stringify({ schemaVersion: 2, manifests })
    writeFileSync(join(this.path, 'index.json'), text)
    return this.path
  }

  blobPath(digest: string): string {
    return join(this.path, 'blobs/sha256', digest.replace('sha256:', ''))
  }
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}
