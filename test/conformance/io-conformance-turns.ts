/** Promises about when things happen: completions, turns, hooks, timers. */
import type { Test } from 'tap'
import type { Io, IoCompletion, IoFile } from '../../src/io/io.ts'
import { ioResult } from '../../src/io/io.ts'
import type { MakeIo } from './io-conformance.ts'
import { patternBytes, pieceOf, vectorOf } from './io-conformance-files.ts'

function nextTurn(io: Io): Promise<void> {
  return new Promise((resolve) => io.atTurnEnd({ turnEnd: resolve }))
}

async function writtenFile(io: Io, folder: string): Promise<IoFile> {
  const file = await io.open(`${folder}/a`, 'create')
  io.writeSync(file, 0, vectorOf(pieceOf(io, patternBytes(65536, 1))))
  return file
}

type Case = (t: Test, io: Io, folder: string) => Promise<void>

const CASES: Readonly<Record<string, Case>> = {
  'no completion runs inside the call that started it, nested or not': async (t, io, folder) => {
    const file = await writtenFile(io, folder)
    const at = io.arena.allocate(4096)
    let isInside = false
    let inside = 0
    let left = 50
    await new Promise<void>((resolve) => {
      const completion: IoCompletion = {
        ioComplete(): void {
          if (isInside) inside += 1
          left -= 1
          if (left === 0) resolve()
          else start()
        },
      }
      const start = (): void => {
        isInside = true
        if (left % 2 === 0) io.read(file, 0, at, 4096, completion, 0)
        else io.sync(file, completion, 0)
        isInside = false
      }
      start()
    })
    t.equal(inside, 0)
    await io.close(file)
  },

  'each operation completes once, with its own tag': async (t, io, folder) => {
    const file = await writtenFile(io, folder)
    const seen: number[] = []
    const tags = [0, 1, -5, 2 ** 31, 2 ** 40]
    const at = io.arena.allocate(4096)
    await new Promise<void>((resolve) => {
      const completion: IoCompletion = {
        ioComplete(tag, result): void {
          seen.push(tag)
          if (result !== 100) t.fail(`result ${result}`)
          if (seen.length === tags.length) resolve()
        },
      }
      for (const tag of tags) io.read(file, 0, at, 100, completion, tag)
    })
    await nextTurn(io)
    await nextTurn(io)
    t.strictSame(seen.toSorted(), tags.toSorted())
    await io.close(file)
  },

  'a hook runs once however often it was asked for, and not inside the call': async (t, io) => {
    let calls = 0
    const hook = { turnEnd: () => void (calls += 1) }
    io.atTurnEnd(hook)
    io.atTurnEnd(hook)
    t.equal(calls, 0)
    await nextTurn(io)
    t.equal(calls, 1)
    await nextTurn(io)
    t.equal(calls, 1, 'and not again unless asked for')
    io.atTurnEnd(hook)
    await nextTurn(io)
    t.equal(calls, 2)
  },

  'a hook that another asks for runs in the same turn, one that has run in the next': async (
    t,
    io,
  ) => {
    const events: string[] = []
    let turn = 0
    let asksAgain = true
    const first = {
      turnEnd: (): void => {
        events.push(`first ${turn}`)
        if (asksAgain) io.atTurnEnd(second)
        asksAgain = false
      },
    }
    const second = {
      turnEnd: (): void => {
        events.push(`second ${turn}`)
        io.atTurnEnd(first)
      },
    }
    io.atTurnEnd(first)
    for (turn = 1; turn < 4; turn += 1) await nextTurn(io)
    t.strictSame(events, ['first 1', 'second 1', 'first 2'])
  },

  'a hook asked for in a completion runs after it': async (t, io, folder) => {
    const file = await writtenFile(io, folder)
    const events: string[] = []
    const at = io.arena.allocate(4096)
    await new Promise<void>((resolve) => {
      const hook = {
        turnEnd: (): void => {
          events.push('hook')
          resolve()
        },
      }
      const completion: IoCompletion = {
        ioComplete(): void {
          io.atTurnEnd(hook)
          events.push('completion')
        },
      }
      io.read(file, 0, at, 4096, completion, 0)
    })
    t.strictSame(events, ['completion', 'hook'])
    await io.close(file)
  },

  'a hook that asks again runs again in a later turn, forever if it likes': async (t, io) => {
    let calls = 0
    let depth = 0
    await new Promise<void>((resolve) => {
      const hook = {
        turnEnd: (): void => {
          t.equal(depth, 0, 'not nested')
          depth += 1
          calls += 1
          if (calls === 20) resolve()
          else io.atTurnEnd(hook)
          depth -= 1
        },
      }
      io.atTurnEnd(hook)
    })
    t.equal(calls, 20)
  },

  'operations started in a hook complete': async (t, io, folder) => {
    const file = await writtenFile(io, folder)
    const result = await ioResult((completion) => {
      io.atTurnEnd({ turnEnd: () => io.sync(file, completion, 0) })
    })
    t.equal(result, 0)
    await io.close(file)
  },

  'timers fire in order, a cancelled one never does, and clocks move on': async (t, io) => {
    const started = io.nowMs()
    const fired: string[] = []
    const cancel = io.setTimer(5, () => fired.push('cancelled'))
    await new Promise<void>((resolve) => {
      const keepAlive = setInterval(() => undefined, 1000)
      io.setTimer(30, () => {
        fired.push('late')
        clearInterval(keepAlive)
        resolve()
      })
      io.setTimer(10, () => fired.push('early'))
      cancel()
    })
    t.strictSame(fired, ['early', 'late'])
    t.ok(io.nowMs() - started >= 29)
    t.ok(Number.isFinite(io.wallClockMs()))
    t.equal(io.randomBytes(33).length, 33)
    t.notSame(io.randomBytes(16), io.randomBytes(16))
  },

  'timers fire while the ring is busy': async (t, io, folder) => {
    const file = await writtenFile(io, folder)
    const at = io.arena.allocate(4096)
    let isOver = false
    let reads = 0
    let begun: () => void = () => undefined
    const busy = new Promise<void>((resolve) => {
      begun = resolve
    })
    const finished = new Promise<void>((resolve) => {
      const completion: IoCompletion = {
        ioComplete(): void {
          reads += 1
          if (reads === 10) begun()
          if (isOver) resolve()
          else io.read(file, 0, at, 4096, completion, 0)
        },
      }
      io.read(file, 0, at, 4096, completion, 0)
    })
    await busy
    await new Promise<void>((resolve) => {
      io.setTimer(20, () => {
        isOver = true
        resolve()
      })
    })
    await finished
    t.ok(reads > 10)
    await io.close(file)
  },
}

export async function turnConformance(t: Test, makeIo: MakeIo): Promise<void> {
  for (const [name, run] of Object.entries(CASES)) {
    await t.test(name, async (t) => {
      const world = await makeIo()
      await run(t, world.io, world.folder)
      await world.io.shutdown()
      await world.dispose()
    })
  }
}
