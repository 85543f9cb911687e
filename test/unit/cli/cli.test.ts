import t from 'tap'
import type { CheckReport } from '../../../src/check/report.ts'
import { CorruptionError, OperatingError } from '../../../src/base/errors.ts'
import type { OperatingCode } from '../../../src/base/errors.ts'
import { tableText } from '../../../src/cli/output.ts'
import { textColumn } from '../../../src/cli/columns.ts'
import { lineageOf } from '../../../src/cli/commands/tree.ts'
import { run } from './fake-cli.ts'
import { FakeService } from './fake-service.ts'

async function filled(): Promise<FakeService> {
  const service = new FakeService()
  await service.create({ name: 'golden', sizeBytes: 10737418240, labels: { os: 'debian' } })
  await service.snapshot(['golden@v1'])
  await service.clone('golden@v1', ['web', 'mail'])
  return service
}

t.test('every error code has its exit code', async (t) => {
  const expected: [OperatingCode, number][] = [
    ['usage', 2],
    ['not-found', 3],
    ['exists', 1],
    ['busy', 4],
    ['no-space', 6],
    ['read-only', 1],
    ['out-of-range', 1],
    ['pool-failed', 1],
    ['io', 1],
    ['unsupported', 1],
    ['unreachable', 5],
    ['canceled', 130],
  ]
  for (const [code, exit] of expected) {
    const service = new FakeService()
    service.failNext = new OperatingError(code, 'the fact', { hint: 'the way out' })
    const outcome = await run({ service }, 'list')
    t.same(outcome, { code: exit, out: '', error: 'varve: the fact\n  the way out\n' }, code)
    t.equal(service.closeCount, 1, 'the pool is let go after a failure')
  }
  const service = new FakeService()
  service.failNext = new CorruptionError('node-corrupt', 'a node is wrong')
  t.equal((await run({ service }, 'list')).code, 1)
})

t.test('what is not understood exits 2 and writes nothing to stdout', async (t) => {
  const service = await filled()
  for (const words of [
    ['lisst'],
    ['list', '--sorrt', 'name'],
    ['list', '-o', 'xml'],
    ['list', '--columns', 'name,colour'],
    ['list', '--sort', 'colour'],
    ['create', 'x'],
    ['create', 'x', '10X'],
    ['create', 'x', '0'],
    ['create', 'x', '1G', '--size', '1G'],
    ['create', 'x', '1G', '--label', 'nothing'],
    ['restore', 'golden'],
    ['rename', 'golden'],
    ['serve', '--tcp', 'nowhere'],
    ['serve', '--tls-cert', '/nonexistent'],
    ['import', '-', 'x'],
    [],
  ]) {
    const { code, out, error } = await run({ service }, ...words)
    t.equal(code, 2, words.join(' '))
    t.equal(out, '')
    t.not(error, '')
  }
  const noPool = await run({ service, environment: {} }, 'list')
  t.equal(noPool.code, 2)
  t.match(noPool.error, 'VARVE_POOL')
  t.equal((await run({ service, environment: {} }, '--pool', '/p', 'list')).code, 0)
  t.equal((await run({ service, environment: {} }, 'list', '--pool', '/p')).code, 0)
  t.match((await run({ service }, 'snapshto')).error, /Did you mean snapshot/)
  t.match((await run({ service }, 'rm', '--recursiv', 'x')).error, /Did you mean --recursive/)
})

t.test('every command has help with examples and exit codes, and help exits 0', async (t) => {
  const service = new FakeService()
  const top = await run({ service }, '--help')
  t.equal(top.code, 0)
  const commands = [...top.out.matchAll(/^ {2}([a-z]+)(?:\|[a-z]+)? \[options\]/gm)]
  t.equal(commands.length, 30)
  for (const [, name] of commands) {
    const { code, out } = await run({ service }, name, '--help')
    t.equal(code, 0, name)
    t.match(out, /Examples:\n {2}\$ /)
    t.match(out, /Exit codes:\n {2}0 /)
    t.match(out, '--pool')
  }
  t.match((await run({ service }, '--version')).out, /^\d+\.\d+\.\d+\n$/)
})

