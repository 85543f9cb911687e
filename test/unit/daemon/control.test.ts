/** The same service on both sides of a socket must behave the same. */
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { decodeFrames, encodeFrameHeader, encodeJsonFrame } from '../../../src/api/frames.ts'
import { HttpService } from '../../../src/api/http-service.ts'
import { JSON_BODY_BYTES_MAX } from '../../../src/api/operations.ts'
import type { ByteOutput } from '../../../src/api/service.ts'
import { decodeError, encodeError } from '../../../src/api/wire-error.ts'
import { CorruptionError, OperatingError, VarveError } from '../../../src/base/errors.ts'
import { ControlServer } from '../../../src/daemon/control-server.ts'
import { removeDeadSocket } from '../../../src/daemon/dead-socket.ts'
import { daemonListens } from '../../../src/daemon/open-service.ts'
import { FakeService } from '../cli/fake-service.ts'

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined }

interface Setup {
  local: FakeService
  remote: HttpService
  path: string
  server: ControlServer
}

async function setup(t: Test): Promise<Setup> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-'))
  const path = join(folder, 'control.sock')
  const local = new FakeService()
  const server = await ControlServer.start(path, local, silent)
  t.teardown(async () => {
    await server.close()
    rmSync(folder, { recursive: true })
  })
  return { local, remote: new HttpService(path), path, server }
}

/** One plain request, as curl would make it. */
function raw(
  socketPath: string,
  method: string,
  path: string,
  body: string,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, method, path, agent: false }, (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (part: string) => (text += part))
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }))
    })
    request.on('error', reject)
    request.end(body)
  })
}

class Collected implements ByteOutput {
  bytes: Buffer = Buffer.alloc(0)
  zeroBytes = 0
  async data(bytes: Uint8Array): Promise<void> {
    this.bytes = Buffer.concat([this.bytes, bytes])
  }
  async zeros(lengthBytes: number): Promise<void> {
    this.zeroBytes += lengthBytes
  }
}

t.test('every operation answers over the socket as it does in process', async (t) => {
  const { local, remote } = await setup(t)
  const a = await remote.create({ name: 'a', sizeBytes: 1048576, labels: { x: 'ü' } })
  t.strictSame(a, await local.volume('a'))
  t.strictSame(await remote.snapshot(['a@s']), (await local.volume('a')).snapshots)
  t.strictSame(await remote.clone('a@s', ['b', 'c']), [
    await local.volume('b'),
    await local.volume('c'),
  ])
  t.strictSame(await remote.volumes(), await local.volumes())
  t.strictSame(await remote.volume('b'), await local.volume('b'))
  t.strictSame(await remote.info(), await local.info())
  t.strictSame(await remote.status(), await local.status())
  t.equal(await remote.rename('c', 'd'), undefined)
  t.equal((await remote.resize({ name: 'd', sizeBytes: 4096, allowShrink: true })).sizeBytes, 4096)
  await remote.hold('d', 'tag')
  t.strictSame((await local.volume('d')).holds, ['tag'])
  await remote.release('d', 'tag')
  t.equal((await remote.restore('a@s')).name, 'a')
  const removal = { names: ['b'], recursive: false, dryRun: true }
  t.strictSame(await remote.remove(removal), await local.remove(removal))
  const extents = async (service: HttpService | FakeService) => {
    const list: object[] = []
    for await (const extent of service.diff('a@s', 'a')) list.push(extent)
    return list
  }
  t.strictSame(await extents(remote), await extents(local))
  const phases: string[] = []
  const report = await remote.reclaim({ progress: ({ phase }) => phases.push(phase) })
  t.strictSame(report, await local.reclaim({}))
  t.strictSame(phases, ['mark'])
  const counted: string[] = []
  const call = { progress: ({ phase }: { phase: string }) => counted.push(phase) }
  t.strictSame(await remote.usage({ by: 'disk' }, call), await local.usage({ by: 'disk' }, {}))
  t.strictSame(counted, ['maps'])
})

