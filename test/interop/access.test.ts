/** The real server against clients that are not who they should be: over TLS, sockets and files. */
import { execFile, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import type { Test } from 'tap'
import { HttpService } from '../../src/api/http-service.ts'
import { Authority } from '../support/authority.ts'
import { MAIN, ServedPool, mustVarve, varve } from '../support/varve-process.ts'
import { decodeOptionReplies, infoData, option, string, u32 } from '../unit/export/nbd-codec.ts'

const run = promisify(execFile)
const CLIENT_TIMEOUT_MS = 60_000
const STRANGER_ID = 12345
const OTHER_ID = 12346

const folder = mkdtempSync(join(tmpdir(), 'varve-access-'))
// Strangers have to come as far as the sockets.
chmodSync(folder, 0o755)
t.teardown(() => rmSync(folder, { recursive: true }))
t.setTimeout(6 * CLIENT_TIMEOUT_MS)

const notRoot = process.geteuid?.() === 0 ? false : 'only root can be somebody else'
/** Strangers run Node, with what its test runner adds to it, and the built program. */
const noStrangers = notRoot === false ? whyStrangersCannotRun() : notRoot
let poolCount = 0

async function poolWithDisks(): Promise<string> {
  const pool = join(folder, `pool-${++poolCount}`)
  await mustVarve(pool, 'init')
  for (const name of ['web', 'db', 'pub']) await mustVarve(pool, 'create', name, '4M')
  await mustVarve(pool, 'snapshot', 'web@mon')
  return pool
}

function whyStrangersCannotRun(): string | false {
  const words = ['--reuid', String(STRANGER_ID), '--clear-groups', '--', 'test', '-r', MAIN]
  const { status } = spawnSync('setpriv', words, { cwd: '/' })
  return status === 0 ? false : 'other users cannot read this checkout'
}

/** Rejects when the client fails, with what it said. */
async function client(words: string[], userId = 0): Promise<string> {
  const ids = [`--reuid=${userId}`, `--regid=${userId}`, '--clear-groups', '--']
  const [command, args] =
    userId === 0 ? [words[0], words.slice(1)] : ['setpriv', [...ids, ...words]]
  return (await run(command, args, { timeout: CLIENT_TIMEOUT_MS, cwd: '/' })).stdout
}

async function namesAt(uri: string, userId = 0): Promise<string[]> {
  const text = await client(['nbdinfo', '--list', '--json', uri], userId)
  const { exports } = JSON.parse(text) as { exports: { 'export-name': string }[] }
  return exports.map((entry) => entry['export-name']).sort()
}

/** Where a server that was just started listens. */
async function portOf(pool: string): Promise<number> {
  const { exports } = await new HttpService(join(pool, 'control.sock')).status()
  const uri = exports.find((entry) => entry.uri.includes('127.0.0.1'))?.uri
  return Number(new URL(uri ?? '').port)
}

/** Says `bytes` after the greeting and the flags, and returns all that the server says to it. */
async function rawSession(port: number, bytes: Buffer): Promise<Buffer> {
  const socket = connect(port, '127.0.0.1')
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  const ended = new Promise((resolve) => socket.on('close', resolve))
  socket.on('error', () => undefined)
  socket.write(Buffer.concat([u32(3), bytes]))
  const timer = setTimeout(() => socket.destroy(), 2000)
  await ended
  clearTimeout(timer)
  return Buffer.concat(parts).subarray(18)
}

t.test('files, folders and sockets of a pool are for its owner, whatever the mask', async (t) => {
  const before = process.umask(0)
  t.teardown(() => process.umask(before))
  const pool = await poolWithDisks()
  const served = await ServedPool.start(pool)
  await client(['nbdcopy', '/etc/passwd', `nbd+unix:///db?socket=${served.socketPath}`])
  await mustVarve(pool, 'settle')
  await served.stop()
  await mustVarve(pool, 'reclaim')
  const again = await ServedPool.start(pool)
  const paths = readdirSync(pool, { recursive: true }).map((name) => join(pool, String(name)))
  t.ok(paths.length > 6, paths.join(' '))
  t.equal(lstatSync(pool).mode & 0o777, 0o700)
  for (const path of paths) {
    const stat = lstatSync(path)
    t.equal(stat.mode & 0o777, stat.isDirectory() ? 0o700 : 0o600, path)
  }
  await again.stop()
})

t.test('a certificate opens what rules give to its names, and shows nothing else', async (t) => {
  const pool = await poolWithDisks()
  const authority = new Authority(join(folder, 'pki'))
  const other = new Authority(join(folder, 'other-pki'))
  const save = (name: string, bytes: Buffer): string => {
    writeFileSync(join(folder, name), bytes, { mode: 0o600 })
    return join(folder, name)
  }
  const server = authority.issue('/CN=localhost', {
    alternativeNames: 'DNS:localhost,IP:127.0.0.1',
  })
  const rules = join(folder, 'rules')
  writeFileSync(rules, '# who\ncert:backup=*@*:ro\n')
  const served = await ServedPool.start(
    pool,
    ...['--tcp', '127.0.0.1:0', '--tls-cert', save('server.pem', server.cert)],
    ...['--tls-key', save('server.key', server.key), '--tls-ca', save('ca.pem', authority.cert)],
    ...['--allow', 'cert:web*=web', '--allow', 'cert:web1=web@*:ro', '--allow-file', rules],
  )
  const port = await portOf(pool)
  const folderOf = (name: string, issued: ReturnType<Authority['issue']> | null): string =>
    authority.clientFolder(name, authority.cert, issued)
  const uriOf = (pki: string, name = ''): string =>
    `nbds://127.0.0.1:${port}/${name}?tls-certificates=${pki}`

  const web1 = folderOf('web1', authority.issue('/CN=web1'))
  const web2 = folderOf('web2', authority.issue('/O=x', { alternativeNames: 'DNS:web2' }))
  const backup = folderOf('backup', authority.issue('/CN=backup'))
  const nobody = folderOf('nobody', authority.issue('/CN=nobody'))
  t.strictSame(await namesAt(uriOf(web1)), ['web', 'web@mon'])
  t.strictSame(await namesAt(uriOf(web2)), ['web'])
  t.strictSame(await namesAt(uriOf(backup)), ['web@mon'])
  t.strictSame(await namesAt(uriOf(nobody)), [])
  t.strictSame(
    await namesAt(`nbds+unix:///?socket=${served.socketPath}&tls-certificates=${nobody}`),
    [...['db', 'pub', 'web', 'web@mon']],
  )
  await client(['nbdcopy', '/etc/passwd', uriOf(web1, 'web')])
  const contexts = await client(['nbdinfo', '--json', uriOf(web2, 'web')])
  t.notMatch(contexts, /changed-since/, 'a snapshot that may not be seen is not told of')
  t.match(await client(['nbdinfo', '--json', uriOf(web1, 'web')]), /changed-since:mon/)

  await sameAsNothing(t, (name) => uriOf(web2, name))
  const stranger = folderOf('stranger', other.issue('/CN=web1'))
  const expired = folderOf('expired', authority.issue('/CN=web1', { days: -1 }))
  for (const pki of [stranger, expired, folderOf('without', null)]) {
    await t.rejects(client(['nbdinfo', uriOf(pki, 'web')]), pki)
  }
  const fooled = authority.clientFolder('fooled', other.cert, authority.issue('/CN=web1'))
  await t.rejects(client(['nbdinfo', uriOf(fooled, 'web')]), 'the client checks us, too')
  const credentials = (pki: string): string[] => {
    const image = `driver=nbd,host=127.0.0.1,port=${port},export=web,tls-creds=tls`
    const object = `tls-creds-x509,id=tls,dir=${pki},endpoint=client`
    return ['qemu-io', '--object', object, '--image-opts', image, '-c', 'read 0 4k']
  }
  t.match(await client(credentials(web1)), /read 4096/)
  await t.rejects(client(credentials(stranger)))
  await downgrades(t, port)
  await served.stop()
})

/** A disk that is denied is, to every question, one that is not there. */
async function sameAsNothing(t: Test, uriOf: (name: string) => string): Promise<void> {
  const said = async (name: string): Promise<string> => {
    const outcome = await client(['nbdinfo', uriOf(name)]).then(
      () => 'opened',
      (error: unknown) => (error as { stderr: string }).stderr,
    )
    return outcome.replaceAll(name, 'NAME')
  }
  for (const denied of ['db', 'web@mon']) {
    t.equal(await said(denied), await said('no-such-disk'), denied)
    t.not(await said(denied), 'opened')
  }
}

/** In the clear nothing is answered but how to begin TLS, and nothing slips in before it. */
async function downgrades(t: Test, port: number): Promise<void> {
  const [LIST, STARTTLS, INFO, GO, STRUCTURED] = [3, 5, 6, 7, 8]
  const ERR_TLS_REQD = 0x80000005
  const name = infoData('web')
  for (const plain of [option(LIST), option(INFO, name), option(GO, name), option(STRUCTURED)]) {
    const replies = decodeOptionReplies(await rawSession(port, plain))
    t.strictSame(
      replies.map(({ type }) => type),
      [ERR_TLS_REQD],
    )
  }
  t.equal((await rawSession(port, option(1, Buffer.from('web')))).length, 0, 'EXPORT_NAME')
  const slipped = await rawSession(port, Buffer.concat([option(STARTTLS), option(GO, name)]))
  t.strictSame(
    decodeOptionReplies(slipped).map(({ type }) => type),
    [1],
    'only STARTTLS was answered',
  )
  t.notMatch(string('web'), slipped)
}

t.test(
  'through the unix socket come the owner and whom rules name',
  { skip: notRoot },
  async (t) => {
    const pool = await poolWithDisks()
    const socket = join(folder, 'nbd.sock')
    const uri = (name = ''): string => `nbd+unix:///${name}?socket=${socket}`
    const closed = await ServedPool.start(pool, '--socket', socket)
    t.equal(lstatSync(socket).mode & 0o777, 0o600)
    t.equal((await namesAt(uri())).length, 4)
    await t.rejects(namesAt(uri(), STRANGER_ID), /denied/)
    chmodSync(socket, 0o666)
    await t.rejects(namesAt(uri(), STRANGER_ID), 'the kernel says who it is, whatever the mode')
    await closed.stop()

    const words = ['--allow', `user:${STRANGER_ID}=web`, '--allow', `user:${STRANGER_ID}=pub:ro`]
    const served = await ServedPool.start(pool, '--socket', socket, ...words)
    t.strictSame(await namesAt(uri(), STRANGER_ID), ['pub', 'web'])
    t.equal((await namesAt(uri())).length, 4)
    await client(['nbdcopy', '/etc/passwd', uri('web')], STRANGER_ID)
    await t.rejects(client(['nbdcopy', '/etc/passwd', uri('pub')], STRANGER_ID))
    await t.rejects(client(['nbdinfo', uri('db')], STRANGER_ID))
    await t.rejects(namesAt(uri(), OTHER_ID), 'nobody else comes in')
    await served.stop()
  },
)

t.test('nobody but the owner and root controls a pool', { skip: noStrangers }, async (t) => {
  const pool = await poolWithDisks()
  const served = await ServedPool.start(pool)
  const control = join(pool, 'control.sock')
  const program = `require('http').get(
    { socketPath: process.argv[1], path: '/v1/info' },
    (answer) => answer.pipe(process.stdout),
  )`
  const ask = (userId: number): Promise<string> =>
    client([process.execPath, '-e', program, control], userId)
  t.match(await ask(0), /formatVersion/)
  await t.rejects(ask(STRANGER_ID), /EACCES/)
  chmodSync(pool, 0o755)
  chmodSync(control, 0o666)
  await t.rejects(ask(STRANGER_ID), /ECONNRESET|EPIPE|hang up/)
  t.match(await ask(0), /formatVersion/)
  t.match((await varve(pool, 'doctor')).stdout, /warn +pool .*entered by others/)
  await served.stop()
  t.match((await varve(pool, 'check')).stderr, /warning: .*entered by others; chmod 700/)
})

t.test('a pool is served by a user without any privilege', { skip: noStrangers }, async (t) => {
  const home = join(folder, 'home')
  mkdirSync(home, { mode: 0o700 })
  chownSync(home, STRANGER_ID, STRANGER_ID)
  const pool = join(home, 'pool')
  const varveAs = (...words: string[]): string[] => [
    process.execPath,
    MAIN,
    '--pool',
    pool,
    ...words,
  ]
  await client(varveAs('init'), STRANGER_ID)
  await client(varveAs('create', 'web', '4M'), STRANGER_ID)
  const ids = [`--reuid=${STRANGER_ID}`, `--regid=${STRANGER_ID}`, '--clear-groups']
  const powers = ['--no-new-privs', '--inh-caps=-all', '--bounding-set=-all', '--']
  const child = spawn('setpriv', [...ids, ...powers, ...varveAs('serve')], { cwd: '/' })
  t.teardown(() => child.kill('SIGKILL'))
  const ended = new Promise((resolve) => child.on('close', resolve))
  const ready = new Promise<void>((resolve, reject) => {
    let text = ''
    child.stdout.on('data', (bytes: Buffer) => {
      text += bytes.toString()
      if (text.includes('ready:')) resolve()
    })
    void ended.then((code) => reject(new Error(`serve exits ${String(code)}`)))
  })
  await ready
  const uri = `nbd+unix:///web?socket=${join(pool, 'nbd.sock')}`
  await client(['nbdcopy', '/etc/passwd', uri], STRANGER_ID)
  t.match(await client(varveAs('info', '-o', 'json'), STRANGER_ID), /"mode": "daemon"|processId/)
  await client(varveAs('info'))
  await t.rejects(client(varveAs('info'), OTHER_ID))
  child.kill('SIGTERM')
  t.equal(await ended, 0)
})

t.test('rules that could not do what they say are refused at the start', async (t) => {
  const pool = await poolWithDisks()
  const refuse = async (...words: string[]): Promise<void> => {
    const { code, stderr } = await varve(pool, 'serve', ...words)
    t.equal(code, 2, `${words.join(' ')}: ${stderr}`)
  }
  await refuse('--allow', 'nonsense')
  await refuse('--allow', 'cert:a=b')
  await refuse('--tcp', '0.0.0.0:0')
})
