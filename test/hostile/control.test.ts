/** The control socket and clients that are broken, slow, or too many. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { HttpService } from '../../src/api/http-service.ts'
import { API_PREFIX } from '../../src/api/operations.ts'
import type { PoolInfo } from '../../src/api/shapes.ts'
import { Prng } from '../../src/base/prng.ts'
import { ControlLimits, REQUEST_COUNT_MAX } from '../../src/daemon/control-limits.ts'
import { ControlServer } from '../../src/daemon/control-server.ts'
import { FakeService } from '../unit/cli/fake-service.ts'

const HEADERS_TIMEOUT_MS = 2000
const BODY_TIMEOUT_MS = 1000

interface Setup {
  path: string
  remote: HttpService
  logged: string[]
}

async function setup(t: Test, service: FakeService = new FakeService()): Promise<Setup> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-'))
  const path = join(folder, 'control.sock')
  const logged: string[] = []
  const log = (_fields: Record<string, unknown>, message: string): unknown => logged.push(message)
  const limits = new ControlLimits(HEADERS_TIMEOUT_MS, BODY_TIMEOUT_MS)
  const server = await ControlServer.start(
    path,
    service,
    { info: log, warn: log, error: log },
    limits,
  )
  t.teardown(async () => {
    await server.close()
    rmSync(folder, { recursive: true })
  })
  return { path, remote: new HttpService(path), logged }
}

/** Sends bytes and gathers what comes until the end, or until `waitMs` have passed. */
function say(path: string, bytes: Buffer | string, waitMs: number): Promise<string> {
  return new Promise((resolve) => {
    let text = ''
    const socket = connect(path)
    const end = (): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve(text)
    }
    const timer = setTimeout(end, waitMs)
    socket.on('data', (part: Buffer) => (text += part.toString('latin1')))
    socket.on('error', end)
    socket.on('close', end)
    socket.write(bytes)
  })
}

function post(name: string, body: string, contentBytes = Buffer.byteLength(body)): string {
  const head = `POST ${API_PREFIX}/${name} HTTP/1.1\r\nhost: v\r\n`
  return `${head}content-length: ${contentBytes}\r\n\r\n${body}`
}

const statuses = (text: string): number[] =>
  [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status))

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length
}

t.test('requests that make no sense are refused, and the next one is answered', async (t) => {
  const { path, remote } = await setup(t)
  const nested = '['.repeat(200_000)
  const cases = [
    post('create', '{'),
    post('create', nested),
    post('create', '{"name":"x","sizeBytes":1e400}'),
    post('create', '{"__proto__":{"name":"x"},"constructor":1}'),
    post('create', '', 1 << 30),
    `GET ${API_PREFIX}/../../etc/passwd HTTP/1.1\r\nhost: v\r\n\r\n`,
    `GET ${API_PREFIX}/%2e%2e%2fcreate HTTP/1.1\r\nhost: v\r\n\r\n`,
    `GET ${API_PREFIX}/create%00 HTTP/1.1\r\nhost: v\r\n\r\n`,
    `DELETE ${API_PREFIX}/create HTTP/1.1\r\nhost: v\r\n\r\n`,
    `GET / HTTP/1.1\r\n${'x: y\r\n'.repeat(10_000)}\r\n`,
    `GET /${'a'.repeat(100_000)} HTTP/1.1\r\n\r\n`,
    'POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
    `POST ${API_PREFIX}/create HTTP/1.1\r\nhost: v\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n`,
    `POST ${API_PREFIX}/import?request=%7b HTTP/1.1\r\nhost: v\r\ncontent-length: 0\r\n\r\n`,
  ]
  for (const bytes of cases) {
    const found = statuses(await say(path, bytes, 200))
    const isRefused = found.every((status) => status >= 400 && status < 500)
    t.ok(isRefused, `${bytes.slice(0, 60)} … ${found.join()}`)
  }
  await t.resolves(remote.info(), 'and goes on')
})

