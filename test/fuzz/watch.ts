import { Worker } from 'node:worker_threads'

export const INPUT_OFFSET_BYTES = 16
const SHARED_BYTES = 8 * 2 ** 20

export interface WatchData {
  /** Number of the execution, length of its input, the input. */
  shared: SharedArrayBuffer
  /** Folder where the input of an execution without end goes. */
  path: string
  limitMs: number
}

/** Kills this process when one execution takes too long, after saving what it was given. */
export class Watch {
  readonly #shared: SharedArrayBuffer = new SharedArrayBuffer(SHARED_BYTES)
  readonly #words: Int32Array
  readonly #input: Uint8Array
  readonly #worker: Worker

  constructor(path: string, limitMs: number) {
    this.#words = new Int32Array(this.#shared, 0, 4)
    this.#input = new Uint8Array(this.#shared, INPUT_OFFSET_BYTES)
    const workerData: WatchData = { shared: this.#shared, path, limitMs }
    // Without the hooks of this process: the thread is not what is measured.
    const options = { workerData, execArgv: [] }
    this.#worker = new Worker(new URL('./watch-thread.js', import.meta.url), options)
    this.#worker.unref()
  }

  begin(target: string): void {
    this.#worker.postMessage(target)
  }

  before(input: Uint8Array): void {
    this.#input.set(input)
    Atomics.store(this.#words, 1, input.length)
    Atomics.add(this.#words, 0, 1)
  }

  async end(): Promise<void> {
    await this.#worker.terminate()
  }
}
