import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { must } from '../../../src/base/assert.ts'
import type { Codecs } from '../../../src/base/codec.ts'
import { Codec, FRAME_BYTES_MAX, missingCodecs } from '../../../src/base/codec.ts'
import { Prng } from '../../../src/base/prng.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../../../src/base/units.ts'
import { tryLoadBinding } from '../../../src/native/binding.ts'
import { inlineCodecs, threadedCodecs } from '../../../src/native/native-codecs.ts'

const binding = must(tryLoadBinding(), 'the addon')
const threaded = threadedCodecs(binding)
const inline = inlineCodecs(binding)
const codecs: [string, Codec][] = [
  ['lz4', Codec.lz4],
  ['zstd', Codec.zstd],
]
/** Threads of a low priority get little of a machine that is busy with other tests. */
t.setTimeout(110_000)

/** Around every range that is written; must stay as it is. */
const GUARD_BYTES = 64
const GUARD = 0xa5

type Fill = (bytes: Uint8Array, prng: Prng) => void

const noise: Fill = (bytes, prng) => prng.fill(bytes)

const text: Fill = (bytes, prng) => {
  const words = ['varve ', 'layer ', 'of ', 'sediment\n', 'segment ', 'slot ', '0123456789 ']
  for (let at = 0; at < bytes.length;) {
    const word = Buffer.from(words[prng.below(words.length)])
    at += word.copy(bytes, at)
  }
}

/** Blocks of each kind in turn, so that some frames pay and some do not. */
const mixed: Fill = (bytes, prng) => {
  const kinds = [noise, text, (block: Uint8Array) => block.fill(0)]
  for (let at = 0; at < bytes.length; at += BLOCK_SIZE_BYTES) {
    kinds[prng.below(3)](bytes.subarray(at, at + BLOCK_SIZE_BYTES), prng)
  }
}

const fills: [string, Fill][] = [
  ['zeros', (bytes) => bytes.fill(0)],
  ['noise', noise],
  ['text', text],
  ['mixed', mixed],
]

interface Frames {
  target: Uint8Array
  lengths: Uint32Array
  storedBytes: number
}

function guarded(sizeBytes: number): Uint8Array {
  return new Uint8Array(sizeBytes + 2 * GUARD_BYTES).fill(GUARD)
}

function guardsHold(memory: Uint8Array): boolean {
  const isGuard = (byte: number): boolean => byte === GUARD
  return (
    memory.subarray(0, GUARD_BYTES).every(isGuard) && memory.subarray(-GUARD_BYTES).every(isGuard)
  )
}

async function encode(
  by: Codecs,
  codec: Codec,
  source: Uint8Array,
  frameBytes: number,
): Promise<Frames> {
  const target = guarded(source.length)
  const lengths = new Uint32Array(Math.ceil(source.length / frameBytes))
  const storedBytes = await by.encode(
    codec,
    source,
    0,
    source.length,
    frameBytes,
    target,
    GUARD_BYTES,
    lengths,
  )
  return { target, lengths, storedBytes }
}

/** Of one frame, alone in exactly as many bytes as it has. */
async function encodeOne(codec: Codec, source: Uint8Array): Promise<Uint8Array> {
  const { target, storedBytes } = await encode(inline, codec, source, source.length)
  return target.slice(GUARD_BYTES, GUARD_BYTES + storedBytes)
}

/** What the frames decode to; null when one is damaged or something else was written. */
function decodeAll(
  codec: Codec,
  frames: Frames,
  rawBytes: number,
  frameBytes: number,
): Uint8Array | null {
  const memory = guarded(rawBytes)
  let at = GUARD_BYTES
  for (const [index, length] of frames.lengths.entries()) {
    const offset = index * frameBytes
    const raw = Math.min(frameBytes, rawBytes - offset)
    const to = GUARD_BYTES + offset
    if (!inline.decode(codec, frames.target, at, length, memory, to, raw)) return null
    at += length
  }
  return guardsHold(memory) ? memory.subarray(GUARD_BYTES, -GUARD_BYTES) : null
}

function decodesTo(codec: Codec, frame: Uint8Array, rawBytes: number): Uint8Array | null {
  const memory = guarded(rawBytes)
  const exact = frame.slice()
  const isWhole = inline.decode(codec, exact, 0, exact.length, memory, GUARD_BYTES, rawBytes)
  if (!guardsHold(memory)) throw new Error('the decoder wrote outside its range')
  return isWhole ? memory.subarray(GUARD_BYTES, -GUARD_BYTES) : null
}

