/**
 * What `debugfs` is told to write into a new filesystem: owners, modes, times, attributes and
 * devices of a tree, and fixed times where there is nothing to keep. It speaks of inodes by
 * number, as a name could have any byte.
 */
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { assert, must } from '../../base/assert.ts'
import type { LaidOutTree, SpecialFile } from './lay-out.ts'
import { ROOT_INODE } from './inode-table.ts'
import type { FoundInode } from './inode-table.ts'
import type { RootAttributes } from './survey.ts'
import type { Attributes } from './tree.ts'

const TYPE_BITS = {
  directory: 0o040000,
  character: 0o020000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  fifo: 0o010000,
} as const
const PERMISSION_BITS = 0o7777
/** What can stand in a script without being taken for something else. */
const PLAIN_NAME = /^[A-Za-z0-9_.,:@%+=][A-Za-z0-9_.,:@%+= -]*$/
const PLAIN_ATTRIBUTE = /^(user|trusted|security|system)\.[A-Za-z0-9_.:@%+-]+$/
/** What `debugfs` takes. */
const DEVICE_NUMBER_MAX = 65535
const PIECE_CHARACTERS = 1 << 20

export interface LeftOut {
  attributeCount: number
  specialCount: number
}

/** A script that is longer than is good to have in memory. */
class ScriptFile {
  readonly #fd: number
  #text = ''

  constructor(path: string) {
    this.#fd = openSync(path, 'wx', 0o600)
  }

  line(text: string): void {
    this.#text += `${text}\n`
    if (this.#text.length > PIECE_CHARACTERS) this.#write()
  }

  close(): void {
    this.#write()
    closeSync(this.#fd)
  }

  #write(): void {
    writeSync(this.#fd, this.#text)
    this.#text = ''
  }
}

/** Times of everything, and the root: what a folder of the host leaves to be done. */
export function writeTimesScript(
  path: string,
  inodes: readonly FoundInode[],
  root: RootAttributes,
  fixedSeconds: number,
): void {
  const script = new ScriptFile(path)
  for (const { inode } of inodes) setFixedTimes(script, `<${inode}>`, fixedSeconds)
  setFixedTimes(script, `<${ROOT_INODE}>`, fixedSeconds)
  setAttributes(script, `<${ROOT_INODE}>`, TYPE_BITS.directory, root)
  script.close()
}

/** All that `layOut` did not give the files. `folder` takes the values of attributes. */
export function writeTreeScript(
  path: string,
  folder: string,
  inodes: readonly FoundInode[],
  { nodes, specials }: LaidOutTree,
  root: Attributes,
  fixedSeconds: number,
): LeftOut {
  const script = new ScriptFile(path)
  const values = new AttributeValues(folder)
  const inodeOf = new Map(inodes.map(({ mtimeSeconds, inode }) => [mtimeSeconds, inode]))
  assert(inodeOf.size === nodes.length, 'every inode is found again by its serial number')
  const leftOut: LeftOut = { attributeCount: 0, specialCount: 0 }
  // Before the folders get their times.
  for (const special of specials) {
    const { folderSerial } = special
    const parent = folderSerial === null ? ROOT_INODE : must(inodeOf.get(folderSerial), 'a folder')
    if (!makeSpecial(script, special, parent, fixedSeconds)) leftOut.specialCount += 1
    leftOut.attributeCount += special.node.attributes.xattrs.size
  }
  nodes.forEach((node, index) => {
    const name = `<${must(inodeOf.get(index + 1), 'the inode of a serial number')}>`
    setFixedTimes(script, name, fixedSeconds)
    setAttributes(script, name, TYPE_BITS[node.kind], node.attributes)
    leftOut.attributeCount += values.set(script, name, node.attributes)
  })
  const rootName = `<${ROOT_INODE}>`
  setFixedTimes(script, rootName, fixedSeconds)
  setAttributes(script, rootName, TYPE_BITS.directory, root)
  leftOut.attributeCount += values.set(script, rootName, root)
  script.close()
  return leftOut
}

/** Whether the filesystem has what the script said: `debugfs` ends with 0 in any case. */
export function verifyInodes(
  inodes: readonly FoundInode[],
  { nodes, specials }: LaidOutTree,
): void {
  const expected = new Map<string, number>()
  const count = (key: string, step: number): void => {
    expected.set(key, (expected.get(key) ?? 0) + step)
  }
  for (const { mode, userId, groupId, mtimeSeconds } of inodes) {
    count([mode, userId, groupId, mtimeSeconds].join(), 1)
  }
  const all = [...nodes, ...specials.filter(isMakeable).map(({ node }) => node)]
  for (const { kind, attributes } of all) {
    const { mode, userId, groupId, mtimeSeconds } = attributes
    count([TYPE_BITS[kind] | mode, userId, groupId, mtimeSeconds % 2 ** 32].join(), -1)
  }
  const isSame = [...expected.values()].every((difference) => difference === 0)
  assert(isSame, 'owners, modes and times are in the filesystem')
}

function setFixedTimes(script: ScriptFile, name: string, seconds: number): void {
  script.line(`sif ${name} atime @${seconds}`)
  script.line(`sif ${name} ctime @${seconds}`)
}

function setAttributes(
  script: ScriptFile,
  name: string,
  typeBits: number,
  { mode, userId, groupId, mtimeSeconds }: RootAttributes,
): void {
  script.line(`sif ${name} mode 0${(typeBits | (mode & PERMISSION_BITS)).toString(8)}`)
  script.line(`sif ${name} uid ${userId}`)
  script.line(`sif ${name} gid ${groupId}`)
  script.line(`sif ${name} mtime @${mtimeSeconds}`)
}

function isMakeable({ name, node }: SpecialFile): boolean {
  const { kind, major, minor } = node
  const isNumbered = (value: number): boolean => value >= 0 && value <= DEVICE_NUMBER_MAX
  return PLAIN_NAME.test(name) && (kind === 'fifo' || (isNumbered(major) && isNumbered(minor)))
}

/** Whether it could be. */
function makeSpecial(
  script: ScriptFile,
  special: SpecialFile,
  parent: number,
  fixedSeconds: number,
): boolean {
  if (!isMakeable(special)) return false
  const { kind, major, minor, attributes } = special.node
  const name = `"${special.name}"`
  script.line(`cd <${parent}>`)
  script.line(`mknod ${name} ${kind === 'fifo' ? 'p' : `${kind[0]} ${major} ${minor}`}`)
  setFixedTimes(script, name, fixedSeconds)
  setAttributes(script, name, TYPE_BITS[kind], attributes)
  return true
}

/** Values of attributes, each in a file once: of labels there are few, on every file. */
class AttributeValues {
  readonly #folder: string
  readonly #paths = new Map<string, string>()

  constructor(folder: string) {
    this.#folder = folder
  }

  /** Returns how many could not be. */
  set(script: ScriptFile, inodeName: string, { xattrs }: Attributes): number {
    let leftOutCount = 0
    for (const [name, value] of xattrs) {
      if (!PLAIN_ATTRIBUTE.test(name)) leftOutCount += 1
      else script.line(`ea_set -f ${this.#pathOf(value)} ${inodeName} ${name}`)
    }
    return leftOutCount
  }

  #pathOf(value: Buffer): string {
    const key = value.toString('latin1')
    const known = this.#paths.get(key)
    if (known !== undefined) return known
    const path = join(this.#folder, `value-${this.#paths.size}`)
    writeFileSync(path, value, { flag: 'wx', mode: 0o600 })
    this.#paths.set(key, path)
    return path
  }
}
