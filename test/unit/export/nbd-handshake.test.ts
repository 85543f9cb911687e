import fc from 'fast-check'
import t from 'tap'
import { OperatingError } from '../../../src/base/errors.ts'
import type { HandshakeHost } from '../../../src/export/nbd/haggle.ts'
import { Handshake } from '../../../src/export/nbd/handshake.ts'
import type { ExportDirectory } from '../../../src/export/target.ts'
import { BuddyArena } from '../../../src/io/buddy-arena.ts'
import { MemoryTarget, directoryOf } from '../../support/memory-target.ts'
import type { OptionReply } from './nbd-codec.ts'
import {
  contextData,
  decodeOptionReplies,
  infoData,
  option,
  string,
  u16,
  u32,
} from './nbd-codec.ts'

const arena = new BuddyArena(Buffer.alloc(1 << 16))
const FLAGS = u32(3)
const ACK = 1
const SERVER = 2
const INFO = 3
const META = 4
const UNSUP = 0x80000001
const POLICY = 0x80000002
const INVALID = 0x80000003
const TLS_REQD = 0x80000005
const UNKNOWN = 0x80000006
const TOO_BIG = 0x80000009

function disk(name = 'vol', more: Partial<ConstructorParameters<typeof MemoryTarget>[0]> = {}) {
  return new MemoryTarget({ arena, name, sizeBytes: 1 << 20, ...more })
}

function hostOf(directory: ExportDirectory, tls: HandshakeHost['tls'] = 'none'): HandshakeHost {
  return { directory, client: 'test', tls }
}

/** Feeds `parts` until an outcome; returns everything the server said. */
function feed(handshake: Handshake, parts: readonly Buffer[]): Buffer {
  const output: Buffer[] = []
  for (const part of parts) {
    let at = 0
    while (at < part.length && handshake.outcome === null) {
      at += handshake.consume(part.subarray(at))
      output.push(handshake.takeOutput())
    }
  }
  return Buffer.concat(output)
}

function haggle(
  host: HandshakeHost,
  options: Buffer[],
): { handshake: Handshake; replies: OptionReply[] } {
  const handshake = new Handshake(host)
  return { handshake, replies: decodeOptionReplies(feed(handshake, [FLAGS, ...options])) }
}

function typesOf(replies: OptionReply[]): number[] {
  return replies.map(({ type }) => type)
}

t.test('the greeting offers fixed newstyle without zeroes', async (t) => {
  t.equal(Handshake.greeting().toString('latin1'), 'NBDMAGICIHAVEOPT\0\x03')
})

t.test('unknown client flags and a wrong magic cut the client off', async (t) => {
  const flags = new Handshake(hostOf(directoryOf(disk())))
  feed(flags, [u32(7)])
  t.equal(flags.outcome?.kind, 'close')
  const magic = new Handshake(hostOf(directoryOf(disk())))
  feed(magic, [FLAGS, Buffer.from('IHAVEOPX'), Buffer.alloc(8)])
  t.equal(magic.outcome?.kind, 'close')
})

t.test('EXPORT_NAME answers size and flags, with zeroes unless waived', async (t) => {
  const host = hostOf(directoryOf(disk()))
  for (const [flags, length] of [
    [3, 10],
    [1, 134],
    [0, 134],
  ] as const) {
    const handshake = new Handshake(host)
    const output = feed(handshake, [u32(flags), option(1, Buffer.from('vol'))])
    t.equal(output.length, length)
    t.equal(output.readBigUInt64BE(0), 1n << 20n)
    t.equal(output.readUInt16BE(8), 0xd6d, 'all features, no DF')
    t.ok(output.subarray(10).every((byte) => byte === 0))
    t.equal(handshake.outcome?.kind, 'transmit')
  }
  const unknown = new Handshake(host)
  t.equal(feed(unknown, [FLAGS, option(1, Buffer.from('nope'))]).length, 0)
  t.equal(unknown.outcome?.kind, 'close')
})

t.test('GO and INFO give the export, its name, description and block sizes', async (t) => {
  const vol = disk('vol', { readOnly: true })
  const { handshake, replies } = haggle(hostOf(directoryOf(vol)), [
    option(6, infoData('vol', [3, 1, 2, 77])),
    option(7, infoData('')),
  ])
  t.strictSame(typesOf(replies), [INFO, INFO, INFO, INFO, ACK, INFO, INFO, ACK])
  const [exported, name, description, blocks] = replies.map(({ data }) => data)
  t.equal(exported?.length, 12)
  t.equal((exported?.readUInt16BE(10) ?? 0) & 3, 3, 'read-only')
  t.equal(name?.subarray(2).toString(), 'vol')
  t.equal(description?.subarray(2).toString(), 'read-only disk, 1.00 MiB')
  t.strictSame(blocks, Buffer.concat([u16(3), u32(1), u32(4096), u32(1 << 25)]))
  t.equal(replies[6]?.data.subarray(2).toString(), 'vol', 'the default export is named')
  t.equal(vol.closeCount, 1, 'INFO leaves the disk closed')
  t.equal(handshake.outcome?.kind, 'transmit')
})