t.test('an error is the same error on the other side', async (t) => {
  const { local, remote } = await setup(t)
  const full = new OperatingError('no-space', 'the disk is full', {
    hint: 'make room',
    details: { freeBytes: 0 },
    errno: 28,
  })
  const calls: (() => Promise<unknown>)[] = [
    () => remote.volumes(),
    () => remote.create({ name: 'a', sizeBytes: 512 }),
    () => remote.reclaim({}),
    () => remote.importImage({ name: 'a', path: '/x', sizeBytes: 512, labels: {} }, {}),
  ]
  for (const call of calls) {
    local.failNext = full
    await t.rejects(call(), full)
    local.failNext = full
    const error = await call().catch((caught: unknown) => caught)
    t.match(error, { errno: 28, details: { freeBytes: 0 }, hint: 'make room' })
  }
  const corrupt = new CorruptionError('node-corrupt', 'node 3 is wrong')
  local.failNext = corrupt
  await t.rejects(remote.volumes(), corrupt)
  t.ok(decodeError(encodeError(corrupt)) instanceof CorruptionError)
  local.failNext = new TypeError('a bug')
  const bug = await remote.volumes().catch((error: unknown) => error)
  t.notOk(bug instanceof VarveError)
  t.match(bug, { message: /a bug/ })
  const missing = async () => {
    for await (const _ of remote.diff('x@s', 'x')) t.fail('an extent of nothing')
  }
  await t.rejects(missing(), { code: 'not-found' })
})

t.test('an image streams in and out, holes as holes', async (t) => {
  const { local, remote } = await setup(t)
  const image = Buffer.alloc(5_000_000, 'varve ')
  async function* parts(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < image.length; at += 99_991) yield image.subarray(at, at + 99_991)
  }
  const request = { name: 'v', path: null, sizeBytes: 1073741824, labels: {} }
  const seen: number[] = []
  const progress = ({ doneBytes }: { doneBytes: number }) => seen.push(doneBytes)
  const report = await remote.importImage(request, { input: parts(), progress })
  t.equal(report.imageBytes, image.length)
  t.ok(seen.length > 0)
  t.ok(image.equals(local.images.get('v') ?? Buffer.alloc(0)), 'every byte arrived')
  const output = new Collected()
  const back = await remote.exportImage({ name: 'v', path: null, overwrite: false }, { output })
  t.equal(back.imageBytes, 1073741824)
  t.ok(output.bytes.equals(image))
  t.equal(output.zeroBytes, 1073741824 - image.length)
})

t.test('a failure in the middle of an image arrives as what it is', async (t) => {
  const { local, remote } = await setup(t)
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) yield Buffer.alloc(65536, 1)
  }
  const request = { name: 'v', path: null, sizeBytes: 1048576, labels: {} }
  await t.rejects(remote.importImage(request, { input: endless() }), { code: 'out-of-range' })
  await local.create({ name: 'w', sizeBytes: 4096 })
  local.exportImage = async (_request, { output }) => {
    await output?.data(Buffer.alloc(512, 7))
    throw new OperatingError('io', 'the disk is gone')
  }
  const output = new Collected()
  const call = remote.exportImage({ name: 'w', path: null, overwrite: false }, { output })
  await t.rejects(call, { code: 'io', message: 'the disk is gone' })
  t.equal(output.bytes.length, 512, 'what came before it came through')
})

t.test('a canceled call cancels the work in the daemon', async (t) => {
  const { local, remote } = await setup(t)
  let canceled = false
  local.reclaim = ({ signal, progress }) =>
    new Promise((_resolve, reject) => {
      progress?.({ phase: 'sweep', done: 0, total: 1 })
      signal?.addEventListener('abort', () => {
        canceled = true
        reject(new OperatingError('canceled', 'canceled'))
      })
    })
  const controller = new AbortController()
  const call = remote.reclaim({
    signal: controller.signal,
    progress: () => controller.abort(),
  })
  await t.rejects(call, { code: 'canceled' })
  for (let wait = 0; wait < 100 && !canceled; wait += 1) await sleep(10)
  t.ok(canceled)
  await t.rejects(remote.reclaim({ signal: controller.signal }), { code: 'canceled' })
})

t.test('a daemon that stops cancels long work and answers it', async (t) => {
  const { local, remote, server, path } = await setup(t)
  let begun = false
  local.reclaim = ({ signal }) =>
    new Promise((_resolve, reject) => {
      begun = true
      signal?.addEventListener('abort', () => reject(new OperatingError('canceled', 'stopping')))
    })
  const call = t.rejects(remote.reclaim({}), { code: 'canceled', message: 'stopping' })
  while (!begun) await sleep(5)
  await server.close()
  await call
  t.notOk(existsSync(path), 'its socket goes with it')
  await t.rejects(remote.volumes(), { code: 'unreachable' })
})

