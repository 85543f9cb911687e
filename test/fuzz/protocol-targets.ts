/** What clients, other programs and people send: options, requests, documents, names, sizes. */
import { InvalidArgumentError } from 'commander'
import { decodeFrames, encodeFrameHeader, encodeJsonFrame } from '../../src/api/frames.ts'
import { STREAMING_OPERATIONS, UNARY_OPERATIONS } from '../../src/api/operations.ts'
import { decodeError, encodeError } from '../../src/api/wire-error.ts'
import { VarveError } from '../../src/base/errors.ts'
import { parseMountTable } from '../../src/base/mount-table.ts'
import { VOLUME_SIZE_BYTES_MAX, formatSize, tryParseSize } from '../../src/base/units.ts'
import { parseLabel, parsePercent, parseSeconds, parseSize } from '../../src/cli/arguments.ts'
import { parseTcpAddress } from '../../src/cli/arguments.ts'
import { Handshake } from '../../src/export/nbd/handshake.ts'
import {
  tryDecodeContextRequest,
  tryDecodeInfoRequest,
  tryDecodeString,
} from '../../src/export/nbd/option-data.ts'
import { Request, decodeRequest, judgeRequest } from '../../src/export/nbd/request.ts'
import type { ExportDirectory } from '../../src/export/target.ts'
import { chooseFilesystem, parseContents, parsePartitions } from '../../src/host/partitions.ts'
import { splitPath } from '../../src/image/rootfs/raw-path.ts'
import { BuddyArena } from '../../src/io/buddy-arena.ts'
import { mustParseDiskName, verifyTag } from '../../src/pool/names.ts'
import { MemoryTarget } from '../support/memory-target.ts'
import { contextData, infoData, option, u32 } from '../unit/export/nbd-codec.ts'
import type { FuzzTarget } from './target.ts'
import { judge } from './target.ts'

const arena = new BuddyArena(Buffer.alloc(2 ** 20))
const SIZE_BYTES = 2 ** 20
const disk = new MemoryTarget({ arena, name: 'd', sizeBytes: SIZE_BYTES, snapshots: ['s'] })

const directory: ExportDirectory = {
  list: () => [{ name: 'd', sizeBytes: SIZE_BYTES, readOnly: false }],
  open: (name) => (name === 'd' ? disk : null),
}

const optionData: FuzzTarget = {
  name: 'nbd-option-data',
  sizeBytesMax: 8192,
  seeds: () => [
    infoData('d', [0, 1, 3]),
    contextData('d', ['base:allocation', 'varve:changed-since/s']),
    Buffer.from('name'),
  ],
  run(input) {
    const data = Buffer.from(input.buffer, input.byteOffset, input.length)
    const info = tryDecodeInfoRequest(data)
    if (info !== null) judge(info.infos.length <= data.length / 2, 'as many as there are')
    const contexts = tryDecodeContextRequest(data)
    if (contexts !== null) judge(contexts.queries.length <= data.length / 4, 'no more than fit')
    tryDecodeString(data)
  },
}

/** The first byte says into what pieces the rest is cut. */
const handshake: FuzzTarget = {
  name: 'nbd-handshake',
  sizeBytesMax: 16384,
  seeds: () => {
    const contexts = option(10, contextData('d', ['base:allocation', 'varve:changed-since/s']))
    const options = [option(8), contexts, option(3), option(6, infoData('d', [3])), option(5)]
    const go = option(7, infoData('d', [0, 1]))
    const all = Buffer.concat([Buffer.from([40]), u32(3), ...options, go])
    const old = Buffer.concat([Buffer.from([200]), u32(1), option(1, Buffer.from('d'))])
    return [all, old, Buffer.concat([Buffer.from([1]), u32(3), option(9), option(2)])]
  },
  run(input) {
    const tls = (['none', 'offered', 'required', 'secured'] as const)[(input[0] ?? 0) >> 6]
    const core = new Handshake({ directory, client: 'fuzz', tls })
    const pieceBytes = ((input[0] ?? 0) & 63) + 1
    for (let at = 1; at < input.length && core.outcome === null;) {
      const piece = input.subarray(at, at + pieceBytes)
      const taken = core.consume(piece)
      judge(taken > 0 && taken <= piece.length, 'the core goes on')
      judge(core.takeOutput().length <= 2 ** 20, 'an answer is no flood')
      at += taken
    }
  },
}

const request: FuzzTarget = {
  name: 'nbd-request',
  sizeBytesMax: 64,
  seeds: () =>
    [0, 1, 2, 3, 4, 5, 6, 7].map((type) => {
      const bytes = Buffer.alloc(30)
      bytes.writeUInt32BE(0x25609513)
      bytes.writeUInt16BE(type, 6)
      bytes.writeUInt32BE(4096, 24)
      return bytes
    }),
  run(input) {
    const bytes = new Uint8Array(30)
    bytes.set(input.subarray(0, 30))
    const one = new Request()
    if (!decodeRequest(new DataView(bytes.buffer), 0, one)) return
    const rules = { isStructured: (bytes[28] & 1) !== 0, contextCount: bytes[29] & 1 }
    if (judgeRequest(one, disk, rules) !== 0) return
    judge(one.offsetBytes + one.lengthBytes <= SIZE_BYTES, 'a range lies in its disk')
  },
}

interface Schema {
  safeParse(value: unknown): unknown
}

const UNARY = Object.values(UNARY_OPERATIONS) as { request: Schema; result: Schema }[]
const STREAMING = Object.values(STREAMING_OPERATIONS) as Record<
  'request' | 'progress' | 'result',
  Schema
