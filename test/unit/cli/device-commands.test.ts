import t from 'tap'
import { OperatingError } from '../../../src/base/errors.ts'
import type { Finding } from '../../../src/daemon/host-report.ts'
import { run } from './fake-cli.ts'
import { FakeService } from './fake-service.ts'

async function filled(): Promise<FakeService> {
  const service = new FakeService()
  await service.create({ name: 'vm1', sizeBytes: 10737418240 })
  await service.snapshot(['vm1@monday'])
  return service
}

t.test('attach prints the device and nothing else', async (t) => {
  const service = await filled()
  t.same(await run({ service }, 'attach', 'vm1'), { code: 0, out: '/dev/loop0\n', error: '' })
  const json = await run({ service }, 'attach', 'vm1@monday', '--via', 'nbd', '-o', 'json')
  const { device } = JSON.parse(json.out) as { device: unknown }
  t.match(device, { device: '/dev/loop1', kind: 'nbd', readOnly: true, sectorSizeBytes: 512 })
  await run({ service }, 'attach', '--read-only', '--sector-size', '4096', 'vm1')
  t.match(service.attached[2], { readOnly: true, sectorSizeBytes: 4096 })
  for (const words of [['--sector-size', '1024'], ['--via', 'iscsi'], []]) {
    const disk = words.length === 0 ? [] : ['vm1']
    t.equal((await run({ service }, 'attach', ...words, ...disk)).code, 2, words.join(' '))
  }
})

t.test('mount passes on what was asked, with the folder as an absolute path', async (t) => {
  const service = await filled()
  const words = ['--partition', '2', '--read-only', '--options', 'discard,noatime']
  const { code, out } = await run({ service }, 'mount', ...words, 'vm1', 'here')
  t.equal(code, 0)
  t.match(out, /^mounted vm1, partition 2: ext4 on \/dev\/loop0, read-only, at \//)
  t.strictSame(service.mountRequests, [
    {
      name: 'vm1',
      directory: `${process.cwd()}/here`,
      partition: 2,
      readOnly: true,
      options: ['discard', 'noatime'],
      via: 'auto',
    },
  ])
  t.equal((await run({ service }, 'mount', '-P', '0', 'vm1', '/m')).code, 2)
  t.equal((await run({ service }, 'mount', 'vm1')).code, 2)
})

t.test('umount takes a disk or a folder, detach a disk or a device', async (t) => {
  const service = await filled()
  await run({ service }, 'mount', 'vm1', '/mnt/a')
  t.equal((await run({ service }, 'umount', '/mnt/a')).out, 'unmounted /mnt/a\n')
  t.equal((await run({ service }, 'unmount', 'vm1')).out, 'unmounted /mnt/a\n')
  t.equal((await run({ service }, 'detach', '/dev/loop0')).out, 'detached /dev/loop0\n')
  service.failNext = new OperatingError('busy', 'vm1 is in use: bash (12) uses /mnt/a', {
    details: { users: ['bash (12) uses /mnt/a'] },
  })
  const refused = await run({ service }, 'detach', '-o', 'json', 'vm1')
  t.equal(refused.code, 4)
  const { error } = JSON.parse(refused.error) as { error: unknown }
  t.match(error, { code: 'busy', details: { users: ['bash (12) uses /mnt/a'] } })
})

t.test('devices lists what is attached', async (t) => {
  const service = await filled()
  t.equal((await run({ service }, 'devices', '-H')).out, '')
  await run({ service }, 'mount', 'vm1', '/mnt/a')
  const table = await run({ service }, 'devices', '-H', '-p')
  t.equal(table.out, '/dev/loop0\tvm1\t-\t10737418240\trw\t/mnt/a\n')
  t.equal((await run({ service }, 'devices', '-q')).out, '/dev/loop0\n')
  const columns = await run({ service }, 'devices', '-H', '--columns', 'kind,sector,direct,state')
  t.equal(columns.out, 'loop\t512 B\tyes\tattached\n')
})

t.test('mkfs makes ext4 unless told', async (t) => {
  const service = await filled()
  t.equal((await run({ service }, 'mkfs', 'vm1')).out, 'made ext4 on vm1\n')
  t.equal((await run({ service }, 'mkfs', 'vm1', '-t', 'xfs')).out, 'made xfs on vm1\n')
  t.equal((await run({ service }, 'mkfs', 'vm1', '-t', 'ntfs')).code, 2)
})

t.test('the doctor is unhappy about what is left, and --fix says each step', async (t) => {
  const service = await filled()
  const stale: Finding = {
    subject: '/mnt/a',
    state: 'stale',
    fact: 'ext4 on /dev/loop0, which gives errors',
    remedy: 'varve doctor --fix',
  }
  const warning: Finding = { subject: '/dev/nbd0', state: 'warning', fact: 'x', remedy: null }
  const sick = await run({ service, backend: { inspectHost: async () => [stale] } }, 'doctor')
  t.equal(sick.code, 1)
  t.match(sick.out, /^LEFT {2}\/mnt\/a .*\n.*-> varve doctor --fix\n$/)
  const steps = [
    { subject: '/mnt/a', action: 'unmount', failure: 'target is busy' },
    { subject: '/mnt/a', action: 'unmount lazily', failure: null },
  ]
  const backend = { inspectHost: async () => [warning], fixHost: async () => steps }
  const fixed = await run({ service, backend }, 'doctor', '--fix')
  t.equal(fixed.code, 0)
  t.match(fixed.out, /^unmount: \/mnt\/a: target is busy\nunmount lazily: \/mnt\/a\nwarn/)
  const json = await run({ service, backend }, 'doctor', '--fix', '-o', 'json')
  t.match(JSON.parse(json.out), { doctor: { steps, findings: [{ state: 'warning' }] } })
})
