/** What QEMU's monitor protocol is needed for here: one command at a time, over a unix socket. */
import { connect, type Socket } from 'node:net'
import { createInterface, type Interface } from 'node:readline'

interface Answer {
  return?: unknown
  error?: { desc: string }
}

export class StorageDaemonMonitor {
  readonly #socket: Socket
  readonly #lines: Interface
  /** Of the command that was sent last. */
  #onAnswer: ((answer: Answer) => void) | null = null

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#lines = createInterface({ input: socket })
    this.#lines.on('line', (line) => {
      const message = JSON.parse(line) as Answer
      // Greetings and events are nobody's answer.
      if ('return' in message || 'error' in message) this.#settle(message)
    })
    socket.on('error', (error) => this.#settle({ error: { desc: error.message } }))
    socket.on('close', () => this.#settle({ error: { desc: 'it went away' } }))
  }

  static async open(path: string): Promise<StorageDaemonMonitor> {
    const monitor = new StorageDaemonMonitor(connect(path))
    await monitor.execute('qmp_capabilities')
    return monitor
  }

  /** Rejects with what QEMU says against it. */
  async execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    if (this.#onAnswer !== null) throw new Error('one command at a time')
    const answer = await new Promise<Answer>((resolve) => {
      this.#onAnswer = resolve
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`)
    })
    if (answer.error !== undefined) throw new Error(`${command}: ${answer.error.desc}`)
    return answer.return
  }

  close(): void {
    this.#lines.close()
    this.#socket.destroy()
  }

  #settle(answer: Answer): void {
    const onAnswer = this.#onAnswer
    this.#onAnswer = null
    onAnswer?.(answer)
  }
}
