/**
 * OCI image layouts (image-spec 1.1): from `index.json` down to one image's layers. Every blob
 * has the size and the digest that the document above it says, or it is not looked into. Nothing
 * outside the layout is fetched.
 */
import { createHash } from 'node:crypto'
import { arch } from 'node:process'
import { z } from 'zod'
import { OperatingError } from '../../base/errors.ts'
import { badSource } from './limits.ts'

/** Where a layout's files are. */
export interface LayoutFiles {
  /** Rejects when there is no such file; `name` is made of what was verified. */
  open(name: string): Promise<AsyncIterable<Buffer>>
}

export interface ImageChoice {
  /** `os/architecture` or `os/architecture/variant`; null: Linux on this host's. */
  platform: string | null
  /** The annotation `org.opencontainers.image.ref.name`; null: there is only one. */
  tag: string | null
}

export interface Platform {
  os: string
  architecture: string
  variant?: string | undefined
}

export interface Descriptor {
  mediaType: string
  digest: string
  size: number
  platform?: Platform | undefined
  annotations?: Record<string, string> | undefined
}

const digest = z.string().regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/)
const platformSchema: z.ZodType<Platform> = z.object({
  os: z.string().max(64),
  architecture: z.string().max(64),
  variant: z.string().max(64).optional(),
})
const descriptorSchema: z.ZodType<Descriptor> = z.object({
  mediaType: z.string().max(256),
  digest,
  size: z.number().int().nonnegative(),
  platform: platformSchema.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
})
const indexSchema = z.object({ manifests: z.array(descriptorSchema).max(4096) })
const manifestSchema = z.object({
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(1024),
})
const configSchema = z.object({ rootfs: z.object({ diff_ids: z.array(digest).max(1024) }) })

export interface Layer {
  blob: Descriptor
  /** Digest of the layer's tar, unpacked. */
  diffId: string
}

const INDEX_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
]
const MANIFEST_TYPES = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
]
const LAYER_TYPE = new RegExp(
  '^application/vnd\\.(oci\\.image\\.layer\\.(nondistributable\\.)?v1\\.tar(\\+gzip|\\+zstd)?|' +
    'docker\\.image\\.rootfs\\.(foreign\\.)?diff\\.tar(\\.gzip|\\.zstd)?)$',
)
const TAG_KEY = 'org.opencontainers.image.ref.name'
const DOCUMENT_BYTES_MAX = 4 << 20
const INDEX_DEPTH_MAX = 4
/** Of all indexes together. */
const MANIFEST_COUNT_MAX = 4096
const ARCHITECTURES: Record<string, string> = { x64: 'amd64', ia32: '386', arm: 'arm' }

/** The layers of the image that is meant, the lowest first. */
export async function chooseImage(files: LayoutFiles, choice: ImageChoice): Promise<Layer[]> {
  const index = parseJson(await readWhole(files, 'index.json'), 'index.json')
  const top = parse(indexSchema, index, 'index.json')
  const tagged = top.manifests.filter(
    ({ annotations }) => choice.tag === null || annotations?.[TAG_KEY] === choice.tag,
  )
  const found = await flatten(files, tagged)
  const wanted = choice.platform ?? `linux/${ARCHITECTURES[arch] ?? arch}`
  const fitting: Descriptor[] = []
  for (const one of found) {
    // One that does not say what it is for is for whoever did not ask.
    const { platform } = one
    const known = platform ?? (choice.platform === null ? null : await platformOf(files, one))
    if (known === null || isPlatform(known, wanted)) fitting.push(one)
  }
  const distinct = new Map(fitting.map((one) => [one.digest, one]))
  const [image] = distinct.values()
  if (image === undefined) throw noImage(found, top.manifests, wanted, choice)
  if (distinct.size > 1) throw ambiguous(top.manifests, distinct.size)
  return layersOf(files, image)
}

/** Every image below, through indexes of indexes. */
async function flatten(files: LayoutFiles, top: Descriptor[]): Promise<Descriptor[]> {
  const images: Descriptor[] = []
  let level = top
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > INDEX_DEPTH_MAX) throw badSource('indexes of images lie too deep in one another')
    const next: Descriptor[] = []
    for (const one of level) {
      if (MANIFEST_TYPES.includes(one.mediaType)) images.push(one)
      if (!INDEX_TYPES.includes(one.mediaType)) continue
      const { manifests } = parse(indexSchema, await readBlob(files, one), one.digest)
      // What an index holds is of its platform, unless it says so itself.
      for (const below of manifests) next.push({ platform: one.platform, ...below })
      if (images.length + next.length > MANIFEST_COUNT_MAX) {
        throw badSource(`the layout names more than ${MANIFEST_COUNT_MAX} images`)
      }
    }
    level = next
  }
  return images
}

function isPlatform({ os, architecture, variant }: Platform, wanted: string): boolean {
  const plain = `${os}/${architecture}`
  return wanted === plain || wanted === `${plain}/${variant ?? ''}`
}