>[]
const SCHEMAS: readonly Schema[] = [
  ...UNARY.flatMap(({ request: asked, result }) => [asked, result]),
  ...STREAMING.flatMap(({ request: asked, progress, result }) => [asked, progress, result]),
]

const DOCUMENTS: readonly unknown[] = [
  { name: 'a', sizeBytes: 4096, labels: { k: 'v' } },
  { names: ['a@s', 'b@s'] },
  { source: 'a@s', names: ['c'] },
  { from: 'a', to: 'b' },
  { name: 'a@s', tag: 't' },
  { isPaused: null },
  { name: 'a', path: '/tmp/x', format: 'qcow2', readOnly: true, force: false },
  { code: 'no-space', message: 'full', hint: 'h', details: { a: 1 }, errno: 28 },
]

/** The first byte names a schema. */
const document: FuzzTarget = {
  name: 'api-document',
  sizeBytesMax: 4096,
  seeds: () =>
    DOCUMENTS.flatMap((one, i) =>
      [0, 7, 16, 33].map((first) =>
        Buffer.concat([Buffer.from([first + 3 * i]), Buffer.from(JSON.stringify(one))]),
      ),
    ),
  run(input) {
    let value: unknown
    try {
      value = JSON.parse(Buffer.from(input.subarray(1)).toString())
    } catch {
      return
    }
    for (let i = 0; i < SCHEMAS.length; i += 1) {
      if (i % 8 === (input[0] ?? 0) % 8) SCHEMAS[i].safeParse(value)
    }
    const error = decodeError(value)
    const wire = encodeError(error)
    judge(!(error instanceof VarveError) || wire.code === error.code, 'an error stays itself')
  },
}

async function* cut(input: Uint8Array, pieceBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < input.length; at += pieceBytes) {
    yield await Promise.resolve(input.subarray(at, at + pieceBytes))
  }
}

const frames: FuzzTarget = {
  name: 'api-frames',
  sizeBytesMax: 4096,
  seeds: () => [
    Buffer.concat([
      Buffer.from([9]),
      encodeJsonFrame({ zeros: 4096 }),
      encodeFrameHeader(1, 5),
      Buffer.from('12345'),
      encodeJsonFrame({ kind: 'result', result: null }),
    ]),
  ],
  async run(input) {
    let payloadBytes = 0
    for await (const { payload } of decodeFrames(cut(input.subarray(1), (input[0] ?? 0) + 1))) {
      payloadBytes += payload.length
    }
    judge(payloadBytes <= input.length, 'no bytes but those that came')
  },
}

/** What commander calls for arguments; a usage error is an answer. */
function parsed<T>(parse: (text: string) => T, text: string): T | null {
  try {
    return parse(text)
  } catch (error) {
    if (error instanceof InvalidArgumentError) return null
    throw error
  }
}

function answered<T>(parse: (text: string) => T, text: string): T | null {
  try {
    return parse(text)
  } catch (error) {
    if (error instanceof VarveError) return null
    throw error
  }
}

const words: FuzzTarget = {
  name: 'words',
  sizeBytesMax: 512,
  seeds: () =>
    [
      '10GiB',
      '1.5K',
      '4096',
      '85%',
      '127.0.0.1:10809',
      '[::1]:1',
      'owner=alice',
      'web1@monday',
      'a/b/../c',
      '256TiB',
      '1e3',
      '0x10',
      '1 KB',
    ].map((text) => Buffer.from(text)),
  run(input) {
    const text = Buffer.from(input).toString()
    const size = tryParseSize(text)
    if (size !== null) judge(Number.isSafeInteger(size) && size >= 0, 'a size is whole')
    if (size !== null && size <= VOLUME_SIZE_BYTES_MAX) formatSize(size)
    const percent = parsed(parsePercent, text)
    judge(percent === null || (percent >= 1 && percent <= 99), 'a percentage')
    parsed(parseSize, text)
    parsed(parseSeconds, text)
    parsed(parseLabel, text)
    const address = parsed(parseTcpAddress, text)
    judge(address === null || (address.port >= 0 && address.port <= 65535), 'a port')
    const name = answered(mustParseDiskName, text)
    judge(name === null || !/[/\0\n]/.test(name.volume + (name.snapshot ?? '')), 'a name, no path')
    answered(verifyTag, text)
    const path = answered(splitPath, Buffer.from(input).toString('latin1'))
    for (const part of path ?? []) {
      judge(part !== '..' && part !== '' && !/[/\0]/.test(part), 'a part of a path')
    }
  },
}

const MOUNTS =
  '36 35 98:0 /mnt1 /mnt2\\040x rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n' +
  '99 1 0:30 / /m rw - fuse.varve varve rw\n'
const PARTITIONS =
  'NR="1" START="2048" SECTORS="8192" SIZE="4194304" ' +
  'TYPE="4f68bce3-e8cd-4db1-96e7-fbcaf984b709" NAME="root \\"a\\""\n'

/** Output of programs of the host, and tables of the kernel. */
const host: FuzzTarget = {
  name: 'host-output',
  sizeBytesMax: 2048,
  seeds: () =>
    [MOUNTS, PARTITIONS, 'TYPE=ext4\nUSAGE=filesystem\nPTTYPE=gpt\n'].map((text) =>
      Buffer.from(text),
    ),
  run(input) {
    const text = Buffer.from(input).toString()
    const contents = parseContents(text)
    const partitions = parsePartitions(text).map((one) => ({ ...one, contents }))
    answered(() => chooseFilesystem('d', contents, partitions, null), '')
    parseMountTable(text)
  },
}

export const TARGETS: readonly FuzzTarget[] = [
  optionData,
  handshake,
  request,
  document,
  frames,
  words,
  host,
]