for (const [name, codec] of [...codecs, ['raw', Codec.raw] as const]) {
  t.test(`${name}: whatever is encoded comes back, of every size and frame size`, async (t) => {
    const prng = new Prng(7)
    for (const [kind, fill] of fills) {
      for (let blocks = 1; blocks <= 16; blocks++) {
        const source = new Uint8Array(5 * BLOCK_SIZE_BYTES * (1 + prng.below(8)))
        fill(source, prng)
        const frameBytes = blocks * BLOCK_SIZE_BYTES
        const frames = await encode(threaded, codec, source, frameBytes)
        const sum = frames.lengths.reduce((total, length) => total + length, 0)
        const back = must(decodeAll(codec, frames, source.length, frameBytes), `${kind} ${blocks}`)
        t.ok(Buffer.from(source).equals(back), `${kind} in frames of ${blocks} blocks`)
        t.ok(guardsHold(frames.target), 'nothing is written outside the target')
        t.equal(frames.storedBytes, sum, 'frames lie one directly behind the other')
      }
    }
  })
}

t.test('encoding at once and on threads gives the same bytes', async (t) => {
  const source = new Uint8Array(MIB)
  mixed(source, new Prng(3))
  for (const [name, codec] of codecs) {
    const one = await encode(inline, codec, source, FRAME_BYTES_MAX)
    const other = await encode(threaded, codec, source, FRAME_BYTES_MAX)
    t.strictSame(one.lengths, other.lengths, name)
    t.ok(Buffer.from(one.target).equals(other.target), name)
  }
})

t.test('a frame that does not save a sixteenth is stored as it is', async (t) => {
  const prng = new Prng(11)
  for (const [name, codec] of codecs) {
    for (let zeroBytes = 0; zeroBytes <= 16384; zeroBytes += 512) {
      const source = new Uint8Array(FRAME_BYTES_MAX)
      noise(source, prng)
      source.fill(0, 0, zeroBytes)
      const { target, lengths, storedBytes } = await encode(inline, codec, source, source.length)
      t.equal(storedBytes, lengths[0])
      const isRaw = storedBytes === source.length
      t.ok(isRaw || storedBytes <= (source.length * 15) / 16, `${name} ${zeroBytes}`)
      if (zeroBytes <= 4096) t.ok(isRaw, 'a sixteenth is not yet saved')
      if (zeroBytes >= 5120) t.notOk(isRaw, 'more than a sixteenth is saved')
      const bytes = target.subarray(GUARD_BYTES, -GUARD_BYTES)
      if (isRaw) t.ok(Buffer.from(bytes).equals(source))
      t.ok(guardsHold(target))
    }
  }
})

t.test('a zstd frame names its size, and neither checksum nor dictionary', async (t) => {
  const source = new Uint8Array(FRAME_BYTES_MAX)
  text(source, new Prng(1))
  const frame = await encodeOne(Codec.zstd, source)
  t.strictSame([...frame.subarray(0, 4)], [0x28, 0xb5, 0x2f, 0xfd])
  t.equal(frame[4] & 0x0f, 0)
  t.equal(decodesTo(Codec.zstd, frame, FRAME_BYTES_MAX - 1), null, 'of exactly the size asked for')
  const twice = Buffer.concat([frame, frame])
  t.equal(decodesTo(Codec.zstd, twice, FRAME_BYTES_MAX), null, 'one frame, not two')
  const half = await encodeOne(Codec.zstd, source.subarray(0, FRAME_BYTES_MAX / 2))
  const halves = Buffer.concat([half, half])
  t.equal(decodesTo(Codec.zstd, halves, FRAME_BYTES_MAX), null, 'nor two that make the size')
  const skippable = Buffer.concat([Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]), frame])
  t.equal(decodesTo(Codec.zstd, skippable, FRAME_BYTES_MAX), null, 'nor a skippable one before it')
  const hash = new Uint32Array(2)
  binding.hashBytes(source, 0, source.length, hash, 0)
  const marked = Buffer.concat([frame, new Uint8Array(hash.buffer, 0, 4)])
  marked[4] |= 4
  t.equal(decodesTo(Codec.zstd, marked, FRAME_BYTES_MAX), null, 'nor one with a checksum')
})

t.test('damaged frames never crash, and write nothing outside their range', async (t) => {
  const prng = new Prng(1234)
  for (const [name, codec] of codecs) {
    let refused = 0
    for (let round = 0; round < 300; round++) {
      const source = new Uint8Array(BLOCK_SIZE_BYTES * (1 + prng.below(16)))
      ;(round % 2 === 0 ? text : mixed)(source, prng)
      const frame = await encodeOne(codec, source)
      if (frame.length === source.length) continue
      const back = must(decodesTo(codec, frame, source.length), 'an undamaged frame')
      t.ok(Buffer.from(back).equals(source))
      const cut = frame.subarray(0, 1 + prng.below(frame.length - 1))
      t.equal(decodesTo(codec, cut, source.length), null, `${name} cut to ${cut.length}`)
      for (let flips = 1; flips <= 8; flips++) {
        const flipped = frame.slice()
        for (let i = 0; i < flips; i++) flipped[prng.below(frame.length)] ^= 1 << prng.below(8)
        if (decodesTo(codec, flipped, source.length) === null) refused++
      }
      const other = BLOCK_SIZE_BYTES * (1 + prng.below(16))
      if (other !== source.length) t.equal(decodesTo(codec, frame, other), null, 'of another size')
    }
    t.ok(refused > 100, `${name}: ${refused} flipped frames were seen to be damaged`)
  }
})

