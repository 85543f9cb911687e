/** `varve tree`: lineage. */
import type { Command } from 'commander'
import type { VolumeInfo } from '../../api/shapes.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { writeOut } from '../context.ts'
import { addRecordOptions, writeJson, writeJsonLines } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

/** A disk with what descends from it: its snapshots, and the clones of it. */
export interface Lineage {
  name: string
  type: 'volume' | 'snapshot'
  sizeBytes: number
  mappedBytes: number
  children: Lineage[]
}

export function registerTree(program: Command, cli: Cli): void {
  const command = program
    .command('tree')
    .summary('what descends from what')
    .description('Draws volumes, their snapshots, and the clones made of either.')
    .action(async (options: OutputOptions) => {
      const volumes = await withService(cli, command, (service) => service.volumes())
      const roots = lineageOf(volumes)
      if (options.output === 'json') return writeJson(cli, { tree: roots })
      if (options.output === 'jsonl') return writeJsonLines(cli, roots)
      const size = options.exact === true ? String : formatSize
      return writeOut(cli.stdout, roots.flatMap((root) => drawing(root, size)).join(''))
    })
  addRecordOptions(command)
  addHelp(command, ['varve tree', 'varve tree -o json'])
}

/** Volumes whose origin is gone are roots, and so is one of any that name each other. */
export function lineageOf(volumes: readonly VolumeInfo[]): Lineage[] {
  const known = new Set(volumes.flatMap((v) => [v.name, ...v.snapshots.map((s) => s.name)]))
  const clones = new Map<string, VolumeInfo[]>()
  for (const volume of volumes) {
    if (volume.origin === null) continue
    clones.set(volume.origin, [...(clones.get(volume.origin) ?? []), volume])
  }
  const placed = new Set<string>()
  const grow = (volume: VolumeInfo): Lineage => {
    placed.add(volume.name)
    const cloned = (name: string): Lineage[] =>
      (clones.get(name) ?? []).filter((clone) => !placed.has(clone.name)).map(grow)
    const snapshots = volume.snapshots.map((snapshot): Lineage => {
      const { name, sizeBytes, mappedBytes } = snapshot
      return { name, type: 'snapshot', sizeBytes, mappedBytes, children: cloned(name) }
    })
    const { name, sizeBytes, mappedBytes } = volume
    const children = [...snapshots, ...cloned(name)]
    return { name, type: 'volume', sizeBytes, mappedBytes, children }
  }
  const isRoot = ({ origin }: VolumeInfo): boolean => origin === null || !known.has(origin)
  const roots = volumes.filter(isRoot).map(grow)
  for (const volume of volumes) if (!placed.has(volume.name)) roots.push(grow(volume))
  return roots
}

function drawing(root: Lineage, size: (bytes: number) => string): string[] {
  const line = ({ name, mappedBytes }: Lineage): string => `${name}  ${size(mappedBytes)}\n`
  const below = (parent: Lineage, indent: string): string[] =>
    parent.children.flatMap((child, index) => {
      const last = index === parent.children.length - 1
      const own = `${indent}${last ? '└─ ' : '├─ '}${line(child)}`
      return [own, ...below(child, `${indent}${last ? '   ' : '│  '}`)]
    })
  return [line(root), ...below(root, '')]
}
