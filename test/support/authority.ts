/** A certificate authority for a test, by the openssl command: certificates good and bad. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Certificate {
  cert: Buffer
  key: Buffer
}

export interface CertificateWishes {
  /** As openssl writes them: `DNS:a,email:b`. */
  alternativeNames?: string
  /** From now on; negative: it has ended. */
  days?: number
  usage?: 'clientAuth' | 'serverAuth'
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout']

export class Authority {
  readonly #folder: string
  readonly cert: Buffer
  #count = 0

  /** Works in `folder`, which it makes. */
  constructor(folder: string) {
    this.#folder = folder
    mkdirSync(folder)
    const subject = ['-subj', '/CN=authority', '-days', '2']
    this.#openssl('req', '-x509', ...NEW_KEY, 'ca.key', '-out', 'ca-cert.pem', ...subject)
    this.cert = readFileSync(join(folder, 'ca-cert.pem'))
  }

  /** `subject` as openssl takes it: `/CN=web1`. */
  issue(subject: string, wishes: CertificateWishes = {}): Certificate {
    const { alternativeNames, days = 2, usage } = wishes
    const name = `issued-${++this.#count}`
    this.#openssl('req', ...NEW_KEY, `${name}.key`, '-out', `${name}.csr`, '-subj', subject)
    const lines = ['[ extensions ]', 'basicConstraints=CA:FALSE']
    if (alternativeNames !== undefined) lines.push(`subjectAltName=${alternativeNames}`)
    if (usage !== undefined) lines.push(`extendedKeyUsage=${usage}`)
    writeFileSync(join(this.#folder, 'extensions'), `${lines.join('\n')}\n`)
    const signed = ['-CA', 'ca-cert.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', `${days}`]
    const output = ['-extfile', 'extensions', '-extensions', 'extensions', '-out', `${name}.pem`]
    this.#openssl('x509', '-req', '-in', `${name}.csr`, ...signed, ...output)
    return {
      cert: readFileSync(join(this.#folder, `${name}.pem`)),
      key: readFileSync(join(this.#folder, `${name}.key`)),
    }
  }

  /** A folder as libnbd and QEMU want it, below the authority's own. */
  clientFolder(name: string, trusted: Buffer, client: Certificate | null): string {
    const folder = join(this.#folder, name)
    mkdirSync(folder)
    writeFileSync(join(folder, 'ca-cert.pem'), trusted)
    if (client !== null) {
      writeFileSync(join(folder, 'client-cert.pem'), client.cert)
      writeFileSync(join(folder, 'client-key.pem'), client.key, { mode: 0o600 })
    }
    return folder
  }

  #openssl(...args: string[]): void {
    execFileSync('openssl', args, { cwd: this.#folder, stdio: 'ignore' })
  }
}
