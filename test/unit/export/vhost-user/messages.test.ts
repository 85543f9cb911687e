/** What a front end says: messages cut anywhere, memory that lies, the order of things. */
import fc from 'fast-check'
import t from 'tap'
import { PlainMapping } from '../../../support/plain-mapping.ts'
import { must } from '../../../../src/base/assert.ts'
import {
  F_PROTOCOL_FEATURES,
  F_VERSION_1,
  PROTOCOL_FEATURES,
  deviceFeatures,
} from '../../../../src/export/vhost-user/features.ts'
import { MemoryMap, judgeRegions } from '../../../../src/export/vhost-user/memory-map.ts'
import type { Message, Region } from '../../../../src/export/vhost-user/message.ts'
import {
  HEADER_BYTES,
  MessageReader,
  REQUESTS,
  Request,
  encodeReply,
  encodeRequest,
  encodeUint64,
} from '../../../../src/export/vhost-user/message.ts'
import type { SessionHost } from '../../../../src/export/vhost-user/session.ts'
import { Session } from '../../../../src/export/vhost-user/session.ts'
import { encodeConfig } from '../../../../src/export/vhost-user/config.ts'

function state(index: number, value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(index, value).buffer)
}

function region(guestAddress: number, sizeBytes: number, userAddress = guestAddress): Region {
  return { guestAddress, sizeBytes, userAddress, fileOffset: 0 }
}

/** Feeds `bytes` in pieces; what came out. */
function read(bytes: Uint8Array, cuts: readonly number[], fds: number[]): (Message | string)[] {
  const reader = new MessageReader()
  const found: (Message | string)[] = []
  let at = 0
  for (let step = 0; at < bytes.length; step += 1) {
    const cut = cuts.length === 0 ? bytes.length : cuts[step % cuts.length]
    const count = Math.min(cut, bytes.length - at, reader.wantedBytes)
    reader.buffer.set(bytes.subarray(at, at + count), reader.filledBytes)
    at += count
    const message = reader.received(count, fds.splice(0))
    if (message !== null) found.push(message)
    if (typeof message === 'string') break
  }
  return found
}

t.test('messages are the same wherever they are cut', (t) => {
  const bytes = Buffer.concat([
    encodeRequest(Request.GET_FEATURES, new Uint8Array(0)),
    encodeRequest(Request.SET_FEATURES, encodeUint64(5n), true),
    encodeRequest(Request.SET_VRING_NUM, state(1, 64)),
  ])
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 5 }), (cuts) => {
      const found = read(bytes, cuts, []) as Message[]
      t.same(
        found.map(({ request, needsReply, payload }) => [request, needsReply, payload.byteLength]),
        [
          [Request.GET_FEATURES, false, 0],
          [Request.SET_FEATURES, true, 8],
          [Request.SET_VRING_NUM, false, 8],
        ],
      )
    }),
  )
  t.end()
})

t.test('messages that cannot be right end the connection', (t) => {
  const wrong = encodeRequest(Request.GET_FEATURES, new Uint8Array(0))
  wrong[4] = 2
  t.match(read(wrong, [], [])[0], /version 2/)
  t.match(read(encodeReply(1, new Uint8Array(0)), [], [])[0], /reply to nothing/)
  const long = encodeRequest(1, new Uint8Array(0))
  new DataView(long.buffer).setUint32(8, 0xffff_ffff, true)
  t.match(read(long, [], [])[0], /4294967295 bytes/)
  for (const [number, { name, payload, descriptors }] of Object.entries(REQUESTS)) {
    const tooLong = encodeRequest(Number(number), new Uint8Array(payload[1] + 1))
    t.type(read(tooLong, [], [])[0], 'string', `${name} with a byte too many`)
    if (payload[0] > 0) {
      const tooShort = encodeRequest(Number(number), new Uint8Array(payload[0] - 1))
      t.type(read(tooShort, [], [])[0], 'string', `${name} with a byte too few`)
    }
    const fds = Array.from({ length: descriptors[1] + 1 }, (_, index) => 100 + index)
    const crowded = encodeRequest(Number(number), new Uint8Array(payload[0]))
    t.type(read(crowded, [], fds)[0], 'string', `${name} with a descriptor too many`)
  }
  t.end()
})

