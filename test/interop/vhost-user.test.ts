/**
 * Guests of QEMU whose drive comes over vhost-user: their server is killed while they write, and
 * started again. No guest may see an error, and what they were told is on the drive must be there.
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

const DEATH_COUNT = 3
const PACKED = ',packed=on,num-queues=2,queue-size=256'
const GUESTS = [
  { what: 'split ring', device: '' },
  { what: 'packed rings of two queues', device: PACKED },
]

for (const { what, device } of GUESTS) {
  t.test(`${what}: a guest survives ${DEATH_COUNT} deaths of its server`, { skip }, (t) =>
    guestSurvives(
      t,
      (sockets) => ['--vhost-user', sockets],
      (sockets) => vhostUserDrive(join(sockets, 'drive.sock'), device),
      DEATH_COUNT,
    ),
  )
}
