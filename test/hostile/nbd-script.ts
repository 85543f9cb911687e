/**
 * What a hostile client says, drawn from a seed: a handshake and requests that are mostly right, so
 * that they reach deep, with numbers from the edges of every field; then some bytes are damaged.
 * The oracle reads the damaged bytes afresh, so nothing here has to know what they now mean.
 */
import type { Prng } from '../../src/base/prng.ts'
import {
  contextData,
  infoData,
  option,
  request,
  string,
  u16,
  u32,
} from '../unit/export/nbd-codec.ts'

const NAMES = ['disk', 'disk', 'disk', 'disk', 'faulty', 'fixed', 'fixed', 'fixed', '', 'nobody']
const ODD_NAMES = ['a/../disk', 'disk\0', '\u{10ffff}', 'x'.repeat(4096), 'x'.repeat(4097)]
const CONTEXTS = [
  'base:allocation',
  'varve:changed-since:old',
  'varve:changed-since:new',
  'base:',
  'varve:',
  'qemu:dirty-bitmap:x',
  ':',
  'no colon',
]
/** Where fields end, wrap or change sign. */
const LENGTHS = [
  0, 1, 511, 512, 4095, 4096, 4097, 65_535, 65_536, 65_537, 0x10_0000, 0x200_0000, 0x200_0001,
  0x400_0000, 0x400_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff,
]
const OFFSETS = [0n, 1n, 4095n, 4096n, 1n << 31n, 1n << 32n, 1n << 53n, 1n << 63n, (1n << 64n) - 1n]
const PAYLOAD_BYTES_MAX = 300_000

const READ = 0
const WRITE = 1
const DISC = 2
const FLUSH = 3
const TYPES = [READ, WRITE, FLUSH, 4, 5, 6, 7]
const WEIGHTS = [40, 30, 5, 6, 4, 6, 9]

/** Random bytes to cut payloads from: drawing each anew would be most of the work. */
const NOISE = Buffer.alloc(2 * PAYLOAD_BYTES_MAX)
for (let i = 0; i < NOISE.length; i += 1) NOISE[i] = (i * 2654435761) >>> 13

export interface Script {
  bytes: Buffer
  /** Options and requests in it, before it was damaged. */
  messageCount: number
}

export interface ScriptOptions {
  /** Of the disks that are named. */
  sizeBytes: number
  requestCountMax: number
}

export function drawScript(prng: Prng, options: ScriptOptions): Script {
  const messages: Buffer[] = [u32(prng.chance(0.98) ? prng.pick([3, 3, 3, 1]) : prng.nextU32())]
  const optionCount = prng.chance(0.01) ? prng.between(100, 200) : prng.below(6)
  for (let i = 0; i < optionCount; i += 1) messages.push(drawOption(prng))
  if (prng.chance(0.6)) messages.push(option(8))
  if (prng.chance(0.4)) messages.push(option(10, contextData('disk', drawQueries(prng))))
  if (prng.chance(0.9)) messages.push(drawChoice(prng, prng.pick(NAMES)))
  // Understood as requests if the first choice was one.
  if (prng.chance(0.2)) messages.push(drawChoice(prng, 'disk'))
  const most = prng.chance(0.2) ? options.requestCountMax : options.requestCountMax >> 2
  const requestCount = prng.chance(0.85) ? prng.below(most + 1) : 0
  const duplicates = prng.chance(0.05)
  for (let i = 0; i < requestCount; i += 1) {
    const cookie = duplicates ? BigInt(prng.below(3)) : (BigInt(prng.nextU32()) << 32n) | BigInt(i)
    messages.push(drawRequest(prng, cookie, options.sizeBytes))
  }
  if (prng.chance(0.3)) messages.push(request({ type: DISC, cookie: 0n }))
  if (prng.chance(0.05)) messages.push(slice(prng, 200))
  if (prng.chance(0.3)) damage(prng, messages)
  return { bytes: Buffer.concat(messages), messageCount: messages.length - 1 }
}

function slice(prng: Prng, lengthBytes: number): Buffer {
  const at = prng.below(NOISE.length - lengthBytes + 1)
  return NOISE.subarray(at, at + lengthBytes)
}

function drawName(prng: Prng): string {
  return prng.chance(0.95) ? prng.pick(NAMES) : prng.pick(ODD_NAMES)
}

function drawQueries(prng: Prng): string[] {
  const count = prng.chance(0.02) ? 500 : prng.below(5)
  return Array.from({ length: count }, () => prng.pick(CONTEXTS))
}

