/**
 * The program that builds a root filesystem in a work folder: a process of its own, so that what
 * a stranger's archive does to it, it does to nobody else. It ends, and takes the folder along,
 * when whoever started it goes away.
 */
import { createHash } from 'node:crypto'
import { realpathSync, rmSync, statSync } from 'node:fs'
import { mkdir, stat } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { OperatingError } from '../../base/errors.ts'
import { systemError } from '../system-error.ts'
import { applyTar } from './apply-tar.ts'
import type { TarTarget } from './apply-tar.ts'
import { verifyInodes, writeTimesScript, writeTreeScript } from './attributes-script.ts'
import type { LeftOut } from './attributes-script.ts'
import { IMAGE_NAME } from './build-protocol.ts'
import type { BuildEvent, BuildRequest, BuildResult } from './build-protocol.ts'
import { ByteReader } from './byte-reader.ts'
import { ContentStore } from './content-store.ts'
import { decodedStream } from './decoded-stream.ts'
import { readInodes } from './inode-table.ts'
import { layOut } from './lay-out.ts'
import { ArchivedLayout, FolderLayout, readRegular } from './layout-files.ts'
import { Budget, UNPACKED_BYTES_MAX_DEFAULT, badSource } from './limits.ts'
import { fixedSecondsOf, makeExt4, runDebugfs } from './make-ext4.ts'
import { chooseImage, openBlob } from './oci-layout.ts'
import type { LayoutFiles } from './oci-layout.ts'
import { surveyFolder } from './survey-folder.ts'
import { surveyTree } from './survey.ts'
import { TarReader } from './tar-reader.ts'
import { RootfsTree } from './tree.ts'

const SCRIPT_NAME = 'script'
const VALUES_NAME = 'values'
const TREE_NAME = 'tree'
const PROGRESS_INTERVAL_MS = 200

class Builder {
  readonly #request: BuildRequest
  readonly #signal: AbortSignal
  readonly #report: (event: BuildEvent) => void
  #progressMs = 0

  constructor(request: BuildRequest, signal: AbortSignal, report: (event: BuildEvent) => void) {
    this.#request = request
    this.#signal = signal
    this.#report = report
  }

