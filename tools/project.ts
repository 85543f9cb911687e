/** Where this checkout is and how its programs are called. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The folder of the package.json named "varve", above wherever this file was compiled to. */
export const projectRoot: string = findProjectRoot(import.meta.dirname)

/** The command line compiled together with this file, as program and first arguments. */
export const varveCommand: [string, string[]] = [
  process.execPath,
  [join(import.meta.dirname, '../src/cli/main.js')],
]

function findProjectRoot(start: string): string {
  for (let folder = start; folder !== dirname(folder); folder = dirname(folder)) {
    const path = join(folder, 'package.json')
    if (!existsSync(path)) continue
    const { name } = JSON.parse(readFileSync(path, 'utf8')) as { name?: string }
    if (name === 'varve') return folder
  }
  throw new Error(`no package.json named varve above ${start}`)
}