t.test('descriptors of a message that never became whole can be had back', (t) => {
  const reader = new MessageReader()
  const bytes = encodeRequest(Request.SET_MEM_TABLE, new Uint8Array(40))
  reader.buffer.set(bytes.subarray(0, HEADER_BYTES))
  t.equal(reader.received(HEADER_BYTES, [7, 8]), null)
  t.same(reader.abandon(), [7, 8])
  t.same(reader.abandon(), [])
  t.end()
})

t.test('regions that lie are refused', (t) => {
  const page = 4096
  t.equal(judgeRegions([region(0, page), region(page, page)]), null)
  t.match(judgeRegions([region(0, 0)]), /no memory/)
  t.match(judgeRegions([region(2 ** 53 - page, 2 * page)]), /beyond/)
  t.match(judgeRegions([region(12, page)]), /within a page/)
  t.match(judgeRegions([region(0, 2 * page), region(page, page, 2 ** 40)]), /in the guest/)
  t.match(judgeRegions([region(0, 2 * page), region(2 ** 40, page, page)]), /in the front end/)
  const many = Array.from({ length: 33 }, (_, index) => region(index * page, page))
  t.match(judgeRegions(many), /33 regions/)
  t.end()
})

t.test('a range is cut into pieces that are its memory, or refused', (t) => {
  const page = 4096
  const sizes = [3 * page, page, 2 * page]
  // The second follows the first at once, the third does not.
  const starts = [page, 4 * page, 7 * page]
  const regions = sizes.map((sizeBytes, index) => {
    const window = new ArrayBuffer(sizeBytes)
    const bytes = new Uint8Array(window)
    for (let at = 0; at < sizeBytes; at += 1) bytes[at] = ((starts[index] + at) / 7) & 0xff
    return { ...region(starts[index], sizeBytes), mapping: new PlainMapping(window) }
  })
  const map = new MemoryMap(regions)
  fc.assert(
    fc.property(fc.nat(10 * page), fc.nat(10 * page), (address, lengthBytes) => {
      const found: number[] = []
      const isMemory = (at: number): boolean =>
        regions.some(({ guestAddress: start, sizeBytes }) => at >= start && at < start + sizeBytes)
      let isWhole = true
      for (let at = address; at < address + lengthBytes; at += 1) isWhole &&= isMemory(at)
      const isCut = map.cut(address, lengthBytes, {
        take: (index, offset, count) => {
          const bytes = new Uint8Array(count)
          map.at(index).read(offset, bytes, 0, count)
          found.push(...bytes)
          return true
        },
      })
      if (isCut !== isWhole) return false
      if (!isCut) return true
      return (
        found.length === lengthBytes &&
        found.every((value, index) => value === (((address + index) / 7) & 0xff))
      )
    }),
    { numRuns: 300 },
  )
  t.equal(map.tryRange(3 * page, 2 * page), null, 'a ring lies in one region')
  t.equal(must(map.tryRange(3 * page, page), 'a range').byteLength, page)
  t.equal(map.tryRange(0, 1), null)
  t.end()
})

/** A host that writes down what it is told. */
class Recorder implements SessionHost {
  readonly told: unknown[][] = []
  readonly sent: DataView[] = []
  readonly closed: number[] = []
  failure: string | null = null
  config = encodeConfig({ sizeBytes: 1 << 20, queueCount: 2, isWriteback: true })

