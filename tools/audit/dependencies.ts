/** What can be said of the dependencies without asking anybody: from package.json and its lock. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const REGISTRY = 'https://registry.npmjs.org/'
/** Of what users install: each allows everything but to remove its notice. */
const LICENSES: ReadonlySet<string> = new Set([
  'MIT',
  'ISC',
  'BlueOak-1.0.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'Apache-2.0',
])

export interface LockedPackage {
  version?: string
  /** Where it came from; npm may be told to leave out what is the registry's. */
  resolved?: string
  integrity?: string
  license?: string
  dev?: boolean
  link?: boolean
  hasInstallScript?: boolean
}

export interface Manifest {
  dependencies?: Record<string, string>
  devDependencies?: Record<string, string>
  allowScripts?: Record<string, boolean>
}

export interface Lock {
  lockfileVersion: number
  packages: Record<string, LockedPackage & Manifest>
}

const FOLDER = 'node_modules/'

/** Every complaint is one line that names the package. */
export function lockComplaints(manifest: Manifest, lock: Lock): string[] {
  const root = lock.packages['']
  const found: string[] = []
  for (const kind of ['dependencies', 'devDependencies'] as const) {
    if (JSON.stringify(manifest[kind]) === JSON.stringify(root[kind])) continue
    found.push(`package-lock.json: its ${kind} are not those of package.json`)
  }
  for (const [path, locked] of Object.entries(lock.packages)) {
    if (path !== '') found.push(...packageComplaints(path, locked, manifest))
  }
  return found
}

function packageComplaints(path: string, locked: LockedPackage, manifest: Manifest): string[] {
  const found: string[] = []
  const name = path.slice(path.lastIndexOf(FOLDER) + FOLDER.length)
  const { resolved, integrity, license } = locked
  if (resolved !== undefined && !resolved.startsWith(REGISTRY)) {
    found.push(`${name}: comes from ${resolved}`)
  }
  if (locked.link === true) found.push(`${name}: is a link to a folder`)
  else if (integrity?.startsWith('sha512-') !== true) found.push(`${name}: has no SHA-512`)
  if (locked.dev !== true && (license === undefined || !LICENSES.has(license))) {
    found.push(`${name}: has the license ${license ?? 'of nobody knows whom'}`)
  }
  if (locked.hasInstallScript === true && manifest.allowScripts?.[name] !== false) {
    found.push(`${name}: runs a script when it is installed; say no in allowScripts`)
  }
  return found
}

/** Packages that users install and whose installed version is not the locked one. */
export function installedComplaints(root: string, lock: Lock): string[] {
  return Object.entries(lock.packages).flatMap(([path, { version, dev }]) => {
    if (path === '' || dev === true) return []
    const text = readFileSync(join(root, path, 'package.json'), 'utf8')
    const installed = (JSON.parse(text) as { version?: string }).version
    return installed === version ? [] : [`${path}: ${installed} is installed, not ${version}`]
  })
}

/** `root`: the folder of package.json. */
export function dependencyComplaints(root: string): string[] {
  const read = (name: string): unknown => JSON.parse(readFileSync(join(root, name), 'utf8'))
  const lock = read('package-lock.json') as Lock
  return [
    ...lockComplaints(read('package.json') as Manifest, lock),
    ...installedComplaints(root, lock),
  ]
}
