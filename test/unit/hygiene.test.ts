/** The rules of the house that a machine can hold. Each failure names the file, line and reason. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { dependencyComplaints, lockComplaints } from '../../tools/audit/dependencies.ts'
import type { LockedPackage } from '../../tools/audit/dependencies.ts'
import { projectRoot } from '../../tools/project.ts'
import { summarize } from '../../tools/test-summary/summarize.ts'

const COLUMN_COUNT_MAX = 100
const FUNCTION_LINE_COUNT_MAX = 70
const FILE_LINE_COUNT_MAX = 800

interface SourceFile {
  path: string
  text: string
  lines: string[]
}

interface Layer {
  may: string[]
  why: string
}

const { layers } = JSON.parse(readFileSync(join(projectRoot, 'tools/layers.json'), 'utf8')) as {
  layers: Record<string, Layer>
}
const sources = ['src', 'test', 'tools', 'native'].flatMap((folder) => readSources(folder))
const typescript = sources.filter((source) => source.path.endsWith('.ts'))

function readSources(folder: string): SourceFile[] {
  return readdirSync(join(projectRoot, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.parentPath.includes(`native${sep}build`))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => /\.(ts|c|h|sh)$/.test(path) || /^#!/.test(readFileSync(path, 'utf8')))
    .map((path) => {
      const text = readFileSync(path, 'utf8')
      return { path: relative(projectRoot, path), text, lines: text.split('\n') }
    })
}

/** Every line of `files` for which `judge` gives a reason. */
function complaints(
  files: SourceFile[],
  judge: (line: string, file: SourceFile) => string | null,
): string[] {
  return files.flatMap((file) =>
    file.lines.flatMap((line, index) => {
      const reason = judge(line, file)
      return reason === null ? [] : [`${file.path}:${index + 1}: ${reason}`]
    }),
  )
}

function parse(source: { path: string; text: string }): ts.SourceFile {
  return ts.createSourceFile(source.path, source.text, ts.ScriptTarget.Latest, true)
}

/** Functions of a file that are too long, by their first line. */
function longFunctions(source: { path: string; text: string }): string[] {
  const file = parse(source)
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node)) {
      const first = file.getLineAndCharacterOfPosition(node.getStart()).line
      const last = file.getLineAndCharacterOfPosition(node.getEnd()).line
      const count = last - first + 1
      if (count > FUNCTION_LINE_COUNT_MAX) {
        found.push(`${source.path}:${first + 1}: a function of ${count} lines`)
      }
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

/** Module specifiers of a file: imports, re-exports, `import()` and `import('…').Type`. */
function importsOf(source: { path: string; text: string }): string[] {
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) {
      const specifier = node.moduleSpecifier
      if (specifier !== undefined && ts.isStringLiteral(specifier)) found.push(specifier.text)
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const specifier = node.arguments[0]
      if (ts.isStringLiteral(specifier)) found.push(specifier.text)
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      if (ts.isStringLiteral(node.argument.literal)) found.push(node.argument.literal.text)
    }
    ts.forEachChild(node, visit)
  }
  visit(parse(source))
  return found
}

/** Why a file may not import what it imports. Exports are layers of their own, one a folder. */
function layerComplaints(source: { path: string; text: string }): string[] {
  const [area, layer, ...rest] = source.path.split(sep)
  if (area !== 'src') return []
  if (!(layer in layers)) return [`${source.path}: src/${layer} is not in tools/layers.json`]
  const { may, why } = layers[layer]
  return importsOf(source).flatMap((specifier) => {
    if (!specifier.startsWith('.')) {
      const isBuiltin = specifier.startsWith('node:')
      if (layer !== 'base' || isBuiltin || specifier === 'xxhash-wasm') return []
      return [`${source.path} imports ${specifier}: ${why}`]
    }
    const target = join(dirname(source.path), specifier).split(sep)
    const reason = `${source.path} imports ${specifier}: ${why}`
    if (target[0] !== 'src') return [`${source.path} imports ${specifier}: it is not part of src`]
    if (target[1] === 'export' && target[2] === 'target.ts' && may.includes('export/target'))
      return []
    if (target[1] !== layer) return may.includes(target[1]) ? [] : [reason]
    const isOtherExport = layer === 'export' && rest.length > 1 && target[2] !== rest[0]
    return isOtherExport ? [reason] : []
  })
}

