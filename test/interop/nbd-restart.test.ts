/** QEMU's own NBD client waits for a server that dies, when it is told to. */
import { join } from 'node:path'
import t from 'tap'
import { guestSurvives } from './dying-server.ts'
import { nbdDrive } from './writing-guest.ts'

const skip = process.arch === 'x64' ? false : `no guest kernel for ${process.arch}`

// A boot without hardware virtualisation.
t.setTimeout(200_000)

t.test('with reconnect-delay a guest survives the death of its server', { skip }, (t) =>
  guestSurvives(
    t,
    () => [],
    (_sockets, pool) => nbdDrive(join(pool, 'nbd.sock'), 'drive', { 'reconnect-delay': 60 }),
  ),
)
