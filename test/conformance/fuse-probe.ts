/**
 * A process that makes system calls on a mounted filesystem for a test, which serves it and so
 * must not make them itself. Takes one call at a time over IPC and answers with what came of it.
 */
import * as fs from 'node:fs'

export interface ProbedStat {
  node: number
  mode: number
  isDirectory: boolean
  linkCount: number
  userId: number
  groupId: number
  sizeBytes: number
  allocatedBytes: number
  modifiedMs: number
}

/** Every path is absolute. Failures carry the name of the errno. */
const CALLS = {
  open: (path: string | Uint8Array, flags: number): number => {
    return fs.openSync(typeof path === 'string' ? path : Buffer.from(path), flags, 0o600)
  },
  close: (file: number): void => fs.closeSync(file),
  read: (file: number, offsetBytes: number, lengthBytes: number): Uint8Array => {
    const bytes = Buffer.alloc(lengthBytes)
    return bytes.subarray(0, fs.readSync(file, bytes, 0, lengthBytes, offsetBytes))
  },
  /** Null: where the file stands. */
  write: (file: number, bytes: Uint8Array, offsetBytes: number | null): number => {
    return fs.writeSync(file, bytes, 0, bytes.length, offsetBytes)
  },
  fsync: (file: number): void => fs.fsyncSync(file),
  fdatasync: (file: number): void => fs.fdatasyncSync(file),
  ftruncate: (file: number, sizeBytes: number): void => fs.ftruncateSync(file, sizeBytes),
  fstat: (file: number): ProbedStat => probed(fs.fstatSync(file)),
  stat: (path: string | Uint8Array): ProbedStat => {
    return probed(fs.statSync(typeof path === 'string' ? path : Buffer.from(path)))
  },
  list: (path: string): [name: string, isDirectory: boolean][] => {
    const entries = fs.readdirSync(path, { withFileTypes: true })
    return entries.map((entry) => [entry.name, entry.isDirectory()])
  },
  truncate: (path: string, sizeBytes: number): void => fs.truncateSync(path, sizeBytes),
  unlink: (path: string): void => fs.unlinkSync(path),
  rename: (path: string, newPath: string): void => fs.renameSync(path, newPath),
  mkdir: (path: string): void => fs.mkdirSync(path),
  rmdir: (path: string): void => fs.rmdirSync(path),
  chmod: (path: string, mode: number): void => fs.chmodSync(path, mode),
  chown: (path: string, userId: number, groupId: number): void => {
    fs.chownSync(path, userId, groupId)
  },
  utimes: (path: string, accessedMs: number, modifiedMs: number): void => {
    fs.utimesSync(path, accessedMs / 1000, modifiedMs / 1000)
  },
  link: (path: string, newPath: string): void => fs.linkSync(path, newPath),
  symlink: (target: string, path: string): void => fs.symlinkSync(target, path),
  statfs: (path: string): { blockBytes: number; blocks: number; freeBlocks: number } => {
    const { bsize, blocks, bavail } = fs.statfsSync(path)
    return { blockBytes: bsize, blocks, freeBlocks: bavail }
  },
  readFile: (path: string): Uint8Array => fs.readFileSync(path),
  writeFile: (path: string, bytes: Uint8Array): void => fs.writeFileSync(path, bytes),
  /** Each of a list of files written, synced, read back and compared, `rounds` times over. */
  exercise: (paths: string[], rounds: number, lengthBytes: number): void => {
    for (let round = 0; round < rounds; round++) {
      const path = paths[round % paths.length]
      const bytes = Buffer.alloc(lengthBytes, `${path} ${round} `)
      const file = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT)
      const offsetBytes = round * 1000
      fs.writeSync(file, bytes, 0, lengthBytes, offsetBytes)
      if (round % 4 === 0) fs.fsyncSync(file)
      const back = Buffer.alloc(lengthBytes)
      const readBytes = fs.readSync(file, back, 0, lengthBytes, offsetBytes)
      fs.closeSync(file)
      if (readBytes !== lengthBytes || !back.equals(bytes)) throw new Error(`${path} differs`)
    }
  },
}

export type ProbeCalls = typeof CALLS

export interface ProbeRequest {
  id: number
  name: keyof ProbeCalls
  args: unknown[]
}

export interface ProbeAnswer {
  id: number
  value?: unknown
  /** Errno's name, or the message of another error. */
  failure?: string
}

function probed(stat: fs.Stats): ProbedStat {
  return {
    node: stat.ino,
    mode: stat.mode & 0o7777,
    isDirectory: stat.isDirectory(),
    linkCount: stat.nlink,
    userId: stat.uid,
    groupId: stat.gid,
    sizeBytes: stat.size,
    allocatedBytes: stat.blocks * 512,
    modifiedMs: stat.mtimeMs,
  }
}

function answer({ id, name, args }: ProbeRequest): ProbeAnswer {
  try {
    const call = CALLS[name] as (...args: unknown[]) => unknown
    return { id, value: call(...args) }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return { id, failure: code ?? message }
  }
}

process.on('message', (request: ProbeRequest) => process.send?.(answer(request)))
process.on('disconnect', () => process.exit(0))