  #note(...words: unknown[]): string | null {
    this.told.push(words)
    return this.failure
  }

  send(message: Uint8Array): string | null {
    this.sent.push(new DataView(message.buffer, message.byteOffset, message.byteLength))
    return null
  }
  closeDescriptors(descriptors: readonly number[]): void {
    this.closed.push(...descriptors)
  }
  setRegions(regions: readonly Region[], descriptors: readonly number[]): string | null {
    return this.#note('regions', regions.length, ...descriptors)
  }
  addRegion(_region: Region, descriptor: number): string | null {
    return this.#note('add', descriptor)
  }
  removeRegion(): string | null {
    return this.#note('remove')
  }
  setEvent(queue: number, event: string, descriptor: number | null): string | null {
    return this.#note(event, queue, descriptor)
  }
  startRing(queue: number): string | null {
    return this.#note('start', queue)
  }
  stopRing(queue: number): number {
    this.#note('stop', queue)
    return 77
  }
  enableRing(queue: number, isEnabled: boolean): void {
    this.#note('enable', queue, isEnabled)
  }
  writeConfig(offset: number): boolean {
    return offset === 32
  }
  setBackendChannel(descriptor: number): string | null {
    return this.#note('channel', descriptor)
  }
  createInflight(): { sizeBytes: number; descriptor: number } {
    return { sizeBytes: 4096, descriptor: 9 }
  }
  setInflight(_request: unknown, descriptor: number): string | null {
    return this.#note('inflight', descriptor)
  }
  reset(): void {
    this.#note('reset')
  }
}

interface Rig {
  host: Recorder
  session: Session
  say: (request: number, payload?: Uint8Array, fds?: number[], isAsked?: boolean) => string | null
}

function rig(features = F_VERSION_1 | F_PROTOCOL_FEATURES): Rig {
  const host = new Recorder()
  const session = new Session(host, { features: deviceFeatures(false), queueCountMax: 2 })
  const say: Rig['say'] = (request, payload = new Uint8Array(0), fds = [], isAsked = false) =>
    session.handle({
      request,
      needsReply: isAsked,
      payload: new DataView(payload.buffer, payload.byteOffset, payload.byteLength),
      descriptors: fds,
    })
  t.equal(say(Request.SET_PROTOCOL_FEATURES, encodeUint64(PROTOCOL_FEATURES)), null)
  t.equal(say(Request.SET_FEATURES, encodeUint64(features)), null)
  return { host, session, say }
}

function startRing({ say }: Rig, index: number): void {
  t.equal(say(Request.SET_VRING_NUM, state(index, 64)), null)
  t.equal(say(Request.SET_VRING_BASE, state(index, 5)), null)
  const addresses = new Uint8Array(40)
  addresses[0] = index
  t.equal(say(Request.SET_VRING_ADDR, addresses), null)
  t.equal(say(Request.SET_VRING_KICK, encodeUint64(BigInt(index)), [11]), null)
}

t.test('a ring starts with its kick, is enabled, and says where it stands', (t) => {
  const one = rig()
  startRing(one, 1)
  t.equal(one.say(Request.SET_VRING_ENABLE, state(1, 1)), null)
  t.same(one.host.told, [
    ['kick', 1, 11],
    ['start', 1],
    ['enable', 1, true],
  ])
  t.equal(one.say(Request.GET_VRING_BASE, state(1, 0)), null)
  t.equal(one.host.sent.at(-1)?.getUint32(HEADER_BYTES + 4, true), 77)
  t.equal(one.say(Request.GET_VRING_BASE, state(1, 0)), null, 'it stands where it stood')
  t.equal(one.host.told.filter(([word]) => word === 'stop').length, 1)
  t.end()
})

t.test('without features of the protocol a ring is enabled from the start', (t) => {
  const one = rig(F_VERSION_1)
  startRing(one, 0)
  t.same(one.host.told.at(-1), ['enable', 0, true])
  t.end()
})

t.test('what cannot be done ends the connection, and descriptors are closed', (t) => {
  const one = rig()
  const { say, host } = one
  t.match(say(Request.SET_FEATURES, encodeUint64(1n << 60n)), /not offered/)
  t.match(say(Request.SET_PROTOCOL_FEATURES, encodeUint64(1n << 60n)), /not offered/)
  t.match(say(Request.SET_VRING_NUM, state(2, 64)), /there is not/)
  t.match(say(Request.SET_VRING_NUM, state(0, 0)), /0 descriptors/)
  t.match(say(Request.SET_VRING_NUM, state(0, 2048)), /2048 descriptors/)
  t.match(say(Request.SET_VRING_KICK, encodeUint64(0n), [21]), /too little/)
  t.match(say(Request.SET_VRING_KICK, encodeUint64(2n), [22]), /there is not/)
  t.match(say(Request.SET_VRING_KICK, encodeUint64(0x100n)), /without kicks/)
  t.match(say(Request.SET_VRING_CALL, encodeUint64(0n)), /without its descriptor/)
  t.match(say(Request.SET_MEM_TABLE, new Uint8Array(8), [23, 24]), /belong together/)
  t.match(say(Request.SET_CONFIG, new Uint8Array(13), []), /what follows/)
  t.same(host.closed, [22, 23, 24])
  startRing(one, 0)
  t.match(say(Request.SET_VRING_NUM, state(0, 128)), /at work/)
  t.match(say(Request.SET_VRING_BASE, state(0, 1)), /at work/)
  t.match(say(Request.SET_FEATURES, encodeUint64(F_VERSION_1)), /at work/)
  t.end()
})

