import { mkdtempSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { connect as connectStream } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Io, SocketAddress } from '../../src/io/io.ts'
import { openIo } from '../../src/io/open-io.ts'
import type { Client, IoUnderTest } from './io-conformance.ts'
import { ioConformance } from './io-conformance.ts'

/** A client over node:net. */
class NodeClient implements Client {
  readonly #stream: Socket
  #parts: Buffer[] = []
  #partBytes = 0
  #wake: () => void = () => undefined

  constructor(stream: Socket) {
    this.#stream = stream
    stream.on('error', () => undefined)
    for (const event of ['readable', 'end', 'close']) stream.on(event, () => this.#wake())
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => this.#stream.write(bytes, () => resolve()))
  }

  /** Takes from the stream only what is asked for, so that a test can hold the server up. */
  async read(lengthBytes: number): Promise<Buffer> {
    while (this.#partBytes < lengthBytes) {
      const woken = new Promise<void>((resolve) => (this.#wake = resolve))
      const part = this.#stream.read() as Buffer | null
      if (part !== null) {
        this.#parts.push(part)
        this.#partBytes += part.length
      } else if (this.#stream.readableEnded || this.#stream.destroyed) {
        break
      } else {
        await woken
      }
    }
    const bytes = Buffer.concat(this.#parts)
    this.#parts = [bytes.subarray(lengthBytes)]
    this.#partBytes = this.#parts[0].length
    return bytes.subarray(0, lengthBytes)
  }

  end(): void {
    this.#stream.end()
  }

  destroy(): void {
    this.#stream.destroy()
  }
}

function connect(address: SocketAddress): Promise<Client> {
  return new Promise((resolve, reject) => {
    const stream =
      address.kind === 'unix'
        ? connectStream({ path: address.path, allowHalfOpen: true })
        : connectStream({ host: address.host, port: address.port, allowHalfOpen: true })
    stream.once('error', reject)
    stream.once('connect', () => resolve(new NodeClient(stream)))
  })
}

async function makeIo(kind: 'ring' | 'node'): Promise<IoUnderTest> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-io-'))
  const make = (): Promise<Io> => openIo({ kind, arenaBytes: 16 << 20 })
  return {
    io: await make(),
    folder,
    another: make,
    connect,
    dispose: () => Promise.resolve(rmSync(folder, { recursive: true })),
  }
}

for (const kind of ['node', 'ring'] as const) {
  await t.test(`${kind}-io keeps the promises of Io`, (t) => ioConformance(t, () => makeIo(kind)))
}
