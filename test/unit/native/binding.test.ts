import { strict as assert } from 'node:assert'
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import fc from 'fast-check'
import { AssertionError, must } from '../../../src/base/assert.ts'
import { openWasmChecksum } from '../../../src/base/xxh64-wasm.ts'
import { bindingMissingReason, tryLoadBinding } from '../../../src/native/binding.ts'
import { seekData, seekHole } from '../../../src/native/seek.ts'

const binding = must(tryLoadBinding(), 'the addon')
const wasm = await openWasmChecksum()
const folder = mkdtempSync(join(tmpdir(), 'varve-native-'))
t.teardown(() => rmSync(folder, { recursive: true }))

t.test('the addon is loaded and says so', (t) => {
  t.equal(bindingMissingReason(), null)
  t.equal(tryLoadBinding(), binding)
  t.end()
})

t.test('known hashes: the published values for nothing and for short texts', (t) => {
  const vectors: [string, number, number][] = [
    ['', 0xef46db37, 0x51d8e999],
    ['a', 0xd24ec4f1, 0xa98c6e5b],
    ['abc', 0x44bc2cf5, 0xad770999],
  ]
  for (const [text, high, low] of vectors) {
    for (const checksum of [binding, wasm]) {
      const out = new Uint32Array(2)
      checksum.hashBytes(Buffer.from(text), 0, text.length, out, 0)
      t.strictSame([...out], [low, high], `"${text}"`)
    }
  }
  t.end()
})

t.test('addon and WebAssembly agree on every length and alignment', (t) => {
  const memory = Buffer.alloc(70_000)
  for (let index = 0; index < memory.length; index++) memory[index] = (index * 131 + 17) >>> 3
  const range = fc.record({
    offset: fc.nat(3000),
    length: fc.oneof(fc.nat(100), fc.nat(5000), fc.nat(65_000)),
    noise: fc.uint8Array({ maxLength: 64 }),
  })
  fc.assert(
    fc.property(range, ({ offset, length, noise }) => {
      memory.set(noise, offset)
      const out = new Uint32Array(6).fill(7)
      binding.hashBytes(memory, offset, length, out, 1)
      wasm.hashBytes(memory, offset, length, out, 3)
      return out[1] === out[3] && out[2] === out[4] && out[0] === 7 && out[5] === 7
    }),
    { numRuns: 600 },
  )
  t.end()
})

t.test('blocks hash alike, verify, and the first bad one is named', (t) => {
  const memory = Buffer.alloc(40 * 4096 + 100)
  for (let index = 0; index < memory.length; index++) memory[index] = (index * 7919) >>> 5
  const byAddon = new Uint32Array(90)
  const byWasm = new Uint32Array(90)
  // Eight at a time, two, and one, where the processor can; in batches of 32.
  for (const count of [1, 2, 3, 7, 8, 9, 15, 20, 31, 32, 33, 40]) {
    binding.hashBlocks(memory, 100, count, byAddon, 5)
    wasm.hashBlocks(memory, 100, count, byWasm, 5)
    t.strictSame(byAddon, byWasm)
    memory[100 + count * 4096 - 1] ^= 1
    t.equal(binding.verifyBlocks(memory, 100, count, byAddon, 5), count - 1)
    memory[100 + count * 4096 - 1] ^= 1
  }
  for (const checksum of [binding, wasm]) {
    t.equal(checksum.verifyBlocks(memory, 100, 20, byAddon, 5), -1)
    for (const bad of [0, 7, 19]) {
      memory[100 + bad * 4096 + 4095] ^= 1
      t.equal(checksum.verifyBlocks(memory, 100, 20, byAddon, 5), bad)
      memory[100 + bad * 4096 + 4095] ^= 1
    }
    t.equal(checksum.verifyBlocks(memory, 100, 0, byAddon, 5), -1, 'nothing is right')
  }
  t.end()
})

