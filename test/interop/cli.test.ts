/**
 * The real program, end to end. The same story is told to a pool that each command opens itself
 * and to one that a daemon serves, and the answers are compared.
 */
import { spawn } from 'node:child_process'
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import {
  existsSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { MIB } from '../../src/base/units.ts'
import { ServedPool } from '../support/varve-process.ts'

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'varve-cli-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

interface Result {
  code: number | null
  out: Buffer
  error: string
}

function run(child: ChildProcessWithoutNullStreams): Promise<Result> {
  const out: Buffer[] = []
  let error = ''
  child.stdout.on('data', (bytes: Buffer) => out.push(bytes))
  child.stderr.on('data', (bytes: Buffer) => (error += bytes.toString()))
  // A command that fails does not read to the end.
  child.stdin.on('error', () => undefined)
  return new Promise((resolve) => {
    child.on('close', (code) => resolve({ code, out: Buffer.concat(out), error }))
  })
}

function start(pool: string, words: string): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [MAIN, '--pool', pool, ...words.split(' ')])
}

function varve(pool: string, words: string, input: Buffer = Buffer.alloc(0)): Promise<Result> {
  const child = start(pool, words)
  child.stdin.end(input)
  return run(child)
}

/** Mostly holes, some data, some zeros that are written, and an odd end. */
function sparseImage(path: string): Buffer {
  const sizeBytes = 48 * MIB + 777
  writeFileSync(path, '')
  truncateSync(path, sizeBytes)
  const fd = openSync(path, 'r+')
  writeSync(fd, randomBytes(3 * MIB + 100), 0, 3 * MIB + 100, 5 * MIB + 50)
  writeSync(fd, Buffer.alloc(MIB), 0, MIB, 20 * MIB)
  writeSync(fd, randomBytes(777), 0, 777, 48 * MIB)
  closeSync(fd)
  return readFileSync(path)
}

/** Times, ids and folders differ from run to run; nothing else may. */
function comparable(text: string, pool: string): string {
  return text
    .replaceAll(pool, 'POOL')
    .replaceAll(/"(created|modified)Ms": ?[\d.]+/g, '"$1Ms":0')
    .replaceAll(/"(id)": ?"[0-9a-f]+"/g, '"$1":"ID"')
    .replaceAll(
      /"(physical\w*|free|segment\w*|punched|deleted\w*)(Bytes|Count)": ?\d+/g,
      '"$1$2":0',
    )
    .replaceAll(/"daemon": (?:null|\{[^]*?\n {2}\})/g, '"daemon":0')
    .replaceAll(/"exports": \[[^\]]*\]/g, '"exports":0')
    .replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'TIME')
}

const imagePath = join(folder, 'image.raw')
const image = sparseImage(imagePath)
const volumeBytes = Math.ceil(image.length / 512) * 512
const wholeImage = Buffer.concat([image, Buffer.alloc(volumeBytes - image.length)])

const STORY = [
  'create empty 1G --label owner=alice -o json',
  'create empty 1G',
  'create bad/name 1G',
  `import ${imagePath} golden -o json`,
  `import ${imagePath} golden`,
  `import ${imagePath} small --size 1M`,
  'import - piped --size 64M -o json',
  'import - longer --size 1M',
  'import - unsized',
  'snapshot golden@v1 empty@v1 -o json',
  'snapshot golden@v1',
  'clone golden@v1 web mail -o json',
  'list -o json',
  'list -H -p --columns name,size,mapped,snapshots,origin,labels',
  'list -t all -q',
  'tree',
  'info -o json',
  'info nobody -o json',
  'diff golden -H -p',
  'hold web backup',
  'rm web',
  'release web backup',
  'rename mail post -o json',
  'resize post 1M --shrink -o json',
  'rm golden',
  'rm -n -r golden -o json',
  'restore golden@v1 -o json',
  'rm web -o json',
  'export golden -',
  'export golden@v1 FOLDER/v1.raw',
  'export golden@v1 FOLDER/v1.raw',
  'export golden@v1 FOLDER/v1.raw --force -o json',
  'export golden FOLDER/no/such/place',
  'reclaim -o json',
]

