/** The names in a client's certificate that an authority has vouched for. */
import type { PeerCertificate } from 'node:tls'

/** Kinds of alternative names that are names of somebody. */
const KINDS: ReadonlySet<string> = new Set(['DNS', 'email', 'URI'])
/**
 * Node's text of alternative names: `DNS:a, email:b`. A value with anything odd in it, a comma
 * say, is a JSON string, so that it cannot pass for two (CVE-2021-44532).
 */
const ENTRY = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y

/** The common names, then the alternative ones; each once. What does not parse counts for none. */
export function certificateNames(certificate: PeerCertificate): string[] {
  const { subject, subjectaltname } = certificate as Partial<PeerCertificate>
  // Of several, Node makes a list.
  const commonName: string | string[] | undefined = subject?.CN
  const common = commonName === undefined ? [] : [commonName].flat()
  return [...new Set([...common, ...alternativeNames(subjectaltname ?? '')])]
}

export function alternativeNames(text: string): string[] {
  const names: string[] = []
  ENTRY.lastIndex = 0
  while (ENTRY.lastIndex < text.length) {
    const match = ENTRY.exec(text)
    if (match === null) return []
    const [, kind, value] = match
    // A name that needs quoting is none that anybody was given on purpose.
    if (KINDS.has(kind) && value !== '' && !value.startsWith('"')) names.push(value)
  }
  return names
}
