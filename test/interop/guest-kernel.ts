/**
 * A Linux kernel for a guest, and the smallest initramfs that brings it to its root drive: a
 * static busybox, the modules for a virtio disk with ext4 on it, and a script.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { cpioArchive, type CpioEntry } from './guest-cpio.ts'

/** What a disk on a PCI bus with ext4 on it takes; each brings what it depends on. */
const MODULES = ['virtio_pci', 'virtio_blk', 'crc32c_generic', 'ext4']

export interface GuestKernel {
  kernelPath: string
  modulesFolder: string
}

/** Where tools/setup unpacks Debian's kernel, or where Debian installed it. */
export function findGuestKernel(projectRoot: string): GuestKernel {
  for (const prefix of [join(projectRoot, '.build/guest-kernel'), '/']) {
    const boot = join(prefix, 'boot')
    if (!existsSync(boot)) continue
    const name = readdirSync(boot).find((entry) => /^vmlinuz-.*-cloud-amd64$/.test(entry))
    if (name === undefined) continue
    const version = name.slice('vmlinuz-'.length)
    const modulesFolder = ['lib/modules', 'usr/lib/modules']
      .map((folder) => join(prefix, folder, version))
      .find((folder) => existsSync(folder))
    if (modulesFolder !== undefined) return { kernelPath: join(boot, name), modulesFolder }
  }
  throw new Error('no guest kernel is here; `tools/setup --tests` fetches one')
}

/**
 * `script` becomes /init; it finds the modules in /modules, to be inserted in name order. Of
 * `programs`, each is put where its key says.
 */
export function buildInitramfs(
  kernel: GuestKernel,
  busyboxPath: string,
  script: string,
  programs: Record<string, string> = {},
): Buffer {
  const modules = modulesInOrder(kernel.modulesFolder)
  const entries: CpioEntry[] = [
    ...['bin', 'dev', 'proc', 'root', 'modules'].map((path): CpioEntry => ({
      kind: 'directory',
      path,
    })),
    { kind: 'character-device', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: readFileSync(busyboxPath) },
    ...Object.entries(programs).map(([path, source]): CpioEntry => ({
      kind: 'file',
      path,
      mode: 0o755,
      data: readFileSync(source),
    })),
    { kind: 'file', path: 'init', mode: 0o755, data: Buffer.from(script) },
    ...modules.map((path, index): CpioEntry => ({
      kind: 'file',
      path: `modules/${String(index).padStart(2, '0')}-${basename(path)}`,
      mode: 0o644,
      data: readFileSync(path),
    })),
  ]
  return cpioArchive(entries)
}

/** Paths of {@link MODULES}, each after what it depends on. */
function modulesInOrder(modulesFolder: string): string[] {
  const pathByName = new Map<string, string>()
  for (const entry of readdirSync(modulesFolder, { recursive: true, encoding: 'utf8' })) {
    if (entry.endsWith('.ko')) pathByName.set(moduleName(entry), join(modulesFolder, entry))
  }
  const ordered = new Set<string>()
  const add = (name: string): void => {
    const path = pathByName.get(name)
    // What is no module is built into the kernel.
    if (path === undefined || ordered.has(path)) return
    for (const dependency of dependenciesOf(path)) add(dependency)
    ordered.add(path)
  }
  for (const name of MODULES) add(name)
  return [...ordered]
}

function moduleName(path: string): string {
  return basename(path, '.ko').replaceAll('-', '_')
}

/** A module says what it needs in its section .modinfo, as `depends=one,two` between zeros. */
function dependenciesOf(path: string): string[] {
  const bytes = readFileSync(path)
  const start = bytes.indexOf('\0depends=')
  if (start < 0) return []
  const from = start + '\0depends='.length
  const names = bytes.toString('latin1', from, bytes.indexOf(0, from))
  return names === '' ? [] : names.split(',').map((name) => name.replaceAll('-', '_'))
}