/** The modules of src that start other programs: each with its limits, and without a shell. */
const STARTERS: readonly string[] = [
  'src/base/host-tool.ts',
  'src/export/fuse/mount-point.ts',
  'src/image/limited-process.ts',
  'src/image/rootfs/build-rootfs.ts',
  'src/image/rootfs/tool.ts',
  'src/io/fallocate.ts',
]
/** Of node:child_process: what takes words, not a line for a shell. */
const WORD_TAKERS: readonly string[] = ['spawn', 'spawnSync', 'execFile', 'execFileSync', 'fork']
const SHELLS = /^(.*\/)?(sh|bash|dash|ash|zsh|ksh|env|xargs|eval)$/

/** Ways to a shell, and programs started where nobody would look for it. */
function processComplaints(source: { path: string; text: string }): string[] {
  const isProduct = source.path.startsWith('src')
  const found: string[] = []
  const complain = (fact: string): number => found.push(`${source.path}: ${fact}`)
  const visitImport = (node: ts.ImportDeclaration): void => {
    if (isProduct && !STARTERS.includes(source.path)) complain('starts programs')
    const bindings = node.importClause?.namedBindings
    if (bindings === undefined || !ts.isNamedImports(bindings)) {
      complain('takes all of child_process')
      return
    }
    for (const { name, propertyName, isTypeOnly } of bindings.elements) {
      const isType = isTypeOnly || node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword
      const taken = (propertyName ?? name).text
      if (!isType && !WORD_TAKERS.includes(taken)) complain(`${taken} runs a shell`)
    }
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && isChildProcess(node.moduleSpecifier)) visitImport(node)
    else if (ts.isExportDeclaration(node) && isChildProcess(node.moduleSpecifier)) {
      complain('hands child_process on')
    } else if (ts.isCallExpression(node)) {
      if (node.arguments.some(isChildProcess)) complain('loads child_process while running')
      const isStart = WORD_TAKERS.includes(node.expression.getText())
      const [command] = node.arguments
      if (isStart && ts.isStringLiteral(command) && SHELLS.test(command.text)) {
        complain(`starts ${command.text}`)
      }
    } else if (
      (ts.isPropertyAssignment(node) || ts.isShorthandPropertyAssignment(node)) &&
      node.name.getText().replaceAll(/['"]/g, '') === 'shell'
    ) {
      complain('has an option `shell`')
    }
    ts.forEachChild(node, visit)
  }
  visit(parse(source))
  return found
}

function isChildProcess(node: ts.Node | undefined): boolean {
  return node !== undefined && ts.isStringLiteral(node) && /^(node:)?child_process$/.test(node.text)
}

t.test('files, functions and lines stay short', async (t) => {
  const wide = complaints(sources, (line) => {
    const columnCount = Array.from(line).length
    return columnCount > COLUMN_COUNT_MAX ? `${columnCount} columns` : null
  })
  const tall = sources
    .filter((source) => source.lines.length - 1 > FILE_LINE_COUNT_MAX)
    .map((source) => `${source.path}: ${source.lines.length - 1} lines`)
  t.strictSame(wide, [], `at most ${COLUMN_COUNT_MAX} columns`)
  t.strictSame(tall, [], `at most ${FILE_LINE_COUNT_MAX} lines a file`)
  const long = typescript.flatMap(longFunctions)
  t.strictSame(long, [], `at most ${FUNCTION_LINE_COUNT_MAX} lines a function`)
})

t.test('nothing is left over', async (t) => {
  // Spelled apart, so that this file does not complain about itself.
  const notes = ['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK']
  const leftovers: [RegExp, string][] = [
    [new RegExp(`\\b(${notes.join('|')})\\b`), 'a note to oneself'],
    [new RegExp('(eslint-dis' + 'able|prettier-ig' + 'nore)'), 'a rule switched off'],
    [new RegExp('@ts-' + '(ignore|nocheck|expect-error)'), 'a type error silenced'],
    [new RegExp('\\.' + '(only|skip)\\('), 'a test chosen or skipped by hand'],
    [new RegExp('\\bdebug' + 'ger\\b'), 'a breakpoint'],
    [/[ \t]+$/, 'blanks at the end of the line'],
  ]
  const found = complaints(sources, (line) => {
    const leftover = leftovers.find(([pattern]) => pattern.test(line))
    return leftover === undefined ? null : leftover[1]
  })
  t.strictSame(found, [])
})

t.test('a file is named after its one subject', async (t) => {
  const vague = /(^|[-/])(utils?|helpers?|managers?|misc|common|stuff)([-./]|$)/
  const found = sources.map((source) => source.path).filter((path) => vague.test(path))
  t.strictSame(found, [], 'no folder of things that belong nowhere')
  const shouting = typescript
    .map((source) => source.path)
    .filter((path) => !/^[a-z0-9./-]+$/.test(path))
  t.strictSame(shouting, [], 'names are lower-case words joined by hyphens')
  const declared = complaints(typescript, (line) => {
    const match = /\b(?:class|interface|function)\s+(\w*(?:Manager|Helper|Util)s?)\b/.exec(line)
    return match === null ? null : `${match[1]} does not say what it is`
  })
  t.strictSame(declared, [])
})

t.test('imports keep to the layers of the design', async (t) => {
  t.strictSame(typescript.flatMap(layerComplaints), [])
})

t.test('programs are started from few places, and never through a shell', async (t) => {
  const programs = typescript.filter(({ path }) => !path.startsWith('test'))
  t.strictSame(programs.flatMap(processComplaints), [])
  const judge = (path: string, text: string) => processComplaints({ path, text }).length
  const from = "from 'node:child_process'"
  t.equal(judge('src/base/host-tool.ts', `import { spawn } ${from}`), 0)
  t.equal(judge('src/pool/a.ts', `import { spawn } ${from}`), 1, 'an unknown starter')
  t.equal(judge('tools/a.ts', `import { spawn } ${from}`), 0)
  t.equal(judge('tools/a.ts', `import { exec } ${from}`), 1)
  t.equal(judge('tools/a.ts', `import { execSync as spawn } ${from}`), 1)
  t.equal(judge('tools/a.ts', `import type { ChildProcess } ${from}`), 0)
  t.equal(judge('tools/a.ts', `import * as processes ${from}`), 1)
  t.equal(judge('tools/a.ts', "const c = await import('child_process')"), 1)
  t.equal(judge('tools/a.ts', "const c = require('node:child_process')"), 1)
  t.equal(judge('tools/a.ts', `export { exec } ${from}`), 1)
  t.equal(judge('tools/a.ts', "spawn('ls', [], { shell: true })"), 1)
  t.equal(judge('tools/a.ts', "spawn('/bin/sh', ['-c', line])"), 1)
})

t.test(
  'dependencies are what the lock file says, from the registry, and run nothing',
  async (t) => {
    t.strictSame(dependencyComplaints(projectRoot), [])
    const good = { version: '1.0.0', integrity: 'sha512-x', license: 'MIT' }
    const judge = (more: LockedPackage, manifest = {}) => {
      const packages = { '': {}, 'node_modules/a': { ...good, ...more } }
      return lockComplaints(manifest, { lockfileVersion: 3, packages }).length
    }
    t.equal(judge({}), 0)
    t.equal(judge({ resolved: 'https://registry.npmjs.org/a/-/a-1.0.0.tgz' }), 0)
    t.equal(judge({ resolved: 'https://elsewhere.example/a.tgz' }), 1)
    t.equal(judge({ resolved: 'git+ssh://git@elsewhere.example/a.git' }), 1)
    t.equal(judge({ integrity: 'sha1-x' }), 1)
    t.equal(judge({ link: true }), 1)
    t.equal(judge({ license: 'AGPL-3.0' }), 1)
    t.equal(judge({ license: 'AGPL-3.0', dev: true }), 0)
    t.equal(judge({ hasInstallScript: true }), 1)
    t.equal(judge({ hasInstallScript: true }, { allowScripts: { a: false } }), 0)
    t.equal(judge({}, { dependencies: { b: '^1.0.0' } }), 1, 'the lock is of another package.json')
  },
)

t.test('the checks above can fail', async (t) => {
  const judge = (path: string, text: string) => layerComplaints({ path, text }).length
  t.equal(judge('src/map/a.ts', "import type { Io } from '../io/io.ts'"), 1, 'map → io')
  t.equal(judge('src/pool/a.ts', "import { x } from '../export/nbd/server.ts'"), 1, 'pool → nbd')
  t.equal(judge('src/pool/a.ts', "import type { T } from '../export/target.ts'"), 0)
  t.equal(judge('src/export/nbd/a.ts', "export * from '../fuse/server.ts'"), 1, 'nbd → fuse')
  t.equal(judge('src/export/nbd/a.ts', "export * from './server.ts'"), 0)
  t.equal(judge('src/export/nbd/a.ts', "import '../target.ts'"), 0)
  t.equal(judge('src/base/a.ts', "const x = await import('lru-cache')"), 1, 'base → a package')
  t.equal(judge('src/api/a.ts', "let x: import('../pool/types.ts').PoolInfo"), 1, 'a type')
  t.equal(judge('src/cli/a.ts', "import '../../tools/tour.ts'"), 1, 'src → tools')
  t.equal(judge('src/elsewhere/a.ts', ''), 1, 'a folder that is in no layer')
  const body = 'x()\n'.repeat(FUNCTION_LINE_COUNT_MAX - 2)
  t.equal(longFunctions({ path: 'a.ts', text: `function f() {\n${body}}` }).length, 0)
  t.equal(longFunctions({ path: 'a.ts', text: `function f() {\n\n${body}}` }).length, 1)
})

t.test('the summary of a test run counts tests and never hides a failure', async (t) => {
  const count = (lines: string[], exitCode = 0) => {
    const { passed, failed } = summarize(lines.join('\n'), exitCode)
    return [passed, failed]
  }
  const file = (ok: boolean, ...points: string[]) => [
    '# Subtest: a.test.js',
    ...points.map((point) => `    ${point}`),
    `${ok ? 'ok' : 'not ok'} 1 - a.test.js # time=5ms`,
  ]
  t.strictSame(count([]), [0, 1], 'no results are a failure')
  t.strictSame(count(file(true)), [0, 1], 'a file without tests is a failure')
  t.strictSame(count(file(true, '    ok 1 - an assertion', 'ok 1 - one # time=1ms')), [1, 0])
  t.strictSame(count(file(true, 'ok 1 - one # time=1ms {', '    ok 1 - x', '}')), [1, 0])
  t.strictSame(count(file(false, 'ok 1 - one', 'not ok 2 - two # time=1ms')), [1, 1])
  t.strictSame(count(file(false, 'ok 1 - one')), [1, 1], 'a file that fails after its tests')
  t.strictSame(count(file(true, 'ok 1 - one', 'ok 2 - two # SKIP no tool')), [1, 0])
  t.strictSame(count(file(true, 'ok 1 - one'), 1), [1, 1], 'an exit code nobody explains')
  t.strictSame(count(['    ok 1 - one']), [1, 1], 'results cut short')
  t.strictSame(count(file(true, 'ok 1 - one', '  ---', '  at: |', '    not ok 9', '  ...')), [1, 0])
  const told = ['    ok 1 - x', '    not ok 2 - y is z', 'not ok 1 - one', 'ok 2 - two # SKIP no w']
  const { remarks } = summarize(file(false, ...told).join('\n'), 1)
  t.strictSame(remarks, ['failed: one: y is z', 'skipped: two (no w)'], 'and says why')
})
