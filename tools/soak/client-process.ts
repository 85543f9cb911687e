/** A client of the soak, seen from its parent. */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { ClientRequest } from './client.ts'

const PROGRAM = fileURLToPath(new URL('./client.js', import.meta.url))
const TIMEOUT_MS = 300_000

interface Waiting {
  resolve: (value: unknown) => void
  reject: (error: Error) => void
}

export class ClientProcess {
  readonly name: string
  readonly #child: ChildProcess
  readonly #waiting: Map<number, Waiting> = new Map()
  #nextId = 1

  constructor(name: string) {
    this.name = name
    this.#child = fork(PROGRAM)
    this.#child.on('message', (message) => {
      const { id, value, error } = message as { id: number; value?: unknown; error?: string }
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error === undefined) waiting?.resolve(value)
      else waiting?.reject(new Error(`${name}: ${error}`))
    })
    this.#child.on('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`${name} has ended`))
    })
  }

  /** Rejects with what the client says is wrong, or when it does not answer. */
  ask(request: ClientRequest): Promise<unknown> {
    const id = this.#nextId
    this.#nextId += 1
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`${this.name} does not answer to "${request.verb}"`))
      }, TIMEOUT_MS)
      const end = <T>(then: (value: T) => void) => {
        return (value: T): void => {
          clearTimeout(timer)
          then(value)
        }
      }
      this.#waiting.set(id, { resolve: end(resolve), reject: end(reject) })
      this.#child.send({ id, request })
    })
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.kill('SIGKILL')
    await exited
  }
}