t.test('damaged requests never get a server error', async (t) => {
  const { path, remote } = await setup(t)
  const prng = new Prng(1)
  const whole = [
    post('create', '{"name":"a","sizeBytes":4096,"labels":{"k":"v"}}'),
    post('snapshot', '{"names":["a@s"]}'),
    post('diff', '{"from":"a","to":null}'),
    `GET ${API_PREFIX}/volumes HTTP/1.1\r\nhost: v\r\n\r\n`,
  ]
  for (let round = 0; round < 25; round += 1) {
    const clients = Array.from({ length: 20 }, () => {
      const bytes = Buffer.from(prng.pick(whole).repeat(1 + prng.below(3)))
      for (let i = prng.below(4); i >= 0; i -= 1) bytes[prng.below(bytes.length)] = prng.below(256)
      return say(path, bytes.subarray(0, 1 + prng.below(bytes.length)), 30)
    })
    for (const text of await Promise.all(clients)) {
      t.ok(
        statuses(text).every((status) => status < 500),
        text,
      )
    }
  }
  await t.resolves(remote.info())
})

t.test('a body that does not come costs the connection', async (t) => {
  const { path } = await setup(t)
  const startMs = performance.now()
  await say(path, post('create', '{"name"', 100), 20_000)
  const tookMs = performance.now() - startMs
  t.ok(tookMs > 0.8 * BODY_TIMEOUT_MS && tookMs < 15_000, `${tookMs} ms`)
})

t.test('a head that does not end costs the connection', async (t) => {
  const { path } = await setup(t)
  const startMs = performance.now()
  await say(path, `GET ${API_PREFIX}/info HTTP/1.1\r\nx`, 20_000)
  const tookMs = performance.now() - startMs
  t.ok(tookMs > 0.8 * HEADERS_TIMEOUT_MS && tookMs < 18_000, `${tookMs} ms`)
})

t.test('ten thousand requests at once are answered or refused', async (t) => {
  const { path, remote, logged } = await setup(t)
  const before = openDescriptors()
  const get = `GET ${API_PREFIX}/info HTTP/1.1\r\nhost: v\r\n\r\n`
  const clients = Array.from({ length: 40 }, () => say(path, get.repeat(250), 3000))
  const answers = (await Promise.all(clients)).flatMap(statuses)
  const isExpected = answers.every((status) => status === 200 || (status >= 400 && status < 504))
  t.ok(answers.length > 100 && isExpected, `${answers.length} answers`)
  t.ok(answers.includes(200), 'some are served')
  await sleep(100)
  await t.resolves(remote.info(), 'and so is the next')
  t.ok(openDescriptors() <= before + 2, 'no descriptor is left')
  t.ok(logged.length <= answers.length + 10, `${logged.length} lines`)
})

class SlowService extends FakeService {
  open: () => void = () => undefined
  readonly #gate = new Promise<void>((resolve) => (this.open = resolve))

  override async info(): Promise<PoolInfo> {
    await this.#gate
    return super.info()
  }
}

t.test('only so many requests are carried out at a time, on whatever connections', async (t) => {
  const service = new SlowService()
  const { path } = await setup(t, service)
  const get = `GET ${API_PREFIX}/info HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n`
  const clients = Array.from({ length: 200 }, () => say(path, get, 3000))
  await sleep(1000)
  service.open()
  const answers = (await Promise.all(clients)).flatMap(statuses)
  t.equal(answers.filter((status) => status === 200).length, REQUEST_COUNT_MAX)
  t.equal(answers.filter((status) => status === 409).length, 200 - REQUEST_COUNT_MAX)
})

t.test('connections beyond the limit are closed, and room comes back', async (t) => {
  const { path, remote } = await setup(t)
  const sockets: Socket[] = []
  let closedCount = 0
  for (let index = 0; index < 600; index += 1) {
    const socket = connect(path)
    socket.on('error', () => undefined)
    socket.on('close', () => (closedCount += 1))
    sockets.push(socket)
  }
  for (let waitedMs = 0; closedCount < 344 && waitedMs < 10_000; waitedMs += 50) await sleep(50)
  t.equal(closedCount, 600 - 256)
  for (const socket of sockets) socket.destroy()
  await sleep(100)
  await t.resolves(remote.info())
})
