/**
 * A pool at work on Node's I/O, to be watched; says at the end what its trace has, by file as it is
 * named at the time.
 */
import { openHost } from '../../src/daemon/host.ts'
import { Pool } from '../../src/pool/pool.ts'
import { BLOCK_BYTES, writeContent } from './block-contents.ts'
import { TappedIo } from './tapped-io.ts'
import type { IoOperation, IoTap } from './tapped-io.ts'

const BLOCK_COUNT = 512

class Account implements IoTap {
  readonly byPath: Map<string, string[]> = new Map()
  readonly #root: string
  readonly #renamed: Map<object, string> = new Map()

  constructor(root: string) {
    this.#root = root
  }

  before(): void {
    // What was refused changed nothing.
  }

  after(operation: IoOperation, isDone: boolean): void {
    const { kind, path, to, file, offsetBytes = 0, lengthBytes = 0 } = operation
    if (!isDone || kind === 'open' || !path.startsWith(this.#root)) return
    const hasRange = kind === 'write' || kind === 'punch' || kind === 'allocate'
    const what = hasRange ? `${kind} ${offsetBytes}+${lengthBytes}` : kind
    const named = (file && this.#renamed.get(file)) ?? path
    const name = named.slice(this.#root.length + 1)
    const known = this.byPath.get(name)
    if (known === undefined) this.byPath.set(name, [what])
    else known.push(what)
    if (to !== undefined && file !== undefined) this.#renamed.set(file, to)
  }
}

async function main(folder: string): Promise<void> {
  const { io: inner, checksum, codecs } = await openHost('node')
  const account = new Account(folder)
  const io = new TappedIo(inner, account)
  await Pool.create(io, checksum, folder, { capacityBytes: 512 << 20 })
  const pool = await Pool.open(io, checksum, folder, { codecs })
  const bytes = new Uint8Array(BLOCK_COUNT * BLOCK_BYTES)
  for (let block = 0; block < BLOCK_COUNT; block += 1) {
    writeContent(bytes, block * BLOCK_BYTES, 1 + (block % 100))
  }
  for (const name of ['a', 'b']) {
    const bulk = await pool.beginImport({ name, sizeBytes: bytes.length })
    await bulk.write(0, bytes)
    await bulk.commit()
  }
  await pool.snapshot(['a@s', 'b@s'])
  await pool.settle('lz4')
  await pool.remove({ names: ['a', 'b'], recursive: true, dryRun: false })
  await pool.reclaim()
  await pool.close()
  await io.shutdown()
  process.stdout.write(JSON.stringify([...account.byPath]))
}

const alive = setInterval(() => undefined, 60_000)
await main(process.argv[2])
clearInterval(alive)
