/** Verifies the files that a pool can do without: what the next opening would make anew. */
import type { Checksum } from '../base/checksum.ts'
import {
  FINGERPRINT_FILE,
  decodeFingerprintPage,
  tryDecodeFingerprintHead,
} from '../format/fingerprints.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { SCRUB_FILE, tryDecodeScrubState } from '../format/scrub-state.ts'
import type { PoolReader } from './pool-reader.ts'
import type { Findings } from './report.ts'

export async function verifyFiles(
  reader: PoolReader,
  checksum: Checksum,
  poolId: Uint8Array,
  findings: Findings,
): Promise<void> {
  const names = await reader.io.list(reader.path)
  if (names.includes(SCRUB_FILE)) {
    const result = await reader.readFile(SCRUB_FILE, 0, PAGE_SIZE_BYTES)
    const { memory, offsetBytes } = reader
    const isSound = tryDecodeScrubState(memory, offsetBytes, poolId, checksum) !== null
    if (result < 0 || !isSound) {
      const fact = 'how far a scrub has come is not known; the next one begins at the beginning'
      findings.warnings.add('scrub-state-corrupt', SCRUB_FILE, fact)
    }
  }
  if (!names.includes(FINGERPRINT_FILE)) return
  if (await areFingerprintsSound(reader, checksum, poolId)) return
  const fact = 'it is damaged; what it says is found out again, and nothing is taken on its word'
  findings.warnings.add('fingerprints-corrupt', FINGERPRINT_FILE, fact)
}

async function areFingerprintsSound(
  reader: PoolReader,
  checksum: Checksum,
  poolId: Uint8Array,
): Promise<boolean> {
  if ((await reader.readFile(FINGERPRINT_FILE, 0, PAGE_SIZE_BYTES)) < 0) return false
  const head = tryDecodeFingerprintHead(reader.memory, reader.offsetBytes, poolId, checksum)
  const { sizeBytes } = await reader.stat(FINGERPRINT_FILE)
  if (head === null || sizeBytes !== (1 + head.pageCount) * PAGE_SIZE_BYTES) return false
  for (let page = 1; page <= head.pageCount; page += 1) {
    const result = await reader.readFile(FINGERPRINT_FILE, page * PAGE_SIZE_BYTES, PAGE_SIZE_BYTES)
    const ignore = (): void => undefined
    const { memory, offsetBytes } = reader
    if (result < 0 || !decodeFingerprintPage(memory, offsetBytes, checksum, ignore)) return false
  }
  return true
}
