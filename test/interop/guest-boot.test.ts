/**
 * The claim that matters: a guest has a clone as its root drive. A kernel boots under QEMU,
 * without hardware virtualisation so that it runs everywhere, writes to its drive and powers off;
 * what it wrote is there at the second boot, and neither in the golden volume nor in another clone.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { run, Server } from '../../tools/command.ts'
import { projectRoot, varveCommand } from '../../tools/project.ts'
import { bootGuest, buildGoldenImage, INITRAMFS_SCRIPT, readFromImage } from './guest-disk.ts'
import { buildInitramfs, findGuestKernel } from './guest-kernel.ts'

// The kernel and QEMU's machine are those of x86-64; elsewhere there is nothing to boot.
const skip = process.arch === 'x64' ? false : `no guest kernel for ${process.arch}`

// Two boots without hardware virtualisation.
t.setTimeout(240_000)

t.test(
  'a guest keeps what it writes to its clone, and nobody else sees it',
  { skip },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'varve-guest-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const busyboxPath = (await run('sh', ['-c', 'command -v busybox'])).stdout.trim()
    const goldenPath = join(folder, 'golden.img')
    await buildGoldenImage(folder, busyboxPath, goldenPath)
    const { kernelPath, modulesFolder } = findGuestKernel(projectRoot)
    const initramfsPath = join(folder, 'initramfs')
    const kernel = { kernelPath, modulesFolder }
    writeFileSync(initramfsPath, buildInitramfs(kernel, busyboxPath, INITRAMFS_SCRIPT))

    const pool = join(folder, 'pool')
    const varve = (...args: string[]) =>
      run(varveCommand[0], [...varveCommand[1], '--pool', pool, ...args])
    await varve('init')
    await varve('import', goldenPath, 'golden')
    await varve('clone', 'golden', 'web', 'mail')
    const socketPath = join(pool, 'nbd.sock')
    // The control socket is the last thing that comes up.
    const serve = () =>
      Server.start(
        varveCommand[0],
        [...varveCommand[1], '--pool', pool, 'serve'],
        join(pool, 'control.sock'),
      )
    const boot = (exportName: string, bootName: string) =>
      bootGuest({ kernelPath, initramfsPath, socketPath, exportName, bootName })

    let server = await serve()
    t.teardown(() => server.stop())
    t.strictSame(await boot('web', 'first'), ['root is golden', 'earlier boots', 'wrote first'])
    // A new server process: what the guest was told is on disk must have come from there.
    t.equal(await server.stop(), 0, 'the server ends cleanly')
    server = await serve()
    t.strictSame(await boot('web', 'second'), [
      'root is golden',
      'earlier boots first',
      'wrote second',
    ])

    for (const [name, boots] of [
      ['golden', null],
      ['mail', null],
      ['web', 'first\nsecond\n'],
    ] as const) {
      const imagePath = join(folder, `${name}-after.img`)
      await varve('export', name, imagePath)
      t.equal(await readFromImage(imagePath, '/etc/golden'), 'golden\n', `${name} is whole`)
      t.equal(await readFromImage(imagePath, '/var/boots'), boots, `boots that ${name} has seen`)
      await run('e2fsck', ['-fn', imagePath], {
        env: { PATH: `${process.env.PATH ?? ''}:/usr/sbin` },
      })
    }
  },
)