t.test('list shows people a table and scripts exact values', async (t) => {
  const world = { service: await filled() }
  const table = (await run(world, 'list')).out.split('\n')
  t.match(table[0], /^NAME +SIZE +MAPPED +SNAPSHOTS +CLIENTS +CREATED$/)
  t.match(table[1], /^golden +10\.0 GiB +4\.00 KiB +1 +- +2026-05-31 /)
  t.equal((await run(world, 'list', '-q')).out, 'golden\nmail\nweb\n')
  t.equal(
    (await run(world, 'list', '-H', '-p', '--columns', 'name,size,mapped', '--sort', '-mapped'))
      .out,
    'mail\t10737418240\t12288\nweb\t10737418240\t8192\ngolden\t10737418240\t4096\n',
  )
  t.equal((await run(world, 'list', '-t', 'snapshots', '-q')).out, 'golden@v1\n')
  t.equal((await run(world, 'list', '-t', 'all', '-q')).out, 'golden\ngolden@v1\nmail\nweb\n')
  t.equal((await run(world, 'list', 'web', '-q')).out, 'web\n')
  t.equal((await run(world, 'list', 'nobody')).code, 3)
  const parsed = JSON.parse((await run(world, 'list', '-o', 'json')).out) as unknown
  t.strictSame(parsed, { apiVersion: 1, volumes: await world.service.volumes() })
  const lines = (await run(world, 'list', '-o', 'jsonl')).out.trimEnd().split('\n')
  t.strictSame(
    lines.map((line) => (JSON.parse(line) as { name: string }).name),
    ['golden', 'mail', 'web'],
  )
})

t.test(
  'a pool without room says so, loudly and with the way out, and JSON keeps clean',
  async (t) => {
    const service = await filled()
    const terminal = { stderr: true }
    t.equal((await run({ service, terminal }, 'list')).error, '')
    t.match((await run({ service }, 'info')).out, /^full +12%$/m)
    service.fill = { state: 'warn', percent: 91, warnPercent: 85 }
    const warned = await run({ service, terminal }, 'list')
    t.match(warned.error, /nearly full: 91%/)
    t.match(warned.error, /varve rm.*varve reclaim/)
    t.equal((await run({ service }, 'list')).error, '', 'a script is not told unasked')
    service.fill = { state: 'full', percent: 100, warnPercent: 85 }
    const info = await run({ service }, 'info')
    t.match(info.out, /^full +100%, FULL/m)
    t.match(info.error, /pool is FULL/)
    const { pool } = JSON.parse((await run({ service }, 'info', '-o', 'json')).out) as {
      pool: { fill: unknown }
    }
    t.strictSame(pool.fill, service.fill)
  },
)

t.test('errors are JSON when JSON was asked for', async (t) => {
  const { code, out, error } = await run(
    { service: new FakeService() },
    'info',
    'gone',
    '-o',
    'json',
  )
  t.equal(code, 3)
  t.equal(out, '')
  t.strictSame(JSON.parse(error), {
    apiVersion: 1,
    error: {
      code: 'not-found',
      message: 'there is no volume gone',
      hint: 'see `varve list`',
      details: { name: 'gone' },
    },
  })
})

t.test('info tells of the pool, a volume and a snapshot', async (t) => {
  const world = { service: await filled() }
  t.match((await run(world, 'info')).out, /^volumes +3$/m)
  t.match((await run(world, 'info', 'web')).out, /^origin +golden@v1$/m)
  t.match((await run(world, 'info', 'golden@v1', '-p')).out, /^size +10737418240$/m)
  t.equal((await run(world, 'info', 'golden@v2')).code, 3)
  const pool = JSON.parse((await run(world, 'info', '-o', 'json')).out) as object
  const scrub = await world.service.scrubStatus()
  t.strictSame(pool, { apiVersion: 1, pool: await world.service.info(), daemon: null, scrub })
})

