/** The client that reads images through QEMU, against servers that were taken over by one. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { BLOCK_SIZE_BYTES } from '../../../src/base/units.ts'
import { MappedReader, importNbd } from '../../../src/image/import-nbd.ts'
import type { ImageReader } from '../../../src/image/import-nbd.ts'
import { NbdClient } from '../../../src/image/nbd-client.ts'
import type { ImageExtent } from '../../../src/image/nbd-client.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-client-'))
t.teardown(() => rmSync(folder, { recursive: true }))
const SIZE_BYTES = 1048576

function optionReply(option: number, type: number, data: Buffer): Buffer {
  const head = Buffer.alloc(20)
  head.writeBigUInt64BE(0x0003e889045565a9n, 0)
  head.writeUInt32BE(option, 8)
  head.writeUInt32BE(type, 12)
  head.writeUInt32BE(data.length, 16)
  return Buffer.concat([head, data])
}

/** Structured: `type`, then the payload; done unless said otherwise. */
function chunk(cookie: Buffer, type: number, payload: Buffer, flags = 1): Buffer {
  const head = Buffer.alloc(20)
  head.writeUInt32BE(0x668e33ef, 0)
  head.writeUInt16BE(flags, 4)
  head.writeUInt16BE(type, 6)
  cookie.copy(head, 8)
  head.writeUInt32BE(payload.length, 16)
  return Buffer.concat([head, payload])
}

function dataAt(offset: number, bytes: Buffer): Buffer {
  const head = Buffer.alloc(8)
  head.writeBigUInt64BE(BigInt(offset))
  return Buffer.concat([head, bytes])
}

/** Agrees to everything; answers each request with what `answer` makes of it. */
function serve(answer: (request: Buffer) => Buffer): Promise<{ path: string; server: Server }> {
  const path = join(folder, `${Math.random()}.sock`)
  const server = createServer((socket: Socket) => {
    let isGreeted = false
    let rest = Buffer.alloc(0)
    socket.on('error', () => undefined)
    socket.write(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]))
    socket.on('data', (bytes: Buffer) => {
      rest = Buffer.concat([rest, bytes])
      if (!isGreeted && rest.length >= 4) {
        isGreeted = true
        rest = rest.subarray(4)
      }
      for (;;) {
        const isOption = rest.toString('latin1', 0, 8) === 'IHAVEOPT'
        const lengthBytes = isOption && rest.length >= 16 ? 16 + rest.readUInt32BE(12) : 28
        if (rest.length < lengthBytes) return
        const request = rest.subarray(0, lengthBytes)
        rest = rest.subarray(lengthBytes)
        socket.write(isOption ? agree(request.readUInt32BE(8)) : answer(request))
      }
    })
  })
  return new Promise((resolve) => server.listen(path, () => resolve({ path, server })))
}

function agree(option: number): Buffer {
  const answers: Buffer[] = []
  if (option === 10) {
    answers.push(optionReply(10, 4, Buffer.from('\0\0\0\x01base:allocation', 'latin1')))
  }
  if (option === 7) {
    const info = Buffer.alloc(12)
    info.writeBigUInt64BE(BigInt(SIZE_BYTES), 2)
    answers.push(optionReply(7, 3, info))
  }
  answers.push(optionReply(option, 1, Buffer.alloc(0)))
  return Buffer.concat(answers)
}

async function withClient<T>(
  answer: (request: Buffer) => Buffer,
  body: (client: NbdClient) => Promise<T>,
): Promise<T> {
  const { path, server } = await serve(answer)
  const client = await NbdClient.tryConnect(path)
  if (client === null) throw new Error('nobody listens')
  try {
    return await body(client)
  } finally {
    client.close()
    server.close()
  }
}

t.test('a read comes in pieces and holes, in any order', async (t) => {
  const answer = (request: Buffer): Buffer => {
    const cookie = request.subarray(8, 16)
    const hole = dataAt(4096, Buffer.from([0, 0, 16, 0]))
    return Buffer.concat([
      chunk(cookie, 1, dataAt(8192, Buffer.alloc(100, 3)), 0),
      chunk(cookie, 2, hole, 0),
      chunk(cookie, 1, dataAt(0, Buffer.alloc(4096, 1)), 0),
      chunk(cookie, 0, Buffer.alloc(0)),
    ])
  }
  const target = Buffer.alloc(8292, 9)
  await withClient(answer, async (client) => {
    t.equal(client.sizeBytes, SIZE_BYTES)
    await client.read(0, target)
  })
  const wanted = [Buffer.alloc(4096, 1), Buffer.alloc(4096), Buffer.alloc(100, 3)]
  t.ok(target.equals(Buffer.concat(wanted)))
  t.equal(await NbdClient.tryConnect(join(folder, 'nobody')), null)
})

