/**
 * Puts a counter into every branch of a compiled module: functions, both ways of an `if` and of a
 * `?:`, the right side of `&&`, `||` and `??`, loop bodies, cases and handlers. No line is added,
 * so that stack traces still fit the source maps.
 */
import ts from 'typescript'

/** What a copy of a module is changed by, to see that the fuzzer finds it. */
export interface Plant {
  /** End of the module's path. */
  module: string
  /** Stands exactly once in the compiled module. */
  from: string
  to: string
}

const LITERAL_COUNT_MAX = 400
const TEXT_LENGTH_MAX = 24

export function plantInto(code: string, plant: Plant): string {
  const pieces = code.split(plant.from)
  if (pieces.length !== 2) {
    throw new Error(`"${plant.from}" stands ${pieces.length - 1} times in ${plant.module}`)
  }
  return pieces.join(plant.to)
}

export function instrument(code: string, name: string): string {
  const file = ts.createSourceFile(name, code, ts.ScriptTarget.ES2023, true, ts.ScriptKind.JS)
  const counters = new Counters(file)
  counters.visit(file)
  const literals = JSON.stringify([...counters.literals].slice(0, LITERAL_COUNT_MAX))
  const claim = `globalThis.claimFuzzEdges?.(${counters.count},${literals})`
  return `const $edges=${claim}??new Uint8Array(${counters.count});${counters.apply(code)}`
}

interface Insertion {
  opening: string
  closing: string
}

class Counters {
  count = 0
  readonly literals = new Set<number | string>()
  readonly #file: ts.SourceFile
  readonly #insertions = new Map<number, Insertion>()

  constructor(file: ts.SourceFile) {
    this.#file = file
  }

  /** At one place what closes comes before what opens, the inner before the outer. */
  apply(code: string): string {
    const places = [...this.#insertions.keys()].sort((a, b) => a - b)
    let result = ''
    let done = 0
    for (const at of places) {
      const { opening, closing } = this.#at(at)
      result += code.slice(done, at) + closing + opening
      done = at
    }
    return result + code.slice(done)
  }

  visit(node: ts.Node): void {
    const close = this.#open(node)
    ts.forEachChild(node, (child) => this.visit(child))
    close?.()
  }

  #at(place: number): Insertion {
    const found = this.#insertions.get(place) ?? { opening: '', closing: '' }
    this.#insertions.set(place, found)
    return found
  }

  #next(): string {
    this.count += 1
    return `$edges[${this.count - 1}]++`
  }

  /** What is to be closed once the children have been visited, if anything. */
  #open(node: ts.Node): (() => void) | null {
    const { parent } = node
    this.#collect(node)
    if (isBranchStatement(node, parent)) return this.#wrapStatement(node)
    if (ts.isIfStatement(node) && node.elseStatement === undefined) {
      const counter = this.#next()
      return () => (this.#at(node.end).closing += ` else {${counter}}`)
    }
    if (ts.isBlock(node) && (ts.isFunctionLike(parent) || ts.isCatchClause(parent))) {
      this.#at(node.getStart(this.#file) + 1).opening += `${this.#next()};`
    } else if (ts.isCaseOrDefaultClause(node)) {
      this.#at(node.statements.pos).opening += ` ${this.#next()};`
    } else if (isBranchExpression(node, parent)) {
      this.#at(node.getStart(this.#file)).opening += `(${this.#next()},`
      return () => (this.#at(node.end).closing += ')')
    }
    return null
  }

  #wrapStatement(node: ts.Statement): (() => void) | null {
    const start = node.getStart(this.#file)
    if (ts.isBlock(node)) {
      this.#at(start + 1).opening += `${this.#next()};`
      return null
    }
    this.#at(start).opening += `{${this.#next()};`
    const close = this.#elseOf(node)
    return () => {
      close()
      this.#at(node.end).closing += '}'
    }
  }

  /** A statement that is wrapped may itself be an `if` without an `else`. */
  #elseOf(node: ts.Statement): () => void {
    if (!ts.isIfStatement(node) || node.elseStatement !== undefined) return () => undefined
    const counter = this.#next()
    return () => (this.#at(node.end).closing += ` else {${counter}}`)
  }

  #collect(node: ts.Node): void {
    if (ts.isNumericLiteral(node)) this.literals.add(Number(node.text))
    if (!ts.isStringLiteral(node) || ts.isImportDeclaration(node.parent)) return
    const isShort = node.text.length > 0 && node.text.length <= TEXT_LENGTH_MAX
    if (isShort && !/\s.*\s/.test(node.text)) this.literals.add(node.text)
  }
}

function isBranchStatement(node: ts.Node, parent: ts.Node | undefined): node is ts.Statement {
  if (parent === undefined) return false
  if (ts.isIfStatement(parent)) return node !== parent.expression
  return ts.isIterationStatement(parent, false) && node === parent.statement
}

const SHORT_CIRCUITS: readonly ts.SyntaxKind[] = [
  ts.SyntaxKind.AmpersandAmpersandToken,
  ts.SyntaxKind.BarBarToken,
  ts.SyntaxKind.QuestionQuestionToken,
]

function isBranchExpression(node: ts.Node, parent: ts.Node | undefined): boolean {
  if (parent === undefined) return false
  if (ts.isConditionalExpression(parent)) {
    return node === parent.whenTrue || node === parent.whenFalse
  }
  if (ts.isArrowFunction(parent)) return node === parent.body && !ts.isBlock(node)
  if (!ts.isBinaryExpression(parent) || node !== parent.right) return false
  return SHORT_CIRCUITS.includes(parent.operatorToken.kind)
}