/** By the image's own configuration. */
async function platformOf(files: LayoutFiles, image: Descriptor): Promise<Platform> {
  const { config } = parse(manifestSchema, await readBlob(files, image), image.digest)
  return parse(platformSchema, await readBlob(files, config), config.digest)
}

async function layersOf(files: LayoutFiles, image: Descriptor): Promise<Layer[]> {
  const manifest = parse(manifestSchema, await readBlob(files, image), image.digest)
  const { layers, config } = manifest
  for (const { mediaType } of layers) {
    if (LAYER_TYPE.test(mediaType)) continue
    throw new OperatingError('unsupported', `a layer is ${mediaType.slice(0, 100)}`, {
      hint: 'Layers are tar archives, plain or with gzip or zstd, and not encrypted.',
    })
  }
  const { rootfs } = parse(configSchema, await readBlob(files, config), config.digest)
  if (rootfs.diff_ids.length !== layers.length) {
    throw badSource(
      `the image has ${layers.length} layers, its configuration ${rootfs.diff_ids.length}`,
    )
  }
  return layers.map((blob, index) => ({ blob, diffId: rootfs.diff_ids[index] }))
}

/** The blob's bytes, once all of them are known to be what `descriptor` says. */
export async function openBlob(
  files: LayoutFiles,
  descriptor: Descriptor,
): Promise<AsyncIterable<Buffer>> {
  const { digest: expected, size } = descriptor
  const [algorithm] = expected.split(':')
  const hash = createHash(algorithm)
  let lengthBytes = 0
  for await (const bytes of await files.open(blobName(expected))) {
    lengthBytes += bytes.length
    if (lengthBytes > size) break
    hash.update(bytes)
  }
  if (lengthBytes !== size) throw wrongSize(descriptor)
  if (`${algorithm}:${hash.digest('hex')}` !== expected) throw wrongDigest(descriptor)
  return files.open(blobName(expected))
}

function blobName(expected: string): string {
  return `blobs/${expected.replace(':', '/')}`
}

async function readBlob(files: LayoutFiles, descriptor: Descriptor): Promise<unknown> {
  const { digest: expected, size } = descriptor
  if (size > DOCUMENT_BYTES_MAX) throw tooLong(expected)
  const bytes = await readWhole(files, blobName(expected))
  if (bytes.length !== size) throw wrongSize(descriptor)
  const [algorithm] = expected.split(':')
  if (`${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` !== expected) {
    throw wrongDigest(descriptor)
  }
  return parseJson(bytes, expected)
}

async function readWhole(files: LayoutFiles, name: string): Promise<Buffer> {
  const pieces: Buffer[] = []
  let lengthBytes = 0
  for await (const bytes of await files.open(name)) {
    lengthBytes += bytes.length
    if (lengthBytes > DOCUMENT_BYTES_MAX) throw tooLong(name)
    pieces.push(bytes)
  }
  return Buffer.concat(pieces)
}

function parseJson(bytes: Buffer, name: string): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    // The parser would quote the file, and that need not be one of the layout's.
    throw badSource(`${name} is not JSON`)
  }
}

function wrongSize({ digest: expected, size }: Descriptor): Error {
  return badSource(`the blob ${expected} does not have the ${size} bytes it should have`)
}

function wrongDigest({ digest: expected }: Descriptor): Error {
  return badSource(`the blob ${expected} has another digest`, 'Fetch the image again.')
}

function tooLong(name: string): Error {
  return badSource(`${name} is longer than ${DOCUMENT_BYTES_MAX} bytes`)
}

function parse<T>(schema: z.ZodType<T>, value: unknown, name: string): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw badSource(`${name} is not what the format says, at ${issue.path.join('.')}`)
}

function noImage(
  found: Descriptor[],
  top: Descriptor[],
  wanted: string,
  { tag }: ImageChoice,
): OperatingError {
  if (found.length === 0 && tag !== null) {
    return new OperatingError('not-found', `the layout has no image with the tag ${tag}`, {
      hint: `Its tags: ${tagsOf(top)}.`,
    })
  }
  const names = found.map(({ platform }) =>
    platform === undefined ? 'none named' : `${platform.os}/${platform.architecture}`,
  )
  const known = [...new Set(names)].slice(0, 20).join(', ')
  return new OperatingError('not-found', `the layout has no image for ${wanted}`, {
    hint: known === '' ? 'It has no image at all.' : `It has: ${known}. Choose by --platform.`,
  })
}

function ambiguous(top: Descriptor[], count: number): OperatingError {
  return badSource(
    `the layout has ${count} images that fit`,
    `Choose by --tag (${tagsOf(top)}), or by --platform with a variant.`,
  )
}

function tagsOf(top: Descriptor[]): string {
  const tags = top
    .map(({ annotations }) => annotations?.[TAG_KEY] ?? '')
    .filter((tag) => tag !== '')
  return tags.length === 0 ? 'none' : tags.slice(0, 20).join(', ')
}
