/** A small real ext4 that can be filled to the last byte, mounted from a file; needs root. */
import { execFile } from 'node:child_process'
import { closeSync, existsSync, fsyncSync, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { statfsSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { MIB } from '../../src/base/units.ts'

const runFile = promisify(execFile)
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }

/** Why there can be none here, or false. */
export const noSmallDisk: string | false =
  process.getuid?.() !== 0
    ? 'only root mounts filesystems'
    : existsSync('/dev/loop-control')
      ? false
      : 'no loop devices here'

export class SmallDisk {
  readonly path: string
  readonly #root: string

  private constructor(root: string) {
    this.#root = root
    this.path = join(root, 'disk')
  }

  static async mount(sizeBytes: number): Promise<SmallDisk> {
    const disk = new SmallDisk(mkdtempSync(join(tmpdir(), 'varve-small-disk-')))
    const image = join(disk.#root, 'image')
    closeSync(openSync(image, 'w'))
    truncateSync(image, sizeBytes)
    mkdirSync(disk.path)
    // Nothing kept for root: full is full for everybody.
    await runFile('mkfs.ext4', ['-q', '-F', '-m', '0', image], { env })
    await runFile('mount', ['-o', 'loop', image, disk.path], { env })
    return disk
  }

  get freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.path)
    return bavail * bsize
  }

  /** Somebody else's file takes all there is, down to the last byte. */
  fill(name = 'stranger'): void {
    const fd = openSync(join(this.path, name), 'a')
    let pieceBytes = 8 * MIB
    while (pieceBytes >= 1) {
      try {
        writeSync(fd, Buffer.alloc(pieceBytes, 0x5a))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
        pieceBytes = Math.floor(pieceBytes / 4)
      }
    }
    fsyncSync(fd)
    closeSync(fd)
  }

  unfill(name = 'stranger'): void {
    rmSync(join(this.path, name))
  }

  async remove(): Promise<void> {
    // A process that ended lets go of its files a moment later.
    for (let triesLeft = 50; ; triesLeft -= 1) {
      try {
        await runFile('umount', [this.path], { env })
        break
      } catch (error) {
        if (triesLeft === 0) throw error
        await delay(100)
      }
    }
    rmSync(this.#root, { recursive: true, force: true })
  }
}