async function tell(
  pool: string,
): Promise<{ words: string; answer: string; code: number | null }[]> {
  const answers: { words: string; answer: string; code: number | null }[] = []
  for (const words of STORY) {
    const input = words.startsWith('import -') ? image : Buffer.alloc(0)
    const { code, out, error } = await varve(pool, words.replace('FOLDER', pool), input)
    const text = words === 'export golden -' ? String(out.equals(wholeImage)) : out.toString()
    answers.push({ words, answer: comparable(`${text}${error}`, pool), code })
  }
  const exported = readFileSync(join(pool, 'v1.raw'))
  answers.push({ words: 'the exported file', answer: String(exported.equals(wholeImage)), code: 0 })
  return answers
}

/** Some seventy processes, on a machine that may be busy. */
t.setTimeout(240_000)

t.test('answers are the same with a daemon', async (t) => {
  const alone = join(folder, 'alone')
  const served = join(folder, 'served')
  for (const pool of [alone, served]) t.equal((await varve(pool, 'init')).code, 0)
  t.equal(statSync(alone).mode & 0o777, 0o700)
  // A schedule is a server's: alone there is none.
  const daemon = await ServedPool.start(served, '--scrub-every', '0')
  const [first, second] = await Promise.all([tell(alone), tell(served)])
  for (const [index, { words, answer, code }] of first.entries()) {
    t.strictSame(second[index], { words, answer, code }, words)
  }
  const codes = Object.fromEntries(first.map(({ words, code }) => [words, code]))
  t.match(codes, {
    'create empty 1G': 1,
    'create bad/name 1G': 2,
    'import - longer --size 1M': 1,
    'import - unsized': 2,
    'info nobody -o json': 3,
    'rm web': 4,
    'rm golden': 4,
    'reclaim -o json': 0,
  })
  const answers = Object.fromEntries(first.map(({ words, answer }) => [words, answer]))
  t.equal(answers['export golden -'], 'true', 'every byte came back through the pipe')
  t.equal(answers['the exported file'], 'true', 'and through the file')
  t.ok(statSync(join(alone, 'v1.raw')).blocks * 512 < 6 * MIB, 'which is sparse')
  t.notMatch(answers['list -t all -q'], /small|nothing|longer|unsized/, 'failures leave nothing')
  t.equal((await varve(served, 'check')).code, 4, 'a served pool is not checked')
  t.equal(await daemon.stop(), 0)
  for (const pool of [alone, served]) {
    const check = await varve(pool, 'check -o json')
    t.equal(check.code, 0, check.out.toString())
  }
})

t.test('an interrupted import leaves nothing behind, with a daemon and without', async (t) => {
  const pool = join(folder, 'interrupted')
  t.equal((await varve(pool, 'init')).code, 0)
  for (const mode of ['alone', 'served']) {
    const daemon = mode === 'served' ? await ServedPool.start(pool) : null
    const child = start(pool, 'import - half --size 1G --progress json')
    const result = run(child)
    // Some of it has been written; the rest does not come.
    child.stdin.write(randomBytes(8 * MIB))
    await new Promise<void>((resolve) => child.stderr.once('data', () => resolve()))
    child.kill('SIGINT')
    t.equal((await result).code, 130, mode)
    t.equal((await varve(pool, 'list -q')).out.toString(), '')
    if (daemon !== null) t.equal(await daemon.stop(), 0)
    t.equal((await varve(pool, 'check')).code, 0)
  }
})

t.test('serve says what to do where it cannot', async (t) => {
  const nowhere = await varve(join(folder, 'nowhere'), 'serve')
  t.equal(nowhere.code, 3)
  t.match(nowhere.error, 'varve init')
  t.notOk(existsSync(join(folder, 'nowhere')))
  const pool = join(folder, 'twice')
  await varve(pool, 'init')
  const daemon = await ServedPool.start(pool)
  const second = await varve(pool, 'serve')
  t.equal(second.code, 4)
  t.match(second.error, /varve serve, process \d+/, 'the holder is named')
  t.equal((await varve(pool, 'serve --tcp 0.0.0.0:0')).code, 4)
  t.equal(await daemon.stop(), 0)
  const open = await varve(pool, 'serve --tcp 0.0.0.0:0 --log-level silent')
  t.equal(open.code, 2, 'no plaintext beyond this host unless it was allowed')
  t.strictSame(
    readdirSync(pool).filter((name) => name.endsWith('.sock')),
    [],
    'sockets go with their server',
  )
  t.equal((await varve(pool, 'init')).code, 1, 'a pool is not made twice')
})