t.test('tree draws clones under what they were cloned from', async (t) => {
  const world = { service: await filled() }
  await world.service.clone('web', ['web-test'])
  t.equal(
    (await run(world, 'tree', '-p')).out,
    ['golden  4096', '└─ golden@v1  4096', '   ├─ mail  12288', '   └─ web  8192']
      .concat('      └─ web-test  16384', '')
      .join('\n'),
  )
  const volumes = await world.service.volumes()
  const orphan = { ...volumes[0], name: 'orphan', origin: 'gone@x', snapshots: [] }
  const a = { ...volumes[0], name: 'a', origin: 'b', snapshots: [] }
  const b = { ...volumes[0], name: 'b', origin: 'a', snapshots: [] }
  const roots = lineageOf([orphan, a, b])
  t.strictSame(
    roots.map((root) => root.name),
    ['orphan', 'a'],
    'a lost origin makes a root, a circle is cut open',
  )
  t.equal(roots[1].children[0].name, 'b')
})

t.test('changes are silent for people and told in JSON', async (t) => {
  const service = new FakeService()
  const world = { service }
  for (const words of [
    ['create', 'a', '1M', '--label', 'x=1', '--label', 'y=2'],
    ['snapshot', 'a@s'],
    ['clone', 'a@s', 'b', 'c'],
    ['resize', 'a', '2M'],
    ['rename', 'c', 'd'],
    ['hold', 'b', 'backup'],
    ['restore', 'a@s'],
  ]) {
    t.strictSame(await run(world, ...words), { code: 0, out: '', error: '' }, words.join(' '))
  }
  t.strictSame([...service.disks.keys()], ['a', 'b', 'd'])
  t.strictSame(service.disks.get('a')?.labels, { x: '1', y: '2' })
  t.equal(service.disks.get('a')?.sizeBytes, 2097152)
  t.equal((await run(world, 'rm', 'b')).code, 4, 'a hold protects')
  t.equal((await run(world, 'release', 'b', 'backup')).code, 0)
  t.equal((await run(world, 'rm', '-n', 'b', 'd')).out, 'would remove b, d (frees 8.00 KiB)\n')
  t.ok(service.disks.has('b'), 'a dry run removes nothing')
  t.equal((await run(world, 'rm', 'b', 'd')).out, 'removed b, d\n')
  t.equal((await run(world, 'rm', 'a')).code, 4)
  t.equal((await run(world, 'resize', 'a', '1M')).code, 2)
  const made = JSON.parse((await run(world, 'create', 'z', '1M', '-o', 'json')).out) as object
  t.match(made, { apiVersion: 1, volume: { name: 'z', sizeBytes: 1048576 } })
})

t.test('a person is asked before something is lost, a script is not', async (t) => {
  const service = await filled()
  const terminal = { stdin: true, stderr: true }
  const asked = await run({ service, terminal, stdin: Buffer.from('n\n') }, 'rm', 'web')
  t.equal(asked.code, 130)
  t.match(asked.error, /Remove web \(frees 4\.00 KiB\)\? \[y\/N\]/)
  t.ok(service.disks.has('web'))
  const yes = await run({ service, terminal, stdin: Buffer.from('y\n') }, 'rm', 'web')
  t.equal(yes.code, 0)
  t.notOk(service.disks.has('web'))
  t.equal((await run({ service, terminal }, 'rm', '-y', 'mail')).code, 0)
  t.equal((await run({ service, terminal }, 'restore', 'golden@v1')).code, 130, 'no answer is no')
})

t.test('a dry run says what would be lost', async (t) => {
  const world = { service: await filled() }
  const lost = JSON.parse(
    (await run(world, 'resize', '-n', 'golden', '1052672', '-o', 'json')).out,
  ) as object
  t.match(lost, { resize: { name: 'golden', sizeBytes: 1052672, lostBytes: 12288 } })
  t.match((await run(world, 'restore', '-n', 'golden@v1')).out, /^would give up 15\.\d MiB/)
})