t.test('there is a default export only when there is exactly one', async (t) => {
  const { replies } = haggle(hostOf(directoryOf(disk('a'), disk('b'))), [
    option(6, infoData('')),
    option(6, infoData('c')),
    option(6, infoData('b')),
  ])
  t.strictSame(typesOf(replies), [UNKNOWN, UNKNOWN, INFO, ACK])
})

t.test('a disk that cannot be opened is refused with the reason', async (t) => {
  const directory = {
    list: () => [],
    open: () => {
      throw new OperatingError('busy', 'it is being restored')
    },
  }
  const { replies } = haggle(hostOf(directory), [option(7, infoData('x'))])
  t.strictSame(typesOf(replies), [POLICY])
  t.equal(replies[0]?.data.toString(), 'it is being restored')
})

t.test('LIST names every export; ABORT is acknowledged, whatever it carries', async (t) => {
  const { handshake, replies } = haggle(hostOf(directoryOf(disk('a'), disk('b@s'))), [
    option(3),
    option(3, Buffer.from('x')),
    option(2, Buffer.alloc(200_000)),
  ])
  t.strictSame(typesOf(replies), [SERVER, SERVER, ACK, INVALID, ACK])
  t.strictSame(replies[1]?.data, Buffer.concat([string('b@s'), Buffer.from('disk, 1.00 MiB')]))
  t.equal(handshake.outcome?.kind, 'close')
})

t.test('unknown and oversized options are skipped and answered, absurd ones end it', async (t) => {
  const { handshake, replies } = haggle(hostOf(directoryOf(disk())), [
    option(99, Buffer.alloc(500_000)),
    option(4),
    option(7, Buffer.alloc(200_000)),
    option(8),
    Buffer.concat([Buffer.from('IHAVEOPT'), u32(6), u32(0xffffffff)]),
  ])
  t.strictSame(typesOf(replies), [UNSUP, UNSUP, TOO_BIG, ACK])
  t.equal(handshake.outcome?.kind, 'close')
  const many = haggle(hostOf(directoryOf(disk())), new Array<Buffer>(200).fill(option(8)))
  t.equal(many.replies.length, 128)
  t.equal(many.handshake.outcome?.kind, 'close')
})

t.test('data that does not parse is invalid', async (t) => {
  const bad = [
    Buffer.alloc(0),
    u32(4),
    Buffer.concat([u32(0xffffffff), u16(0)]),
    Buffer.concat([string('vol'), u16(2), u16(0)]),
    Buffer.concat([string('v\0l'), u16(0)]),
    Buffer.concat([u32(2), Buffer.from([0xc3, 0x28]), u16(0)]),
    infoData('x'.repeat(4097)),
  ]
  const { replies } = haggle(
    hostOf(directoryOf(disk())),
    bad.map((data) => option(7, data)),
  )
  t.strictSame(
    typesOf(replies),
    bad.map(() => INVALID),
  )
  const badContexts = [
    u32(0),
    Buffer.concat([string('vol'), u32(0xffffffff)]),
    Buffer.concat([string('vol'), u32(1), string('no-colon')]),
    Buffer.concat([contextData('vol', ['base:']), u16(0)]),
  ]
  const contexts = haggle(hostOf(directoryOf(disk())), [
    option(8),
    ...badContexts.map((data) => option(10, data)),
    ...badContexts.map((data) => option(9, data)),
  ])
  t.strictSame(typesOf(contexts.replies), [ACK, ...new Array<number>(8).fill(INVALID)])
})

t.test('contexts are listed by name and wildcard and set by exact name', async (t) => {
  const vol = disk('vol', { snapshots: ['mon', 'tue'] })
  const list = (queries: string[]): string[] =>
    haggle(hostOf(directoryOf(vol)), [option(9, contextData('vol', queries))])
      .replies.filter(({ type }) => type === META)
      .map(({ data }) => data.subarray(4).toString())
  const all = ['base:allocation', 'varve:changed-since:mon', 'varve:changed-since:tue']
  t.strictSame(list([]), all)
  t.strictSame(list(['base:']), all.slice(0, 1))
  t.strictSame(list(['varve:']), all.slice(1))
  t.strictSame(list(['varve:changed-since:']), all.slice(1))
  t.strictSame(list(['varve:changed-since:tue', 'qemu:x', 'base:other']), all.slice(2))

  const early = haggle(hostOf(directoryOf(vol)), [option(10, contextData('vol', all))])
  t.strictSame(typesOf(early.replies), [INVALID], 'structured replies come first')
  const queries = ['base:', 'varve:changed-since:tue', 'x:y', 'base:allocation', 'base:allocation']
  const { handshake, replies } = haggle(hostOf(directoryOf(vol)), [
    option(8),
    option(10, contextData('', queries)),
    option(7, infoData('vol')),
  ])
  t.strictSame(typesOf(replies), [ACK, META, META, ACK, INFO, ACK])
  const { outcome } = handshake
  if (outcome?.kind !== 'transmit') throw new Error('not in transmission')
  t.strictSame(
    outcome.agreement.contexts.map(({ name, id }) => [name, id]),
    [
      ['varve:changed-since:tue', 1],
      ['base:allocation', 2],
    ],
  )
})