t.test('random bytes of any length never crash, and write nothing outside their range', (t) => {
  const prng = new Prng(77)
  for (const [name, codec] of codecs) {
    for (let round = 0; round < 3000; round++) {
      const frame = new Uint8Array(1 + prng.below(round % 10 === 0 ? FRAME_BYTES_MAX : 300))
      noise(frame, prng)
      if (codec === Codec.zstd && frame.length > 4) frame.set([0x28, 0xb5, 0x2f, 0xfd])
      if (round % 3 === 0 && frame.length > 4) frame[4] &= 0xf0
      decodesTo(codec, frame, BLOCK_SIZE_BYTES * (1 + prng.below(16)))
    }
    t.notOk(inline.decode(codec, guarded(1), 0, 0, guarded(1), 0, 100), `${name}: no bytes`)
  }
  t.end()
})

t.test('what lies outside its memory, or overlaps it, is refused and not touched', (t) => {
  const memory = new Uint8Array(4 * FRAME_BYTES_MAX)
  const size = memory.length
  const max = FRAME_BYTES_MAX
  const decodes: [number, number, number, number][] = [
    [-1, 10, max, 4096],
    [size - 9, 10, 0, 4096],
    [0, 10, size - 4095, 4096],
    [0, max + 1, 2 * max, 4096],
    [0, 10, max, max + 1],
    [0, 10, 9, 4096],
    [NaN, 10, max, 4096],
    [0, 2 ** 53, max, 4096],
    [0.5, 10, max, 4096],
    [0, -10, max, 4096],
  ]
  for (const [from, bytes, to, raw] of decodes) {
    const call = (): unknown => binding.codecDecode(Codec.lz4, memory, from, bytes, memory, to, raw)
    t.throws(call, RangeError, `decode ${from} ${bytes} ${to} ${raw}`)
  }
  t.throws(() => binding.codecDecode(3, memory, 0, 10, memory, max, 4096), RangeError)
  t.throws(() => binding.codecDecode(1, {} as never, 0, 0, memory, max, 4096), RangeError)
  const encodes: [number, number, number, number, number][] = [
    [0, 2 * max, max, max, 2],
    [0, 2 * max, max, 2 * max, 1],
    [0, 2 * max, max + 1, 2 * max, 2],
    [0, 2 * max, 0, 2 * max, 2],
    [0, 2 * max + 1, max, 2 * max, 9],
    [size, 1, max, 0, 1],
  ]
  for (const [from, total, frame, to, room] of encodes) {
    const lengths = new Uint32Array(room)
    for (const name of ['codecEncode', 'codecEncodeInline'] as const) {
      const run = (): unknown =>
        binding[name](Codec.lz4, memory, from, total, frame, memory, to, lengths)
      t.throws(run, RangeError, `encode ${from} ${total} ${frame} ${to} ${room}`)
    }
  }
  t.ok(memory.every((byte) => byte === 0))
  t.end()
})

t.test('many encodes at once each come back right', async (t) => {
  const jobs = Array.from({ length: 200 }, async (_, index) => {
    const source = new Uint8Array(BLOCK_SIZE_BYTES * (1 + (index % 40)))
    mixed(source, new Prng(index))
    const codec = index % 2 === 0 ? Codec.lz4 : Codec.zstd
    const frames = await encode(threaded, codec, source, 32768)
    const back = must(decodeAll(codec, frames, source.length, 32768), `job ${index}`)
    return Buffer.from(source).equals(back)
  })
  t.ok((await Promise.all(jobs)).every(Boolean))
})

t.test('nothing leaks over 20,000 encodes and as many decodes', async (t) => {
  const source = new Uint8Array(BLOCK_SIZE_BYTES)
  text(source, new Prng(5))
  const back = new Uint8Array(BLOCK_SIZE_BYTES)
  const size = BLOCK_SIZE_BYTES
  const pass = async (count: number): Promise<void> => {
    for (let index = 0; index < count; index++) {
      const codec = index % 2 === 0 ? Codec.lz4 : Codec.zstd
      const target = new Uint8Array(size)
      const lengths = new Uint32Array(1)
      const stored = await threaded.encode(codec, source, 0, size, size, target, 0, lengths)
      if (!threaded.decode(codec, target, 0, stored, back, 0, size)) throw new Error('damaged')
    }
  }
  await pass(2000)
  const before = process.memoryUsage.rss()
  await pass(20_000)
  const grown = process.memoryUsage.rss() - before
  // The targets are 80 MiB, so one that were kept a call would be seen.
  t.ok(grown < 48 * MIB, `resident memory grew by ${Math.round(grown / 1024)} KiB`)
})

