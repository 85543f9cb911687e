/**
 * The guest's root filesystem, a golden ext4 image with a program that leaves a trace of each
 * boot, and the machine that boots it.
 */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run, type RunResult } from '../../tools/command.ts'

/** What is on the console stands between this and the end of the line. */
export const GUEST_SAYS = 'guest says: '

const BOOT_TIMEOUT_MS = 80_000
const MEMORY_MIB = 192

/** Inserts the modules, mounts the drive and hands over to it. */
export const INITRAMFS_SCRIPT = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev
for module in /modules/*; do $b insmod $module; done
$b mount -t ext4 /dev/vda /root || $b poweroff -f
exec $b switch_root /root /sbin/init
`

/** Runs as process 1 from the root drive: reports what earlier boots wrote, adds a line. */
const ROOT_INIT_SCRIPT = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc none /proc
$b mount -t devtmpfs none /dev
echo "${GUEST_SAYS}root is $($b cat /etc/golden)"
echo "${GUEST_SAYS}earlier boots $($b cat /var/boots 2>/dev/null | $b tr '\\n' ' ')"
name=$($b sed -n 's/.*boot_name=\\([a-z]*\\).*/\\1/p' /proc/cmdline)
echo "$name" >> /var/boots
$b sync
$b mount -o remount,ro / && echo "${GUEST_SAYS}wrote $name"
$b poweroff -f
`

/** Makes an ext4 image with the guest's userland at `imagePath`; needs no privileges. */
export async function buildGoldenImage(
  folder: string,
  busyboxPath: string,
  imagePath: string,
): Promise<void> {
  const tree = join(folder, 'tree')
  for (const path of ['bin', 'sbin', 'etc', 'var', 'proc', 'dev']) {
    mkdirSync(join(tree, path), { recursive: true })
  }
  copyFileSync(busyboxPath, join(tree, 'bin/busybox'))
  writeFileSync(join(tree, 'sbin/init'), ROOT_INIT_SCRIPT, { mode: 0o755 })
  writeFileSync(join(tree, 'etc/golden'), 'golden\n')
  await run('mke2fs', ['-q', '-t', 'ext4', '-d', tree, imagePath, '64M'], {
    env: { PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` },
  })
}

/** Boots a machine whose root drive is one NBD export; resolves, powered off, to what it said. */
export async function bootGuest(options: {
  kernelPath: string
  initramfsPath: string
  socketPath: string
  exportName: string
  bootName: string
}): Promise<string[]> {
  const { kernelPath, initramfsPath, socketPath, exportName, bootName } = options
  const drive = {
    driver: 'nbd',
    'node-name': 'root',
    export: exportName,
    server: { type: 'unix', path: socketPath },
  }
  const args = ['-machine', 'q35,accel=tcg', '-m', String(MEMORY_MIB)]
  args.push('-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot')
  args.push('-serial', 'stdio', '-kernel', kernelPath, '-initrd', initramfsPath)
  args.push('-append', `console=ttyS0 panic=-1 quiet boot_name=${bootName}`)
  args.push('-blockdev', JSON.stringify(drive), '-device', 'virtio-blk-pci,drive=root')
  const { stdout }: RunResult = await run('qemu-system-x86_64', args, {
    timeoutMs: BOOT_TIMEOUT_MS,
  })
  const lines = stdout.split(/\r?\n/).filter((line) => line.startsWith(GUEST_SAYS))
  if (lines.length === 0) throw new Error(`the guest did not reach its root: ${stdout}`)
  return lines.map((line) => line.slice(GUEST_SAYS.length).trim())
}

/** Content of a file in an ext4 image, or null when the image has no such file. */
export async function readFromImage(imagePath: string, path: string): Promise<string | null> {
  const { stdout, stderr } = await run('debugfs', ['-R', `cat ${path}`, imagePath], {
    env: { PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` },
  })
  return /File not found/.test(stderr) ? null : stdout
}