t.test('contexts are dropped by a failed, an empty, and another export’s choice', async (t) => {
  const many = new Array(17).fill(0).map((_, i) => `s${i}`)
  const directory = directoryOf(disk('a', { snapshots: many }), disk('b'))
  const set = option(10, contextData('a', ['base:allocation']))
  const tooMany = many.map((name) => `varve:changed-since:${name}`)
  for (const [between, exportName, count, type] of [
    [set, 'a', 1, ACK],
    [set, 'b', 0, ACK],
    [option(10, contextData('a', [])), 'a', 0, ACK],
    [option(10, contextData('a', tooMany)), 'a', 0, TOO_BIG],
    [option(10, contextData('c', [])), 'a', 0, UNKNOWN],
  ] as const) {
    const { handshake, replies } = haggle(hostOf(directory), [
      option(8),
      set,
      between,
      option(7, infoData(exportName)),
    ])
    const { outcome } = handshake
    if (outcome?.kind !== 'transmit') throw new Error('not in transmission')
    t.equal(outcome.agreement.contexts.length, count)
    t.ok(typesOf(replies).includes(type))
  }
})

t.test('TLS: offered, required, absent, repeated', async (t) => {
  const directory = directoryOf(disk())
  const none = haggle(hostOf(directory), [option(5)])
  t.strictSame(typesOf(none.replies), [POLICY])
  t.equal(none.handshake.outcome, null)

  const offered = haggle(hostOf(directory, 'offered'), [option(5, u16(0)), option(8), option(5)])
  t.strictSame(typesOf(offered.replies), [INVALID, ACK, ACK])
  t.equal(offered.handshake.outcome?.kind, 'start-tls')

  const required = haggle(hostOf(directory, 'required'), [
    option(3),
    option(7, infoData('vol')),
    option(99, u32(0)),
    option(5),
  ])
  t.strictSame(typesOf(required.replies), [TLS_REQD, TLS_REQD, TLS_REQD, ACK])
  const silent = haggle(hostOf(directory, 'required'), [option(1, Buffer.from('vol'))])
  t.equal(silent.replies.length, 0)
  t.equal(silent.handshake.outcome?.kind, 'close')

  const secured = new Handshake(hostOf(directory, 'secured'), { wantsZeroes: false })
  const replies = decodeOptionReplies(feed(secured, [option(5), option(7, infoData('vol'))]))
  t.strictSame(typesOf(replies), [INVALID, INFO, ACK])
  const { outcome } = secured
  t.equal(outcome?.kind === 'transmit' && outcome.agreement.isStructured, false, 'agreed anew')
})

t.test('input cut anywhere gives the same output', async (t) => {
  const script = Buffer.concat([
    FLAGS,
    option(3),
    option(99, Buffer.alloc(9)),
    option(8),
    option(9, contextData('vol', [])),
    option(10, contextData('vol', ['base:allocation'])),
    option(6, infoData('vol', [3])),
    option(7, infoData('vol', [1, 2])),
  ])
  const host = hostOf(directoryOf(disk('vol', { snapshots: ['s'] })))
  const whole = feed(new Handshake(host), [script])
  for (let cut = 1; cut < script.length; cut += 1) {
    const handshake = new Handshake(host)
    const output = feed(handshake, [script.subarray(0, cut), script.subarray(cut)])
    if (!output.equals(whole)) t.fail(`cut at ${cut}`)
    if (handshake.outcome?.kind !== 'transmit') t.fail(`no outcome, cut at ${cut}`)
  }
  const bytewise = feed(
    new Handshake(host),
    [...script].map((byte) => Buffer.from([byte])),
  )
  t.ok(bytewise.equals(whole))
})

t.test('garbage never throws and never makes it answer more than it was asked', async (t) => {
  const host = hostOf(directoryOf(disk('vol', { snapshots: ['s'] })), 'offered')
  const sane = fc
    .tuple(fc.constantFrom(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99), fc.uint8Array({ maxLength: 40 }))
    .map(([number, data]) => option(number, Buffer.from(data)))
  const named = fc
    .tuple(fc.constantFrom(6, 9, 10), fc.array(fc.string(), { maxLength: 3 }))
    .map(([number, queries]) => option(number, contextData('vol', queries)))
  const noise = fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes))
  const parts = fc.array(fc.oneof(sane, named, noise), { maxLength: 12 })
  fc.assert(
    fc.property(parts, fc.boolean(), (list, hasFlags) => {
      const output = feed(new Handshake(host), hasFlags ? [FLAGS, ...list] : list)
      return output.length <= 300 * list.length
    }),
    { numRuns: 300 },
  )
  t.pass('no exception')
})