t.test('answers to what was not asked are errors, and never memory', async (t) => {
  const answers: [string, (cookie: Buffer) => Buffer][] = [
    ['more data', (cookie) => chunk(cookie, 1, dataAt(0, Buffer.alloc(8192)))],
    ['data before', (cookie) => chunk(cookie, 1, dataAt(2 ** 40, Buffer.alloc(10)))],
    ['a huge hole', (cookie) => chunk(cookie, 2, dataAt(0, Buffer.alloc(4, 255)))],
    ['too little', (cookie) => chunk(cookie, 1, dataAt(0, Buffer.alloc(10)))],
    ['a status', (cookie) => chunk(cookie, 5, Buffer.alloc(12))],
    ['an unknown chunk', (cookie) => chunk(cookie, 77, Buffer.alloc(4))],
    ['another cookie', () => chunk(Buffer.alloc(8, 5), 1, dataAt(0, Buffer.alloc(4096)))],
    ['an error', (cookie) => chunk(cookie, 32769, Buffer.from([0, 0, 0, 5, 255, 255, 65]))],
    ['noise', () => Buffer.alloc(64, 0xaa)],
  ]
  for (const [what, answer] of answers) {
    const failing = withClient(
      (request) => answer(request.subarray(8, 16)),
      (client) => client.read(0, Buffer.alloc(4096)),
    )
    await t.rejects(failing, { code: 'io' }, what)
  }
  const empty = (request: Buffer): Buffer => chunk(request.subarray(8, 16), 5, Buffer.alloc(12))
  const asking = withClient(empty, (client) => client.extents(0, 4096))
  await t.rejects(asking, { code: 'io' }, 'an extent of nothing')
})

/** A disk in memory, its extents in sectors; nothing may be read of what is a hole. */
class MemoryReader implements ImageReader {
  readonly content: Buffer
  readonly list: ImageExtent[]

  constructor(list: ImageExtent[]) {
    this.list = list
    const parts = list.map(({ lengthBytes, zero }) => Buffer.alloc(lengthBytes, zero ? 0 : 7))
    this.content = Buffer.concat(parts)
  }

  get sizeBytes(): number {
    return this.content.length
  }

  async read(offsetBytes: number, target: Uint8Array): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 2))
    target.set(this.content.subarray(offsetBytes, offsetBytes + target.length))
  }

  extents(offsetBytes: number, lengthBytes: number): Promise<ImageExtent[]> {
    let at = 0
    for (const { lengthBytes: length, zero } of this.list) {
      const end = Math.min(at + length, offsetBytes + lengthBytes)
      if (end > offsetBytes) return Promise.resolve([{ lengthBytes: end - offsetBytes, zero }])
      at += length
    }
    throw new Error('past the end')
  }
}

t.test('extents of any sectors come out as whole blocks in order', async () => {
  const extent = fc.record({
    lengthBytes: fc
      .oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 6000 }))
      .map((sectors) => sectors * 512),
    zero: fc.boolean(),
  })
  const lists = fc.array(extent, { minLength: 1, maxLength: 12 })
  await fc.assert(
    fc.asyncProperty(lists, async (list) => {
      const reader = new MemoryReader(list)
      const paddedBytes = Math.ceil(reader.sizeBytes / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
      const content = Buffer.alloc(paddedBytes)
      let endBytes = 0
      const write = (offset: number, bytes: Uint8Array): Promise<void> => {
        if (offset < endBytes || offset % BLOCK_SIZE_BYTES !== 0) throw new Error('not in order')
        if (bytes.length % BLOCK_SIZE_BYTES !== 0) throw new Error('not whole blocks')
        content.set(bytes, offset)
        endBytes = offset + bytes.length
        return Promise.resolve()
      }
      const dataBytes = await importNbd(reader, { write }, {})
      const wantedBytes = list.reduce((sum, one) => sum + (one.zero ? 0 : one.lengthBytes), 0)
      const isLean = dataBytes <= wantedBytes + list.length * 2 * BLOCK_SIZE_BYTES
      return isLean && content.subarray(0, reader.sizeBytes).equals(reader.content)
    }),
    { numRuns: 60 },
  )
})

t.test("an image's own table tells its holes", async (t) => {
  const reader = new MemoryReader([{ lengthBytes: 5 * 1048576, zero: false }])
  const map = { blockBytes: 1048576, bits: new Uint8Array([0b10110]) }
  const mapped = new MappedReader(reader, map)
  const places: [number, number][] = []
  const write = (offset: number, bytes: Uint8Array): Promise<void> => {
    places.push([offset, bytes.length])
    return Promise.resolve()
  }
  t.equal(await importNbd(mapped, { write }, {}), 3 * 1048576)
  t.strictSame(
    places.map(([offset]) => offset / 1048576),
    [1, 2, 4],
  )
})
