/** A sample of what no kernel should say, and what it is not allowed to leave behind. */
import t from 'tap'
import { must } from '../../src/base/assert.ts'
import { MIB } from '../../src/base/units.ts'
import {
  IN,
  IN_BYTES,
  OPEN_IN,
  OPEN_OUT,
  Opcode,
  RANGE_IN,
  RELEASE_IN,
} from '../../src/export/fuse/abi.ts'
import { VOLUMES_NODE, diskNode } from '../../src/export/fuse/nodes.ts'
import { FuseDevice } from './fuse-device.ts'
import { fuzzFuse } from './fuse-fuzz.ts'

const memory = Buffer.alloc(96 * MIB)
const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

function messageOf(opcode: number, node: number, args: Buffer): Buffer {
  const message = Buffer.alloc(IN_BYTES + args.length)
  message.writeUInt32LE(message.length, IN.len)
  message.writeUInt32LE(opcode, IN.opcode)
  message.writeUInt32LE(node, IN.nodeid)
  args.copy(message, IN_BYTES)
  return message
}

function writableFlags(): Buffer {
  const args = Buffer.alloc(OPEN_IN.endOffset)
  args.writeUInt32LE(2, OPEN_IN.flags)
  return args
}

async function open(device: FuseDevice, node: number): Promise<number> {
  const reply = must(await device.ask(messageOf(Opcode.OPEN, node, writableFlags())), 'a reply')
  await pause()
  return Number(reply.body.readBigUInt64LE(OPEN_OUT.fh))
}

t.test('whatever is said, each request is answered once and nothing is left', async (t) => {
  const total = await fuzzFuse({ seed: 1, executions: 20_000 })
  t.ok(total.successes > 2000 && total.refusals > 2000, JSON.stringify(total))
})

t.test('a file released too early is closed when nothing of it is in flight', async (t) => {
  const device = new FuseDevice({ memory, isForgotten: () => false })
  const { id } = device.tree.addVolume('v', 100_000)
  const handle = await open(device, diskNode(id))
  const range = Buffer.alloc(RANGE_IN.endOffset)
  range.writeBigUInt64LE(BigInt(handle), RANGE_IN.fh)
  range.writeUInt32LE(4096, RANGE_IN.size)
  const release = Buffer.alloc(RELEASE_IN.endOffset)
  release.writeBigUInt64LE(BigInt(handle), RELEASE_IN.fh)
  const reading = device.ask(messageOf(Opcode.READ, diskNode(id), range))
  const released = await device.ask(messageOf(Opcode.RELEASE, diskNode(id), release))
  t.equal(released?.error, 0)
  t.equal(device.tree.users(id).length, 1, 'still open')
  t.not((await device.ask(messageOf(Opcode.READ, diskNode(id), range)))?.error, 0, 'to none but it')
  t.equal((await reading)?.body.length, 4096)
  t.equal(device.tree.users(id).length, 0)
  await pause()
  await device.end()
})

t.test('what was opened for someone who is gone is closed', async (t) => {
  const device = new FuseDevice({ memory, isForgotten: () => true })
  const { id } = device.tree.addVolume('v', 100_000)
  for (let round = 0; round < 100; round += 1) {
    await open(device, diskNode(id))
    const listing = await device.ask(messageOf(Opcode.OPENDIR, VOLUMES_NODE, Buffer.alloc(8)))
    await pause()
    t.equal(listing?.body.readUInt32LE(0), 0, 'no listing before it is left')
  }
  t.equal(device.tree.users(id).length, 0)
  await device.end()
})

t.test('listings that are open do not add up to any amount of memory', async (t) => {
  const device = new FuseDevice({ memory, isForgotten: () => false })
  for (let index = 0; index < 3000; index += 1) device.tree.addVolume(`v${index}`)
  let openCount = 0
  for (let index = 0; index < 500; index += 1) {
    const args = Buffer.alloc(8)
    const reply = await device.ask(messageOf(Opcode.OPENDIR, VOLUMES_NODE, args))
    await pause()
    if (reply?.error === 0) openCount += 1
  }
  t.ok(openCount > 300 && openCount < 400, `${openCount} of 500`)
  await device.end()
})