const compiled = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'src', 'native')
const moduleUrl = (name: string): string => JSON.stringify(pathToFileURL(join(compiled, name)))
/** For another process or thread: `start` encodes 4 MiB, which takes a while. */
const HEAD = `
  const { tryLoadBinding } = await import(${moduleUrl('binding.js')})
  const { threadedCodecs } = await import(${moduleUrl('native-codecs.js')})
  const binding = tryLoadBinding()
  const codecs = threadedCodecs(binding)
  const source = new Uint8Array(4 << 20)
  for (let i = 0; i < source.length; i++) source[i] = (i * i) >>> 9
  const start = () => codecs.encode(2, source, 0, source.length, 65536,
    new Uint8Array(source.length), 0, new Uint32Array(64))
`

/** What a process prints that must end well, whatever is pending. */
function outputOf(t: Test, script: string): string {
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', HEAD + script], {
    encoding: 'utf8',
    timeout: 60_000,
  })
  t.equal(child.signal, null, child.stderr)
  t.equal(child.status, 0, child.stderr)
  return child.stdout
}

t.test('a process may exit while encodes are pending', (t) => {
  for (let round = 0; round < 5; round++) {
    const script = `
      for (let i = 0; i < 6; i++) void start()
      setTimeout(() => process.exit(0), ${round * 7})
    `
    outputOf(t, script)
  }
  t.end()
})

t.test('a pending encode keeps the process, idle threads do not', (t) => {
  t.equal(outputOf(t, `await start(); console.log('done')`), 'done\n')
  t.equal(outputOf(t, `void start().then(() => console.log('done'))`), 'done\n')
  t.end()
})

t.test('the memory of a pending encode stays, though nobody else holds it', (t) => {
  const script = `
    const { setFlagsFromString } = await import('node:v8')
    setFlagsFromString('--expose-gc')
    const collect = (await import('node:vm')).runInNewContext('gc')
    const hidden = () => {
      const target = new Uint8Array(source.length)
      const lengths = new Uint32Array(64)
      const done = binding.codecEncode(2, source, 0, source.length, 65536, target, 0, lengths)
      return { done, target: new WeakRef(target) }
    }
    const started = [hidden(), hidden(), hidden(), hidden()]
    await new Promise(setImmediate)
    collect()
    const last = started[3].target.deref() !== undefined
    await Promise.all(started.map(({ done }) => done))
    await new Promise(setImmediate)
    collect()
    console.log(last, started.some(({ target }) => target.deref() !== undefined))
  `
  t.equal(outputOf(t, script), 'true false\n', 'and goes afterwards')
  t.end()
})

t.test('a worker may be ended while its encodes are pending', (t) => {
  const body = `${HEAD}
    for (let i = 0; i < 6; i++) void start()
    const { parentPort } = await import('node:worker_threads')
    parentPort.postMessage(0)
  `
  const script = `
    const { Worker } = await import('node:worker_threads')
    for (let round = 0; round < 8; round++) {
      const worker = new Worker(${JSON.stringify(body)}, { eval: true })
      await new Promise((resolve) => worker.once('message', resolve))
      await new Promise((resolve) => setTimeout(resolve, round * 5))
      await worker.terminate()
    }
    await start()
    console.log('ended')
  `
  t.equal(outputOf(t, script), 'ended\n')
  t.end()
})

t.test(
  'without the addon all is stored raw, and what is compressed says what is missing',
  async (t) => {
    const missing = missingCodecs()
    const source = new Uint8Array(3 * BLOCK_SIZE_BYTES)
    text(source, new Prng(2))
    const frames = await encode(missing, Codec.zstd, source, 2 * BLOCK_SIZE_BYTES)
    t.strictSame([...frames.lengths], [2 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES])
    t.equal(frames.storedBytes, source.length)
    const back = new Uint8Array(source.length)
    const size = source.length
    t.ok(missing.decode(Codec.lz4, frames.target, GUARD_BYTES, size, back, 0, size))
    t.strictSame(back, source)
    const refusal = { name: 'OperatingError', code: 'unsupported', hint: /build-native/ }
    t.throws(() => missing.decode(Codec.lz4, source, 0, 10, back, 0, size), refusal)
    t.notOk(missing.decode(Codec.raw, source, 0, 10, back, 0, size))
  },
)
