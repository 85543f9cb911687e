/** What docs/attach.md gives to copy is what the programs take. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../../tools/command.ts'
import { projectRoot } from '../../tools/project.ts'

const text = readFileSync(join(projectRoot, 'docs/attach.md'), 'utf8')

async function isInstalled(...programs: string[]): Promise<boolean> {
  const found = programs.map((program) =>
    run('sh', ['-c', 'command -v "$1"', 'sh', program]).then(
      () => true,
      () => false,
    ),
  )
  return (await Promise.all(found)).every(Boolean)
}

const hasLibvirt = await isInstalled('virt-xml-validate', 'xmllint')
const hasQemu = process.arch === 'x64' && (await isInstalled('qemu-system-x86_64'))

t.test(
  'libvirt takes the domains',
  { skip: hasLibvirt ? false : 'takes virt-xml-validate and xmllint' },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'varve-docs-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const domains = [...text.matchAll(/```xml\n([^]*?)```/g)].map(([, xml]) => xml)
    t.equal(domains.length, 2)
    for (const [index, xml] of domains.entries()) {
      const path = join(folder, `${index}.xml`)
      writeFileSync(path, xml)
      await run('virt-xml-validate', [path, 'domain'])
      writeFileSync(path, xml.replaceAll('vhostuser', 'vhost').replaceAll('network', 'net'))
      await t.rejects(run('virt-xml-validate', [path, 'domain']), /fails to validate/)
    }
  },
)

t.test(
  'QEMU has the options',
  { skip: hasQemu ? false : 'takes qemu-system-x86_64' },
  async (t) => {
    const options = (device: string) =>
      run('qemu-system-x86_64', ['-machine', 'none', '-device', `${device},help`])
    const { stdout: vhost } = await options('vhost-user-blk-pci')
    for (const name of ['chardev', 'num-queues', 'queue-size', 'packed', 'bootindex']) {
      t.ok(text.includes(name), `${name} is in the page`)
      t.ok(vhost.includes(`${name}=`), `vhost-user-blk-pci has ${name}`)
    }
    const { stdout: block } = await options('virtio-blk-pci')
    t.ok(block.includes('werror='), 'virtio-blk-pci has werror')
  },
)