t.test('diff lists extents as table, script, JSON and sums', async (t) => {
  const world = { service: await filled() }
  t.equal(
    (await run(world, 'diff', 'golden', '-H', '-p')).out,
    '0\t4096\tdata\n1048576\t8192\tzero\n2097152\t12288\tdata\n',
  )
  const whole = JSON.parse((await run(world, 'diff', 'golden@v1', 'golden', '-o', 'json')).out) as {
    from: string
    to: string
    extents: object[]
  }
  t.match(whole, { from: 'golden@v1', to: 'golden' })
  t.equal(whole.extents.length, 1000)
  t.match((await run(world, 'diff', 'golden')).out, /^ +OFFSET +LENGTH +KIND\n +0 B/)
  const sums = JSON.parse((await run(world, 'diff', '-s', 'golden', '-o', 'json')).out) as object
  t.match(sums, { summary: { extentCount: 3, dataBytes: 16384, zeroBytes: 8192 } })
})

t.test('import and export carry bytes through standard input and output', async (t) => {
  const service = new FakeService()
  const stdin = Buffer.from('an image')
  const brought = await run({ service, stdin }, 'import', '-', 'v', '--size', '1K', '-o', 'json')
  t.equal(brought.code, 0)
  t.match(JSON.parse(brought.out), { import: { volume: { name: 'v', sizeBytes: 1024 } } })
  const gone = await run({ service }, 'export', 'v', '-')
  t.strictSame(gone, { code: 0, out: `an image${'\0'.repeat(1016)}`, error: '' })
  const terminal = { stdout: true, stdin: true }
  t.equal((await run({ service, terminal }, 'export', 'v', '-')).code, 2)
  t.equal((await run({ service, terminal }, 'import', '-', 'w', '--size', '1K')).code, 2)
})

t.test('progress is JSON lines on stderr, or a line at SIGUSR1', async (t) => {
  const service = new FakeService()
  const stdin = Buffer.alloc(512, 1)
  const words = ['import', '-', 'v', '--size', '512']
  const { error } = await run({ service, stdin }, ...words, '--progress', 'json')
  const line = JSON.parse(error.trimEnd()) as { progress: object }
  t.match(line, { apiVersion: 1, progress: { doneBytes: 512, totalBytes: 512 } })
  t.equal((await run({ service }, 'export', 'v', '-', '--progress', 'none')).error, '')
  const listening = (name: string, listener: () => void): void => {
    if (name === 'SIGUSR1') listener()
  }
  const asked = await run({ service, stdin, listening }, 'import', '-', 'w', '-s', '512')
  t.match(asked.error, /^import \d+ B of \d+ B \(\d+ %\), /)
})

t.test('an interrupt cancels a long command, which exits 130', async (t) => {
  const service = new FakeService()
  const listening = (name: string, listener: () => void): void => {
    if (name === 'SIGINT') listener()
  }
  const stdin = Buffer.alloc(512, 1)
  const { code } = await run({ service, stdin, listening }, 'import', '-', 'v', '-s', '512')
  t.equal(code, 130)
  t.notOk(service.disks.has('v'))
})