  /** The work folder is the process's own folder: paths in it are short and without surprises. */
  async run(): Promise<BuildResult> {
    const sourcePath = realSource(this.#request.sourcePath)
    const isFolder = (await stat(sourcePath)).isDirectory()
    if (!isFolder) return this.#fromArchive(sourcePath)
    if (isLayoutFolder(sourcePath)) return this.#fromLayout(new FolderLayout(sourcePath))
    return this.#fromFolder(sourcePath)
  }

  async #fromFolder(sourcePath: string): Promise<BuildResult> {
    if (`${process.cwd()}/`.startsWith(`${sourcePath}/`.replace('//', '/'))) {
      throw badSource('the folder holds the one for temporary files', 'Set TMPDIR elsewhere.')
    }
    const budget = new Budget(this.#request.unpackedBytesMax ?? Infinity)
    const survey = await surveyFolder(sourcePath, budget, this.#signal)
    await makeExt4(IMAGE_NAME, sourcePath, survey, this.#ext4Options())
    writeTimesScript(SCRIPT_NAME, readInodes(IMAGE_NAME), survey.root, fixedSecondsOf(survey))
    await runDebugfs(IMAGE_NAME, SCRIPT_NAME, survey, this.#signal)
    return { warnings: [] }
  }

  async #fromArchive(sourcePath: string): Promise<BuildResult> {
    const target = this.#newTarget('archive')
    const input = await readRegular(sourcePath, sourcePath)
    const totalBytes = statSync(sourcePath).size
    const counted = this.#counted(input, totalBytes)
    const isEndMarked = await this.#unpack(counted, target, 1, false, null)
    if (!isEndMarked) {
      throw badSource('the archive ends before its end mark', 'Fetch or make it again.')
    }
    if (target.tree.tryFind(['oci-layout']) !== null && target.tree.tryFind(['blobs']) !== null) {
      return this.#fromLayout(new ArchivedLayout(target.tree, target.store))
    }
    return this.#fromTree(target)
  }

  async #fromLayout(files: LayoutFiles): Promise<BuildResult> {
    const layers = await chooseImage(files, this.#request)
    const target = this.#newTarget('content')
    const totalBytes = layers.reduce((sum, { blob }) => sum + blob.size, 0)
    let beforeBytes = 0
    for (const [index, { blob, diffId }] of layers.entries()) {
      const input = this.#counted(await openBlob(files, blob), totalBytes, beforeBytes)
      await this.#unpack(input, target, index + 1, true, diffId)
      beforeBytes += blob.size
    }
    return this.#fromTree(target)
  }

  async #fromTree({ tree, store }: TarTarget): Promise<BuildResult> {
    const survey = surveyTree(tree.root)
    const layout = await layOut(tree, store, TREE_NAME, this.#signal)
    await makeExt4(IMAGE_NAME, TREE_NAME, survey, this.#ext4Options())
    await mkdir(VALUES_NAME, { mode: 0o700 })
    const { attributes } = tree.root
    const inodes = readInodes(IMAGE_NAME)
    const seconds = fixedSecondsOf(survey)
    const leftOut = writeTreeScript(SCRIPT_NAME, VALUES_NAME, inodes, layout, attributes, seconds)
    leftOut.attributeCount += await runDebugfs(IMAGE_NAME, SCRIPT_NAME, survey, this.#signal)
    verifyInodes(readInodes(IMAGE_NAME), layout)
    return { warnings: warningsOf(leftOut) }
  }

  /** Whether the archive had an end mark. `diffId`: what the unpacked archive has to hash to. */
  async #unpack(
    input: AsyncIterable<Buffer>,
    target: TarTarget,
    layer: number,
    hasWhiteouts: boolean,
    diffId: string | null,
  ): Promise<boolean> {
    const hash = diffId === null ? null : createHash(diffId.split(':')[0])
    const signal = this.#signal
    const decoded = async function* (): AsyncGenerator<Buffer> {
      for await (const bytes of decodedStream(input, signal)) {
        if (signal.aborted) throw new OperatingError('canceled', 'canceled')
        target.budget.takeUnpacked(bytes.length)
        hash?.update(bytes)
        yield bytes
      }
    }
    const reader = new ByteReader(decoded())
    const tar = new TarReader(reader)
    await applyTar(tar, target, layer, hasWhiteouts)
    await reader.drain()
    if (hash !== null && `${diffId?.split(':')[0]}:${hash.digest('hex')}` !== diffId) {
      throw badSource(`layer ${layer} does not unpack to ${diffId}`, 'Fetch the image again.')
    }
    return tar.isEndMarked
  }

  #newTarget(name: string): TarTarget {
    const budget = new Budget(this.#request.unpackedBytesMax ?? UNPACKED_BYTES_MAX_DEFAULT)
    const store = ContentStore.create(name)
    const tree = new RootfsTree(budget, ({ contentNumber }) => {
      if (contentNumber !== null) store.remove(contentNumber)
    })
    return { budget, store, tree }
  }

  async *#counted(
    input: AsyncIterable<Buffer>,
    totalBytes: number,
    beforeBytes = 0,
  ): AsyncGenerator<Buffer> {
    let doneBytes = beforeBytes
    for await (const bytes of input) {
      yield bytes
      doneBytes += bytes.length
      this.#progress({ doneBytes, totalBytes })
    }
  }

  #ext4Options(): Parameters<typeof makeExt4>[3] {
    return {
      sizeBytes: this.#request.sizeBytes,
      signal: this.#signal,
      progress: (progress) => this.#progress(progress),
    }
  }

  #progress(progress: { doneBytes: number; totalBytes: number }): void {
    const nowMs = performance.now()
    if (nowMs - this.#progressMs < PROGRESS_INTERVAL_MS) return
    this.#progressMs = nowMs
    this.#report({ progress })
  }
}

function realSource(path: string): string {
  try {
    return realpathSync(path)
  } catch (error) {
    throw systemError(`cannot read ${path}`, error)
  }
}

function isLayoutFolder(path: string): boolean {
  const exists = (name: string): boolean =>
    statSync(join(path, name), { throwIfNoEntry: false }) !== undefined
  return exists('oci-layout') && exists('index.json') && exists('blobs')
}

function warningsOf({ attributeCount, specialCount }: LeftOut): string[] {
  const warnings: string[] = []
  if (attributeCount > 0) {
    warnings.push(`${attributeCount} extended attributes are left out: ext4 has no place for them`)
  }
  if (specialCount > 0) {
    warnings.push(`${specialCount} devices are left out: their names or numbers are unusual`)
  }
  return warnings
}

function failureOf(error: unknown): BuildEvent {
  const fields = error instanceof OperatingError ? error : systemError('cannot build', error)
  const isKnown = fields instanceof OperatingError
  return {
    failure: {
      code: isKnown ? fields.code : 'io',
      message: isKnown ? fields.message : `the builder failed: ${fields.stack ?? fields.message}`,
      hint: isKnown ? (fields.hint ?? null) : null,
      errno: isKnown ? (fields.errno ?? null) : null,
    },
  }
}

async function main(): Promise<void> {
  const given = new AbortController()
  const lines = createInterface({ input: process.stdin })
  const request = await new Promise<BuildRequest>((resolve, reject) => {
    lines.once('line', (line) => resolve(JSON.parse(line) as BuildRequest))
    lines.once('close', () => reject(new Error('no request')))
  })
  lines.on('close', () => given.abort())
  process.chdir(request.workFolder)
  const report = (event: BuildEvent): void => {
    process.stdout.write(`${JSON.stringify(event)}\n`)
  }
  // Whoever is gone reads nothing; that it is gone, standard input says.
  process.stdout.on('error', () => undefined)
  try {
    const result = await new Builder(request, given.signal, report).run()
    report({ result })
  } catch (error) {
    report(failureOf(error))
  }
  if (given.signal.aborted) {
    assert(request.workFolder.startsWith('/'), 'the work folder is absolute')
    rmSync(request.workFolder, { recursive: true, force: true })
  }
  lines.close()
  process.stdin.destroy()
}

await main()
