/**
 * The FUSE core among messages that no kernel should send, up to a mountful at a time. Beside them
 * one file that nobody else knows of is written and read back. When the mount ends, every file is
 * closed and all memory is back.
 */
import { assert, must } from '../../src/base/assert.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import {
  CREATE_IN,
  ENTRY_OUT,
  IN,
  IN_BYTES,
  OPEN_IN,
  OPEN_OUT,
  Opcode,
  RANGE_IN,
} from '../../src/export/fuse/abi.ts'
import { VOLUMES_NODE, diskNode } from '../../src/export/fuse/nodes.ts'
import { SLOT_COUNT } from '../../src/export/fuse/slots.ts'
import { FuseDevice } from './fuse-device.ts'
import { drawMessage } from './fuse-script.ts'

const ARENA_BYTES = 96 * MIB
const MESSAGES_PER_MOUNT = 20_000
const HANDLES = 12
const SECRET_NAME = 'never-drawn'
const SECRET_BYTES = 5000
const SECRET_HANDLE = 0xc8

export interface FuseFuzzOptions {
  seed: number
  executions: number
  onProgress?: (total: FuseFuzzTotal) => boolean
}

export interface FuseFuzzTotal {
  mounts: number
  executions: number
  /** Messages that were answered with success, and with an error. */
  successes: number
  refusals: number
}

/** Throws an Error that names the seed of the mount in which something was wrong. */
export async function fuzzFuse(options: FuseFuzzOptions): Promise<FuseFuzzTotal> {
  const total: FuseFuzzTotal = { mounts: 0, executions: 0, successes: 0, refusals: 0 }
  const memory = Buffer.alloc(ARENA_BYTES)
  while (total.executions < options.executions) {
    const seed = options.seed + total.mounts
    const count = Math.min(MESSAGES_PER_MOUNT, options.executions - total.executions)
    try {
      await fuzzMount(seed, memory, count, total)
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
    }
    total.mounts += 1
    if (options.onProgress?.(total) === false) break
  }
  return total
}

async function fuzzMount(
  seed: number,
  memory: Buffer,
  count: number,
  total: FuseFuzzTotal,
): Promise<void> {
  const prng = new Prng(seed)
  let mayForget = false
  const device = new FuseDevice({ memory, isForgotten: () => mayForget && prng.chance(0.02) })
  device.tree.gate = () => Promise.resolve()
  device.tree.addVolume('a', 100_000)
  device.tree.addVolume('b', 4096)
  // So that the secret file is none of the nodes that messages are drawn for.
  for (let index = 0; index < 20; index += 1) device.tree.addVolume(`other-${index}`)
  const secret = await SecretFile.create(device)
  mayForget = true
  for (let done = 0; done < count;) {
    const batch = Array.from({ length: 1 + prng.below(SLOT_COUNT - 4) }, async () => {
      const { bytes, claimBytes } = drawMessage(prng, HANDLES)
      const reply = await device.ask(bytes, claimBytes)
      if (reply?.error === 0) total.successes += 1
      else if (reply !== null) total.refusals += 1
    })
    await Promise.all([...batch, secret.use(prng.below(256))])
    done += batch.length
    total.executions += batch.length
    // The slots come back with the kernel's thanks.
    await new Promise((resolve) => setImmediate(resolve))
    await new Promise((resolve) => setImmediate(resolve))
    device.forgetRecords()
    assert(device.slots.isIdle, 'every slot is back')
    assert(device.failure === null, `no error of our own: ${String(device.failure)}`)
  }
  await device.end()
}

/** Its handle is none that messages are drawn for, nor one bit away from such a one. */
class SecretFile {
  readonly #device: FuseDevice
  readonly #handle: number

  private constructor(device: FuseDevice, handle: number) {
    this.#device = device
    this.#handle = handle
  }

  static async create(device: FuseDevice): Promise<SecretFile> {
    // Handles are given out from 0: those below are another file's.
    const other = must(device.tree.tryVolume('other-0'), 'a volume')
    for (let handle = 0; handle < SECRET_HANDLE; handle += 1) {
      const opening = messageOf(Opcode.OPEN, Buffer.alloc(OPEN_IN.endOffset, 2), diskNode(other.id))
      await device.ask(opening)
      await new Promise((resolve) => setImmediate(resolve))
    }
    const args = Buffer.concat([Buffer.alloc(CREATE_IN.endOffset), Buffer.from(`${SECRET_NAME}\0`)])
    args.writeUInt32LE(2, CREATE_IN.flags)
    const made = must(await device.ask(messageOf(Opcode.CREATE, args)), 'a reply')
    assert(made.error === 0, `the file is created: ${made.error}`)
    const handle = Number(made.body.readBigUInt64LE(ENTRY_OUT.endOffset + OPEN_OUT.fh))
    assert(handle === SECRET_HANDLE, `it is open as ${handle}`)
    return new SecretFile(device, handle)
  }

  /** Writes and reads back. */
  async use(value: number): Promise<void> {
    const range = Buffer.alloc(RANGE_IN.endOffset)
    range.writeBigUInt64LE(BigInt(this.#handle), RANGE_IN.fh)
    range.writeUInt32LE(SECRET_BYTES, RANGE_IN.size)
    const data = Buffer.alloc(SECRET_BYTES, value)
    const written = await this.#device.ask(messageOf(Opcode.WRITE, Buffer.concat([range, data])))
    assert(written?.error === 0, `the file can be written: ${written?.error}`)
    const read = must(await this.#device.ask(messageOf(Opcode.READ, range)), 'a reply')
    assert(read.error === 0 && read.body.equals(data), 'it reads what it wrote')
  }
}

function messageOf(opcode: number, args: Buffer, node: number = VOLUMES_NODE): Buffer {
  const message = Buffer.alloc(IN_BYTES + args.length)
  message.writeUInt32LE(message.length, IN.len)
  message.writeUInt32LE(opcode, IN.opcode)
  message.writeUInt32LE(node, IN.nodeid)
  args.copy(message, IN_BYTES)
  return message
}
