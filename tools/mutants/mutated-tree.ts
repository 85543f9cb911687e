/**
 * A copy of the compiled simulator and of what it simulates, in which one module at a time is
 * another one. Below the project's root, so that packages and the addon are found as ever.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { projectRoot } from '../project.ts'
import { mutate } from './mutant.ts'
import type { Mutant } from './mutant.ts'

const compiledRoot = join(import.meta.dirname, '../..')
const COPIED_FOLDERS: readonly string[] = ['src', 'test/sim', 'test/support']

const COMPILER_OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  rewriteRelativeImportExtensions: true,
  verbatimModuleSyntax: true,
}

/** The text of a source file, by its path below the project's root. */
export function readSource(file: string): string {
  return readFileSync(join(projectRoot, file), 'utf8')
}

export class MutatedTree {
  readonly root: string
  readonly #sourceOf: (file: string) => string
  #whole: { path: string; text: string } | null = null

  constructor(sourceOf: (file: string) => string = readSource) {
    const parent = join(projectRoot, '.build')
    mkdirSync(parent, { recursive: true })
    this.root = mkdtempSync(join(parent, 'mutated-'))
    this.#sourceOf = sourceOf
    for (const folder of COPIED_FOLDERS) {
      cpSync(join(compiledRoot, folder), join(this.root, folder), {
        recursive: true,
        filter: (path) => !/\.(map|d\.ts)$/.test(path),
      })
    }
  }

  /** The module the mutant is of, and no other, is the mutated one. Throws if it does not apply. */
  apply(mutant: Mutant): void {
    this.restore()
    const source = mutate(mutant, this.#sourceOf(mutant.file))
    const { outputText } = ts.transpileModule(source, { compilerOptions: COMPILER_OPTIONS })
    const path = join(this.root, mutant.file.replace(/\.ts$/, '.js'))
    this.#whole = { path, text: readFileSync(path, 'utf8') }
    writeFileSync(path, outputText)
  }

  restore(): void {
    if (this.#whole !== null) writeFileSync(this.#whole.path, this.#whole.text)
    this.#whole = null
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}
