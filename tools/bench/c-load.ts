/** The programs in C beside this file that put load on a disk, each told the same words. */
import { join } from 'node:path'
import { KIB, MIB } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { projectRoot } from '../project.ts'
import type { FioLimits, FioResult, Workload } from './fio.ts'

/** Compiles one of them; resolves to its path. */
export async function buildLoad(folder: string, name: string, ...flags: string[]): Promise<string> {
  const program = join(folder, name)
  const source = join(projectRoot, 'tools/bench', `${name}.c`)
  await run('cc', ['-O2', '-Wall', '-Wextra', '-Werror', ...flags, '-o', program, source])
  return program
}

/** The words that all of them take after the place of the disk. */
export function loadWords(workload: Workload, limits: FioLimits): string[] {
  const { pattern, blockSizes, queueDepth } = workload
  const unit = blockSizes.endsWith('m') ? MIB : KIB
  return [
    pattern.endsWith('write') ? 'write' : 'read',
    String(limits.sizeBytes),
    String(Number.parseInt(blockSizes, 10) * unit),
    String(queueDepth),
    String(limits.seconds),
    String(limits.seed ?? 1),
    pattern.startsWith('rand') ? 'random' : 'ordered',
  ]
}

interface LoadResult {
  operationCount: number
  latencyMedianUs: number
  latency99Us: number
}

/** Of the line that a program has printed, which was told `words`. */
export function resultOf(line: string, words: readonly string[]): FioResult {
  const { operationCount, latencyMedianUs, latency99Us } = JSON.parse(line) as LoadResult
  const [blockBytes, seconds] = [Number(words[2]), Number(words[4])]
  if (operationCount === 0) throw new Error('the load moved nothing')
  return {
    iops: operationCount / seconds,
    bytesPerSecond: (operationCount * blockBytes) / seconds,
    movedBytes: operationCount * blockBytes,
    operationCount,
    latencyMedianUs,
    latency99Us,
  }
}

/** A subject's load by one of the programs. `place`: what it is told of where the disk is. */
export function programLoad(
  program: string,
  place: string,
): (workload: Workload, limits: FioLimits) => Promise<FioResult> {
  return async (workload, limits) => {
    const words = loadWords(workload, limits)
    return resultOf((await run(program, [place, ...words])).stdout, words)
  }
}