t.test('blocks of many pieces hash as one after the other', (t) => {
  const memory = Buffer.alloc(64 * 4096)
  for (let index = 0; index < memory.length; index++) memory[index] = (index * 7919) >>> 5
  const piece = fc.record({ offset: fc.nat(24 * 4096), count: fc.integer({ min: 0, max: 40 }) })
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), fc.nat(), (pieces, pick) => {
      const pairs = Uint32Array.from([
        7,
        7,
        ...pieces.flatMap(({ offset, count }) => [offset, count * 4096]),
      ])
      const total = pieces.reduce((sum, { count }) => sum + count, 0)
      const wanted = new Uint32Array(2 * total + 4)
      let at = 1
      for (const { offset, count } of pieces) {
        wasm.hashBlocks(memory, offset, count, wanted, at)
        at += 2 * count
      }
      for (const checksum of [binding, wasm]) {
        const words = new Uint32Array(2 * total + 4)
        checksum.hashPieces(memory, pairs, 1, pieces.length, words, 1)
        assert.deepEqual(words, wanted)
        assert.equal(checksum.verifyPieces(memory, pairs, 1, pieces.length, words, 1), -1)
        if (total === 0) continue
        const bad = pick % total
        words[1 + 2 * bad + (pick & 1)] ^= 1
        assert.equal(checksum.verifyPieces(memory, pairs, 1, pieces.length, words, 1), bad)
      }
    }),
    { numRuns: 200 },
  )
  t.end()
})

t.test('hashing outside the memory is refused, not done', (t) => {
  const memory = Buffer.alloc(8192)
  const out = new Uint32Array(4)
  for (const checksum of [binding, wasm]) {
    t.throws(() => checksum.hashBlocks(memory, 1, 2, out, 0))
    t.throws(() => checksum.hashBlocks(memory, 0, 2, out, 1))
    t.throws(() => checksum.hashBytes(memory, 8000, 200, out, 0))
    t.throws(() => checksum.hashBytes(memory, 0, 1, out, 3))
    t.throws(() => checksum.verifyBlocks(memory, 0, 2, out, 2))
    t.throws(() => checksum.hashPieces(memory, Uint32Array.of(4097, 4096), 0, 1, out, 0))
    t.throws(() => checksum.hashPieces(memory, Uint32Array.of(0, 4096), 0, 1, out, 3))
    t.throws(() => checksum.verifyPieces(memory, Uint32Array.of(0, 4096), 0, 1, out, 3))
  }
  t.throws(() => wasm.hashBytes(memory, 8000, 200, out, 0), AssertionError)
  t.throws(() => binding.hashPieces(memory, Uint32Array.of(0, 4096), 0, 2, out, 0), RangeError)
  t.throws(() => binding.hashPieces(memory, Uint32Array.of(0, 100), 0, 1, out, 0), RangeError)
  t.end()
})

t.test('data and holes of a sparse file are found', (t) => {
  const fd = openSync(join(folder, 'sparse'), 'w+')
  writeSync(fd, Buffer.alloc(65536, 1), 0, 65536, 1 << 20)
  ftruncateSync(fd, 4 << 20)
  t.equal(seekData(binding, fd, 0, 4 << 20), 1 << 20)
  t.equal(seekHole(binding, fd, 1 << 20), (1 << 20) + 65536)
  t.equal(seekData(binding, fd, 2 << 20, 4 << 20), 4 << 20, 'only a hole is left')
  t.equal(seekHole(binding, fd, 0), 0)
  t.equal(seekHole(binding, fd, 5 << 20), -22, 'past the end there is nothing to ask about')
  t.equal(seekData(binding, -1, 0, 0), -9)
  closeSync(fd)
  t.end()
})

t.test('failed calls answer a negative errno', async (t) => {
  t.equal(binding.listenUnix('/nonexistent/folder/socket', -1), -2)
  t.equal(binding.listenUnix(`/${'x'.repeat(200)}`, -1), -36, 'ENAMETOOLONG')
  t.equal(binding.listenTcp('not an address', 1), -22)
  t.equal(binding.closeFd(-1), -9)
  t.equal(binding.lockFile(-1), -9)
  t.equal(binding.socketPort(-1), -9)
  t.equal(binding.socketShutdown(-1), -9)
  t.equal(await binding.fallocate(-1, 0, 0, 1), -9)
  t.throws(() => binding.ringSchedule({} as never), TypeError)
})

t.test('a unix peer is known by process, user and group', async (t) => {
  const { createServer } = await import('node:net')
  const path = join(folder, 'peer')
  const peer = new Int32Array(3)
  await new Promise<void>((resolve) => {
    const server = createServer((stream) => {
      const { fd } = (stream as unknown as { _handle: { fd: number } })._handle
      t.equal(binding.peerCredentials(fd, peer), 0)
      stream.destroy()
      server.close(() => resolve())
    })
    server.listen(path, () => connect(path).on('error', () => undefined))
  })
  t.strictSame([...peer], [process.pid, process.getuid?.(), process.getgid?.()])
})
