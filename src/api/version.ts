/** The version of this program, as its package says. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { AssertionError } from '../base/assert.ts'

/** Walks up from this file to the package named "varve": the build may lie at any depth. */
export function programVersion(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const found = tryVersion(join(folder, 'package.json'))
    if (found !== null) return found
    if (folder === dirname(folder)) throw new AssertionError('the package.json of varve is missing')
  }
}

function tryVersion(path: string): string | null {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    return null
  }
  const manifest = JSON.parse(text) as { name?: string; version?: string }
  return manifest.name === 'varve' ? (manifest.version ?? null) : null
}
