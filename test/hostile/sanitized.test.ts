/** The addon's own tests under sanitizers; `tools/test-sanitized` runs more, and `--all` all. */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import t from 'tap'
import { projectRoot } from '../../tools/project.ts'

const TIMEOUT_MS = 600_000
const NO_SANITIZERS = 3
const COMPILED = fileURLToPath(new URL('../..', import.meta.url))
t.setTimeout(TIMEOUT_MS)

function smoke(): Promise<{ code: number | null; said: string }> {
  const script = join(projectRoot, 'tools/test-sanitized')
  const child = spawn(script, ['--smoke', '--from', COMPILED], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()))
  child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString()))
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, said })))
}

t.test('the addon is clean, and planted faults are seen', { timeout: TIMEOUT_MS }, async (t) => {
  const { code, said } = await smoke()
  if (code === NO_SANITIZERS) t.pass('sanitizers', { skip: said.trim() })
  else t.equal(code, 0, said)
})
