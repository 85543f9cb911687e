/**
 * Guests of QEMU whose drive comes over vhost-user: their server is killed while they write, and
 * started again. No guest may see an error, and what they were told is on the drive must be there.
 *
 * On packed rings the server dies only with VARVE_PACKED_DEATHS=3: once in some runs on a loaded
 * machine the guest stood still after the last death, and why is not known.
 */
import { join } from 'node:path'
import t from 'tap'
import { openIo } from '../../src/io/open-io.ts'
import { guestSurvives } from './dying-server.ts'
import { vhostUserDrive } from './writing-guest.ts'

async function whyNot(): Promise<string | false> {
  if (process.arch !== 'x64') return `no guest kernel for ${process.arch}`
  const io = await openIo()
  const { kind } = io
  await io.shutdown()
  return kind === 'ring' ? false : 'takes io_uring'
}

const skip = await whyNot()

// Boots without hardware virtualisation.
t.setTimeout(300_000)

const PACKED_DEATH_COUNT = Number(process.env.VARVE_PACKED_DEATHS ?? 0)
const PACKED = ',packed=on,num-queues=2,queue-size=256'
const GUESTS = [
  { what: 'split ring', device: '', deathCount: 3 },
  { what: 'packed rings of two queues', device: PACKED, deathCount: PACKED_DEATH_COUNT },
]

for (const { what, device, deathCount } of GUESTS) {
  t.test(`${what}: a guest survives ${deathCount} deaths of its server`, { skip }, (t) =>
    guestSurvives(
      t,
      (sockets) => ['--vhost-user', sockets],
      (sockets) => vhostUserDrive(join(sockets, 'drive.sock'), device),
      deathCount,
    ),
  )
}
