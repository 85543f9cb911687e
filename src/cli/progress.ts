/** How far a long command has come: on stderr, and for people only when it is a terminal. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { CopyProgress } from '../api/shapes.ts'
import { formatSize } from '../base/units.ts'
import type { Cli } from './context.ts'
import { API_VERSION } from './output.ts'

export type ProgressMode = 'auto' | 'bar' | 'json' | 'none'

const LINE_INTERVAL_MS = 500

export function addProgressOption(command: Command): Command {
  return command.addOption(
    new Option('--progress <mode>', 'on stderr; auto: a bar on a terminal')
      .choices(['auto', 'bar', 'json', 'none'])
      .default('auto'),
  )
}

export interface ProgressDisplay {
  readonly update: (progress: CopyProgress) => void
  /** Takes the bar away. Idempotent. */
  end(): void
}

interface Painter {
  paint(progress: CopyProgress, bytesPerSecond: number): void
  end(): void
}

/** SIGUSR1 prints a line in every mode. */
export async function startProgress(
  cli: Cli,
  mode: ProgressMode,
  verb: string,
): Promise<ProgressDisplay> {
  const painter = await choosePainter(cli, mode, verb)
  const startMs = performance.now()
  let newest: CopyProgress = { doneBytes: 0, totalBytes: 0 }
  const rate = (): number => {
    const seconds = (performance.now() - startMs) / 1000
    return seconds > 0 ? Math.round(newest.doneBytes / seconds) : 0
  }
  const removeListener = cli.onSignal('SIGUSR1', () => {
    cli.stderr.write(`${progressLine(verb, newest, rate())}\n`)
  })
  return {
    update: (progress) => {
      newest = progress
      painter?.paint(progress, rate())
    },
    end: () => {
      removeListener()
      painter?.end()
    },
  }
}

export function progressLine(
  verb: string,
  { doneBytes, totalBytes }: CopyProgress,
  bytesPerSecond: number,
): string {
  const percent = totalBytes === 0 ? 0 : Math.floor((doneBytes / totalBytes) * 100)
  const speed = `${formatSize(bytesPerSecond)}/s`
  return `${verb} ${formatSize(doneBytes)} of ${formatSize(totalBytes)} (${percent} %), ${speed}`
}

async function choosePainter(cli: Cli, mode: ProgressMode, verb: string): Promise<Painter | null> {
  if (mode === 'json') return jsonPainter(cli)
  if (mode === 'bar' || (mode === 'auto' && cli.terminal.stderr)) return barPainter(cli, verb)
  return null
}

function jsonPainter(cli: Cli): Painter {
  let lastMs = -Infinity
  return {
    paint: (progress, bytesPerSecond) => {
      const nowMs = performance.now()
      const last = progress.doneBytes === progress.totalBytes
      if (!last && nowMs - lastMs < LINE_INTERVAL_MS) return
      lastMs = nowMs
      const line = { apiVersion: API_VERSION, progress: { ...progress, bytesPerSecond } }
      cli.stderr.write(`${JSON.stringify(line)}\n`)
    },
    end: () => undefined,
  }
}

async function barPainter(cli: Cli, verb: string): Promise<Painter> {
  const { SingleBar } = (await import('cli-progress')).default
  const bar = new SingleBar({
    stream: cli.stderr,
    format: `${verb} [{bar}] {percentage} % {done} of {whole}, {speed}`,
    hideCursor: true,
    clearOnComplete: true,
    noTTYOutput: true,
    barCompleteChar: '=',
    barIncompleteChar: ' ',
  })
  let started = false
  return {
    paint: ({ doneBytes, totalBytes }, bytesPerSecond) => {
      const shown = {
        done: formatSize(doneBytes),
        whole: formatSize(totalBytes),
        speed: `${formatSize(bytesPerSecond)}/s`,
      }
      if (started) {
        // One phase may be over and the next have another size.
        bar.setTotal(totalBytes)
        bar.update(doneBytes, shown)
      } else {
        bar.start(totalBytes, doneBytes, shown)
        started = true
      }
    },
    end: () => {
      if (started) bar.stop()
      started = false
    },
  }
}
