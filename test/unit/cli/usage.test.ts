import t from 'tap'
import { CorruptionError } from '../../../src/base/errors.ts'
import { run } from './fake-cli.ts'
import { FakeService } from './fake-service.ts'

/** Disks of 1 GiB that map 4, 8 and 12 KiB. */
async function filled(): Promise<FakeService> {
  const service = new FakeService()
  await service.create({ name: 'golden', sizeBytes: 1073741824 })
  await service.snapshot(['golden@v1'])
  await service.clone('golden@v1', ['web', 'ma"il'])
  return service
}

t.test('usage shows rows and what the pool makes of them', async (t) => {
  const service = await filled()
  const lines = (await run({ service }, 'usage')).out.split('\n')
  t.match(lines[0], /^NAME +LOGICAL +MAPPED +STORED +EXCLUSIVE +SHARED +AMORTISED$/)
  t.match(lines[1], /^golden +1\.00 GiB +4\.00 KiB +4\.00 KiB +4\.00 KiB +0 B +4\.00 KiB$/)
  t.match(lines[5], 'The pool takes 64.0 MiB: disks 24.0 KiB, its own 4.00 KiB, overhead 64.0 MiB')
  t.match(lines[6], /^Saved: thin .*, zero 0 B, clone 0 B, dedup 0 B, compression 0 B\.$/)
  const bare = ['usage', '-H', '-p', '--columns', 'name,exclusive', '--sort', '-exclusive']
  t.equal((await run({ service }, ...bare)).out, 'ma"il\t12288\nweb\t8192\ngolden\t4096\n')
  t.equal((await run({ service }, 'usage', '-q')).out, 'golden\nweb\nma"il\n')
  t.match((await run({ service }, 'usage', '--columns', 'colour')).code, 2)
})

t.test('usage is counted by what was asked', async (t) => {
  const service = await filled()
  for (const [by, asked] of [
    ['volume', 'volume'],
    ['disk', 'disk'],
    ['tenant', 'label:tenant'],
    ['label:a:b', 'label:a:b'],
  ]) {
    await run({ service }, 'usage', '--by', by)
    t.equal(service.usageRequests.at(-1), asked)
  }
})

t.test('usage as CSV and JSON is exact, and has the pool besides', async (t) => {
  const service = await filled()
  const csv = await run({ service }, 'usage', '-o', 'csv', '--columns', 'name,logical,stored')
  t.equal(
    csv.out,
    'name,logical,stored\r\ngolden,1073741824,4096\r\nweb,1073741824,8192\r\n' +
      '"ma""il",1073741824,12288\r\n',
  )
  const parsed = JSON.parse((await run({ service }, 'usage', '-o', 'json')).out) as unknown
  const { rows, pool } = await service.usage({ by: 'volume' }, {})
  t.strictSame(parsed, { apiVersion: 1, usage: rows, by: 'volume', pool })
  const lines = (await run({ service }, 'usage', '-o', 'jsonl')).out.trimEnd().split('\n')
  t.equal(lines.length, 3)
})

t.test('list counts only what a column or the order needs', async (t) => {
  const service = await filled()
  const read = (...args: string[]): Promise<{ out: string }> => run({ service }, 'list', ...args)
  await read()
  await read('-o', 'json')
  await read('--columns', 'name,size,mapped', '--sort', 'mapped')
  t.same(service.usageRequests, [])
  const columns = ['-H', '-p', '-t', 'all', '--columns', 'name,exclusive,thin']
  t.equal(
    (await read(...columns)).out,
    'golden\t4096\t1073737728\ngolden@v1\t4096\t1073737728\n' +
      'ma"il\t12288\t1073729536\nweb\t8192\t1073733632\n',
  )
  t.equal((await read('-q', '--sort', '-stored')).out, 'ma"il\nweb\ngolden\n')
  t.same(service.usageRequests, ['disk', 'disk'])
  const json = await read('-o', 'json', '--sort', 'stored', 'golden')
  t.match(JSON.parse(json.out), {
    volumes: [{ name: 'golden', usage: { storedBytes: 4096 }, snapshots: [{ usage: {} }] }],
  })
})

t.test('info counts when asked, a volume with its snapshots, too', async (t) => {
  const service = await filled()
  t.notMatch((await run({ service }, 'info', 'golden')).out, /exclusive/)
  const { out } = await run({ service }, 'info', '-u', 'golden')
  t.match(out, /^stored +4\.00 KiB: 4\.00 KiB exclusive, 0 B shared$/m)
  t.match(out, /^with its snapshots +4\.00 KiB stored, 4\.00 KiB exclusive$/m)
  t.notMatch((await run({ service }, 'info', '-u', 'web')).out, /with its snapshots/)
  t.match((await run({ service }, 'info', '--usage')).out, /^overhead +64\.0 MiB$/m)
  const json = JSON.parse((await run({ service }, 'info', '-u', '-o', 'json', 'web')).out) as object
  t.match(json, { volume: { name: 'web' }, usage: { storedBytes: 8192 } })
})

t.test('what cannot be counted can be removed all the same', async (t) => {
  const service = await filled()
  service.failNext = new CorruptionError('segment-corrupt', 'segment 3 is damaged')
  const terminal = { stdin: true, stderr: true }
  const outcome = await run({ service, terminal, stdin: Buffer.from('y\n') }, 'rm', 'web')
  t.match(outcome.error, /Remove web \(what that frees cannot be counted: segment 3/)
  t.equal(outcome.code, 0)
  t.notOk(service.disks.has('web'))
})