t.test('check and doctor have exit codes of their own', async (t) => {
  const service = new FakeService()
  const clean: CheckReport = {
    errors: [],
    leaks: [],
    warnings: [],
    suppressedCount: 0,
    poolId: 'a1b2',
    clean: true,
    disks: [],
    segmentCount: 2,
    liveBlockCount: 1,
    verifiedBytes: 4096,
    reclaimableBytes: 0,
    replayedRecordCount: 0,
    position: null,
  }
  const finding = { code: 'block-corrupt', message: 'wrong', where: 'segment 1 slot 2' } as const
  const affected = [{ disk: 'a', offsetBytes: 4096, lengthBytes: 4096 }]
  const check = (report: CheckReport) =>
    run({ service, backend: { checkOffline: async () => report } }, 'check')
  t.strictSame(await check(clean), {
    code: 0,
    out: 'clean; 0 disks, 2 segments, 4.00 KiB verified\n',
    error: '',
  })
  const leaky = { ...clean, leaks: [{ ...finding, affected }] }
  t.equal((await check(leaky)).code, 3)
  const corrupt = await check({ ...leaky, errors: [{ ...finding, affected }] })
  t.equal(corrupt.code, 2)
  t.match(corrupt.out, 'error block-corrupt at segment 1 slot 2: wrong\n  hits a at 4096')
  const doctor = (state: 'ok' | 'missing' | 'warning') =>
    run(
      {
        service,
        backend: {
          inspectHost: async () => [{ subject: 'addon', state, fact: 'f', remedy: 'apt-get …' }],
        },
      },
      'doctor',
    )
  t.equal((await doctor('ok')).code, 0)
  t.equal((await doctor('warning')).code, 0)
  const missing = await doctor('missing')
  t.equal(missing.code, 1)
  t.match(missing.out, '-> apt-get')
})

t.test('what is not ours is said to be a bug, with its trace', async (t) => {
  const service = new FakeService()
  service.failNext = new TypeError('undefined is not a function')
  const { code, error } = await run({ service }, 'list')
  t.equal(code, 1)
  t.match(error, /should not have happened: TypeError/)
})

t.test('a table without rows still has its header', async (t) => {
  t.equal(tableText([], [textColumn<string>('name', (row) => row)], {}), 'NAME\n')
})

t.test('scrub says what it found, whom it hits, and by its exit code what is lost', async (t) => {
  const service = new FakeService()
  t.match((await run({ service }, 'info')).out, /^scrubbed +.*nothing damaged\); every 30 days$/m)
  const sound = await run({ service }, 'scrub', '--rate', '100M')
  t.equal(sound.code, 0)
  t.match(sound.out, /^64.0 MiB read; nothing damaged$/m)
  t.strictSame(service.scrubRequests, [{ rateBytes: 100 * 2 ** 20 }])
  const affected = [{ disk: 'web', offsetBytes: 8192, lengthBytes: 4096 }]
  const at = { code: 'block-corrupt', message: 'bad', where: 'segment 3 slot 7', affected } as const
  const counts = { foundCount: 2, healedCount: 1, lostCount: 1 }
  const findings = [
    { ...at, outcome: 'lost' as const },
    { ...at, outcome: 'healed' as const, affected: [] },
  ]
  service.scrubReport = { ...service.scrubReport, ...counts, findings }
  const hit = await run({ service }, 'scrub')
  t.equal(hit.code, 2)
  t.match(hit.out, /^lost: segment 3 slot 7: bad \(web at 8192 \+4096\)$/m)
  t.match(hit.out, /2 damaged: 1 healed, 1 lost, 0 unused$/m)
  const json = JSON.parse((await run({ service }, 'scrub', '-o', 'json')).out) as { scrub: object }
  t.strictSame(json.scrub, service.scrubReport)
  t.match((await run({ service }, 'scrub', '--status')).out, /^scrubbed: /)
  t.equal((await run({ service }, 'scrub', '--pause', '--status')).code, 2)
  t.equal((await run({ service }, 'scrub', '--rate', '0')).code, 2)
})

t.test('export-socket says where a disk is to be found, and what it takes back', async (t) => {
  const service = await filled()
  const asked = await run({ service }, 'export-socket', 'web', '--path', '/run/w', '-o', 'json')
  t.match(JSON.parse(asked.out), { socket: { name: 'web', path: '/run/w', readOnly: false } })
  const removed = await run({ service }, 'export-socket', 'web', '--remove')
  t.match(removed.out, /web\s+write\s+\/pool\/vhost-user\/web\.sock/)
  const both = await run({ service }, 'export-socket', 'web', '--remove', '--read-only')
  t.equal(both.code, 2)
})
