/**
 * A guest that writes its drive, megabyte by megabyte, each told to the console when it is synced,
 * then reads all of it back past its cache; and QEMU's monitor, which says when it was stopped.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { takesConnections } from '../../tools/command.ts'

const GUEST_SAYS = 'guest says: '
const WAIT_TIMEOUT_MS = 120_000

/** Every megabyte begins with its number in eight digits; the rest is random. */
export function writingScript(megabyteCount: number): string {
  return `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev
$b mkdir /proc; $b mount -t proc none /proc
for module in /modules/*; do $b insmod $module; done
$b dd if=/dev/urandom of=/piece bs=1M count=1 2>/dev/null
i=0
while [ $i -lt ${megabyteCount} ]; do
  $b printf '%08d' $i | $b dd of=/piece conv=notrunc 2>/dev/null
  $b md5sum < /piece >> /sums
  $b dd if=/piece of=/dev/vda bs=1M seek=$i conv=notrunc,fsync 2>/dev/null || {
    echo "${GUEST_SAYS}error at $i"; $b poweroff -f; }
  i=$((i+1))
  echo "${GUEST_SAYS}wrote $i"
done
echo 3 > /proc/sys/vm/drop_caches
i=0
while [ $i -lt ${megabyteCount} ]; do
  $b dd if=/dev/vda bs=1M skip=$i count=1 2>/dev/null | $b md5sum >> /found
  i=$((i+1))
done
$b cmp /sums /found && echo "${GUEST_SAYS}all is as written"
$b poweroff -f
`
}

/** An NBD export as the drive; a write without space stops the guest. `client`: more options. */
export function nbdDrive(socketPath: string, exportName: string, client: object = {}): string[] {
  const server = { type: 'unix', path: socketPath }
  const drive = { driver: 'nbd', 'node-name': 'drive', export: exportName, server, ...client }
  return [
    ...['-blockdev', JSON.stringify(drive)],
    ...['-device', 'virtio-blk-pci,drive=drive,werror=enospc'],
  ]
}

/** A vhost-user socket as the drive, come back to when its server does; `device`: more options. */
export function vhostUserDrive(socketPath: string, device = ''): string[] {
  return [
    ...['-object', 'memory-backend-memfd,id=memory,size=192M,share=on'],
    ...['-machine', 'memory-backend=memory'],
    ...['-chardev', `socket,id=drive,path=${socketPath},reconnect=1`],
    ...['-device', `vhost-user-blk-pci,chardev=drive${device}`],
  ]
}

export interface MonitorEvent {
  event: string
  data?: Record<string, unknown>
}

export class WritingGuest {
  readonly events: MonitorEvent[] = []
  readonly #child: ChildProcess
  readonly #exited: Promise<number | null>
  #monitor: Socket | null = null
  #console = ''

  private constructor(child: ChildProcess) {
    this.#child = child
    this.#exited = new Promise((resolve) => child.on('exit', resolve))
    child.stdout?.on('data', (bytes: Buffer) => (this.#console += bytes.toString()))
    child.stderr?.on('data', (bytes: Buffer) => (this.#console += bytes.toString()))
  }

  /** `driveArgs`: of QEMU, for its drive; see `nbdDrive` and `vhostUserDrive`. */
  static async boot(options: {
    kernelPath: string
    initramfsPath: string
    driveArgs: readonly string[]
    monitorPath: string
  }): Promise<WritingGuest> {
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...['-machine', 'q35,accel=tcg', '-m', '192', '-nodefaults', '-no-user-config'],
        ...['-display', 'none', '-no-reboot', '-serial', 'stdio'],
        ...['-kernel', options.kernelPath, '-initrd', options.initramfsPath],
        ...['-append', 'console=ttyS0 panic=-1 quiet'],
        ...options.driveArgs,
        ...['-qmp', `unix:${options.monitorPath},server=on,wait=off`],
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    const guest = new WritingGuest(child)
    await guest.#until('a monitor', () => takesConnections(options.monitorPath))
    await guest.#connect(options.monitorPath)
    return guest
  }

  /** Megabytes that it was told are on its drive. */
  get writtenCount(): number {
    return Number(
      this.#console
        .match(/guest says: wrote \d+/g)
        ?.at(-1)
        ?.slice(18) ?? 0,
    )
  }

  get console(): string {
    return this.#console
  }

  /** Rejects, with what was on the console, when it does not come to that. */
  async untilWritten(count: number): Promise<void> {
    await this.#until(`${count} megabytes`, () => this.writtenCount >= count)
  }

  async untilEvent(name: string): Promise<MonitorEvent> {
    const find = (): MonitorEvent | undefined => this.events.find(({ event }) => event === name)
    await this.#until(name, () => find() !== undefined)
    return find() as MonitorEvent
  }

  /** Lets a stopped guest go on. */
  continue(): void {
    this.#monitor?.write('{"execute":"cont"}\n')
  }

  /** Resolves to its exit code; rejects when it does not power off. */
  async ended(): Promise<number | null> {
    await this.#until('its end', () => this.#hasEnded)
    return this.#exited
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#exited
  }

  async #connect(path: string): Promise<void> {
    const socket = connect(path)
    this.#monitor = socket
    let rest = ''
    let isGreeted = false
    socket.on('error', () => undefined)
    socket.on('data', (bytes: Buffer) => {
      const lines = (rest + bytes.toString()).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) {
        const message = JSON.parse(line) as MonitorEvent | { QMP: unknown }
        if ('QMP' in message) isGreeted = true
        else if ('event' in message) this.events.push(message)
      }
    })
    await this.#until('a greeting', () => isGreeted)
    socket.write('{"execute":"qmp_capabilities"}\n')
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  async #until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
    const deadlineMs = performance.now() + WAIT_TIMEOUT_MS
    while (!(await isSo())) {
      if (performance.now() > deadlineMs || this.#hasEnded) {
        throw new Error(`the guest did not come to ${what}: ${this.#console.slice(-2000)}`)
      }
      await delay(50)
    }
  }
}
