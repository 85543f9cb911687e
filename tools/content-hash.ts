/** SHA-256 of everything an NBD export holds, as a client reads it. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'

export function contentHash(uri: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('nbdcopy', [uri, '-'], { stdio: ['ignore', 'pipe', 'inherit'] })
    const hash = createHash('sha256')
    child.stdout.on('data', (chunk: Buffer) => hash.update(chunk))
    child.once('error', reject)
    child.once('close', (code) =>
      code === 0 ? resolve(hash.digest('hex')) : reject(new Error(`nbdcopy exited with ${code}`)),
    )
  })
}