t.test('whoever asks for an acknowledgement gets one, of failure too', (t) => {
  const { say, host } = rig()
  t.equal(say(Request.SET_OWNER, undefined, [], true), null)
  t.equal(host.sent.at(-1)?.getUint32(HEADER_BYTES, true), 0)
  host.failure = 'no'
  t.match(say(Request.SET_MEM_TABLE, new Uint8Array(8), [], true), /no/)
  t.equal(host.sent.at(-1)?.getUint32(HEADER_BYTES, true), 1)
  t.equal(say(99, undefined, [31], true), null, 'who is told can do without')
  t.equal(host.sent.at(-1)?.getUint32(HEADER_BYTES, true), 1)
  t.match(say(99, undefined, [32]), /does not know/)
  t.same(host.closed, [31, 32])
  t.end()
})

t.test('the configuration is read in part, and not beyond its end', (t) => {
  const { say, host } = rig()
  const ask = (offset: number, size: number): number => {
    const payload = new Uint8Array(12 + 60)
    const view = new DataView(payload.buffer)
    view.setUint32(0, offset, true)
    view.setUint32(4, size, true)
    t.equal(say(Request.GET_CONFIG, payload), null)
    return must(host.sent.at(-1), 'an answer').byteLength - HEADER_BYTES
  }
  t.equal(ask(0, 60), 72)
  t.equal(host.sent.at(-1)?.getUint32(HEADER_BYTES + 12, true), 2048, 'sectors')
  t.equal(ask(0, 256), 268)
  t.equal(ask(0, 257), 0)
  t.equal(ask(0xffff_ffff, 0xffff_ffff), 0)
  t.end()
})

t.test('a reset stops every ring and forgets where it stood', (t) => {
  const one = rig()
  startRing(one, 0)
  t.equal(one.say(Request.SET_STATUS, encodeUint64(0n)), null)
  t.ok(one.host.told.some(([word, queue]) => word === 'stop' && queue === 0))
  t.ok(one.host.told.some(([word]) => word === 'reset'))
  t.equal(one.say(Request.GET_VRING_BASE, state(0, 0)), null)
  t.equal(one.host.sent.at(-1)?.getUint32(HEADER_BYTES + 4, true), 0)
  t.end()
})

t.test('any sequence of messages is answered or refused, never thrown on', (t) => {
  const numbers = Object.keys(REQUESTS).map(Number)
  const message = fc.record({
    request: fc.constantFrom(...numbers, 0, 99),
    bytes: fc.uint8Array({ minLength: 0, maxLength: 80 }),
    fill: fc.nat(255),
  })
  fc.assert(
    fc.property(fc.array(message, { maxLength: 20 }), (messages) => {
      const one = rig()
      for (const { request, bytes, fill } of messages) {
        const fact = REQUESTS[request] as (typeof REQUESTS)[number] | undefined
        const size = Math.max(bytes.length, fact?.payload[0] ?? 0)
        const payload = new Uint8Array(Math.min(size, fact?.payload[1] ?? size)).fill(fill & 3)
        payload.set(bytes.subarray(0, payload.length))
        const fds = Array.from({ length: fact?.descriptors[0] ?? 0 }, () => 5)
        if (one.say(request, payload, fds) !== null) return
      }
    }),
    { numRuns: 1000, seed: 9 },
  )
  t.end()
})