t.test('requests are judged whole before anything is done', async (t) => {
  const { local, path } = await setup(t)
  const refusals: [string, string, string, number][] = [
    ['POST', '/v1/create', '{"name":"a"}', 400],
    ['POST', '/v1/create', '{"name":"a","sizeBytes":1.5}', 400],
    ['POST', '/v1/create', '{"name":"a","sizeBytes":-1}', 400],
    ['POST', '/v1/create', '{"name":"a","sizeBytes":512,"shell":"x"}', 400],
    ['POST', '/v1/create', 'not json', 400],
    ['POST', '/v1/create', '', 400],
    ['POST', '/v1/clone', '{"source":"a","names":[]}', 400],
    ['POST', '/v1/export', '{"name":"a","path":"relative","overwrite":true}', 400],
    ['POST', '/v1/export', '{"name":"a","path":"/a\\u0000b","overwrite":true}', 400],
    ['POST', '/v1/import?request=%7B%7D', '', 400],
    ['POST', '/v1/import', '', 400],
    ['GET', '/v1/create', '', 400],
    ['GET', '/v2/volumes', '', 400],
    ['POST', '/v1/volume', '{"name":"nobody"}', 404],
    ['POST', '/v1/create', ' '.repeat(JSON_BODY_BYTES_MAX + 1), 400],
  ]
  for (const [method, target, body, expected] of refusals) {
    const { status, text } = await raw(path, method, target, body)
    t.equal(status, expected, `${method} ${target} ${body.slice(0, 60)}`)
    t.match(JSON.parse(text), { error: { code: String, message: String } })
  }
  t.equal(local.disks.size, 0)
  const good = await raw(path, 'GET', '/v1/volumes', '')
  t.strictSame([good.status, good.text], [200, '[]'])
})

t.test('the socket is its owner’s alone, and a dead one is taken over', async (t) => {
  const { path, server } = await setup(t)
  t.equal(statSync(path).mode & 0o777, 0o600)
  t.equal(await daemonListens(path), true)
  await t.rejects(removeDeadSocket(path), { code: 'busy' })
  await server.close()
  t.equal(await daemonListens(path), false)
  const folder = mkdtempSync(join(tmpdir(), 'varve-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const stale = join(folder, 'stale.sock')
  writeFileSync(stale, 'a file')
  await t.rejects(removeDeadSocket(stale), { code: 'exists' })
  t.ok(existsSync(stale), 'what is not a socket is not ours to remove')
  await t.rejects(ControlServer.start(join(folder, 'x'.repeat(108)), new FakeService(), silent), {
    code: 'unsupported',
  })
})

t.test('something else on the socket is unreachable, never a hang or a crash', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'varve-'))
  const answers = [
    'nonsense\r\n\r\n',
    'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}',
    'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[',
    'HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno',
    '',
  ]
  for (const [index, answer] of answers.entries()) {
    const path = join(folder, `${index}.sock`)
    const server = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => socket.end(answer))
    })
    await new Promise<void>((resolve) => server.listen(path, resolve))
    const service = new HttpService(path)
    await t.rejects(service.volumes(), { code: 'unreachable' }, JSON.stringify(answer))
    await t.rejects(service.reclaim({}), { code: 'unreachable' })
    const request = { name: 'a', path: null, overwrite: false }
    await t.rejects(service.exportImage(request, {}), { code: 'unreachable' })
    server.close()
  }
  rmSync(folder, { recursive: true })
})

t.test('frames come out the same however the stream is cut', async (t) => {
  const data = Buffer.from('some bytes of an image')
  const stream = Buffer.concat([
    encodeFrameHeader(1, data.length),
    data,
    encodeJsonFrame({ zeros: 4096 }),
    encodeFrameHeader(1, data.length),
    data,
    encodeJsonFrame({ result: { ä: 1 } }),
  ])
  async function decode(cuts: number[]): Promise<string> {
    const edges = [0, ...cuts.toSorted((a, b) => a - b), stream.length]
    async function* chunks(): AsyncGenerator<Uint8Array> {
      for (const [index, edge] of edges.slice(1).entries())
        yield stream.subarray(edges[index], edge)
    }
    let text = ''
    for await (const { kind, payload } of decodeFrames(chunks())) {
      text += kind === 1 ? payload.toString() : `<${payload.toString()}>`
    }
    return text
  }
  const whole = await decode([])
  const cut = fc.integer({ min: 0, max: stream.length })
  await fc.assert(fc.asyncProperty(fc.array(cut), async (cuts) => (await decode(cuts)) === whole))
  async function* broken(): AsyncGenerator<Uint8Array> {
    yield stream.subarray(0, 10)
  }
  const drain = async (chunks: AsyncIterable<Uint8Array>) => {
    for await (const _ of decodeFrames(chunks)) continue
  }
  await t.rejects(drain(broken()), { code: 'unreachable' })
  async function* foreign(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('HTTP/1.1 200 OK')
  }
  await t.rejects(drain(foreign()), { code: 'unreachable' })
})