/** NBD_OPT_GO or NBD_OPT_EXPORT_NAME, which end the handshake. */
function drawChoice(prng: Prng, name: string): Buffer {
  const infos = Array.from({ length: prng.below(4) }, () => prng.below(6))
  return prng.chance(0.8) ? option(7, infoData(name, infos)) : option(1, Buffer.from(name))
}

function drawOption(prng: Prng): Buffer {
  const data = [
    (): Buffer => infoData(drawName(prng), [prng.below(5), prng.below(70_000) & 0xffff]),
    (): Buffer => contextData(drawName(prng), drawQueries(prng)),
    (): Buffer => Buffer.from(drawName(prng)),
    (): Buffer => Buffer.alloc(0),
    // Lengths and counts that are not true.
    (): Buffer => Buffer.concat([u32(prng.pick(LENGTHS)), slice(prng, 30), u16(65_535)]),
    (): Buffer => Buffer.concat([string('disk'), u32(prng.pick(LENGTHS)), string('base:')]),
    (): Buffer => slice(prng, prng.pick([1, 15, 4096, 131_072, 131_073])),
  ]
  const fitting = [3, 2, 3, 3, 3, 3, 0, 0, 3, 1, 1]
  const number = prng.chance(0.9) ? prng.pick([2, 3, 3, 5, 6, 6, 8, 9, 9, 10, 10]) : prng.nextU32()
  if (number === 2 && prng.chance(0.8)) return option(3)
  const kind = prng.chance(0.8) ? (fitting[number] ?? 3) : prng.below(data.length)
  const whole = option(number, data[kind]())
  if (prng.chance(0.03)) whole.writeUInt32BE(prng.pick(LENGTHS), 12)
  return whole
}

function drawRequest(prng: Prng, cookie: bigint, sizeBytes: number): Buffer {
  const type = prng.chance(0.98) ? TYPES[prng.weighted(WEIGHTS)] : prng.below(65_536)
  const flags = prng.chance(0.85) ? 0 : prng.chance(0.8) ? 1 << prng.below(5) : prng.below(65_536)
  if (type === FLUSH && prng.chance(0.95)) return request({ type, cookie, flags })
  let length = prng.chance(0.05) ? prng.pick(LENGTHS) : drawLength(prng)
  let offset = BigInt(prng.below(sizeBytes))
  if (prng.chance(0.9) && length <= sizeBytes) offset = BigInt(prng.below(sizeBytes - length + 1))
  if (prng.chance(0.04)) offset = prng.pick([...OFFSETS, BigInt(sizeBytes), BigInt(sizeBytes - 1)])
  // What is longer than is announced would be sent for nothing.
  if (type === WRITE && prng.chance(0.98)) length = Math.min(length, PAYLOAD_BYTES_MAX)
  const payload = type === WRITE ? slice(prng, Math.min(length, PAYLOAD_BYTES_MAX)) : undefined
  const fields = { type, cookie, flags, offset, length }
  return request(payload === undefined ? fields : { ...fields, payload })
}

function drawLength(prng: Prng): number {
  const kind = prng.weighted([60, 30, 9, 1])
  if (kind === 0) return 1 + prng.below(600)
  if (kind === 1) return 4096 * (1 + prng.below(3))
  return kind === 2 ? 1 + prng.below(20_000) : 1 + prng.below(1_500_000)
}

/** Mostly in heads, where a bit means most. */
function damage(prng: Prng, messages: Buffer[]): void {
  const count = 1 + prng.below(4)
  for (let i = 0; i < count; i += 1) {
    const at = prng.below(messages.length)
    const bytes = Buffer.from(messages[at])
    const headBytes = Math.min(bytes.length, prng.chance(0.8) ? 32 : bytes.length)
    const position = headBytes === 0 ? 0 : prng.below(headBytes)
    switch (prng.below(6)) {
      case 0:
        if (bytes.length > 0) bytes[position] ^= 1 << prng.below(8)
        messages[at] = bytes
        break
      case 1:
        if (bytes.length > 0) bytes[position] = prng.pick([0, 1, 0x7f, 0x80, 0xff])
        messages[at] = bytes
        break
      case 2:
        messages[at] = bytes.subarray(0, position)
        break
      case 3:
        messages[at] = Buffer.concat([bytes.subarray(0, position), slice(prng, 1 + prng.below(40))])
        break
      case 4:
        messages.splice(prng.below(messages.length), 0, bytes)
        break
      default:
        messages.splice(at, 1)
        if (messages.length === 0) messages.push(bytes)
    }
  }
}
