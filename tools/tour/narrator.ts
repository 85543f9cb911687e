/** What the tour prints: headings, the commands as one would type them, and what was verified. */
import { commandLine, run, type RunResult } from '../command.ts'
import { varveCommand } from '../project.ts'

const USES_COLOR = process.stdout.isTTY && process.env.NO_COLOR === undefined

/** Something the tour promised does not hold. */
export class TourFailure extends Error {}

export class Narrator {
  readonly #pool: string
  #verifiedCount = 0

  constructor(pool: string) {
    this.#pool = pool
  }

  get verifiedCount(): number {
    return this.#verifiedCount
  }

  heading(text: string): void {
    console.log(`\n${style('1', text)}`)
  }

  say(text: string): void {
    console.log(indented(text))
  }

  /** Shows and runs `varve …` on the tour's pool, and shows what it printed. */
  async varve(...args: string[]): Promise<string> {
    this.show('varve', args)
    const [program, first] = varveCommand
    const { stdout } = await run(program, [...first, ...args], { env: { VARVE_POOL: this.#pool } })
    if (stdout.trim() !== '') console.log(indented(stdout.trimEnd()))
    return stdout
  }

  /** Shows and runs another program; its output is the caller's to show. */
  async client(program: string, ...args: string[]): Promise<RunResult> {
    this.show(program, args)
    return run(program, args)
  }

  show(program: string, args: readonly string[]): void {
    console.log(`  ${style('36', `$ ${commandLine(program, args)}`)}`)
  }

  /** Throws {@link TourFailure} unless `holds`. */
  verify(holds: boolean, fact: string): void {
    if (!holds) throw new TourFailure(`this does not hold: ${fact}`)
    this.#verifiedCount += 1
    console.log(`  ${style('32', '✔')} ${fact}`)
  }
}

function style(code: string, text: string): string {
  return USES_COLOR ? `\u001b[${code}m${text}\u001b[0m` : text
}

function indented(text: string): string {
  return text.replaceAll(/^/gm, '    ')
}
