/** Tar archives as no honest program would write them, and as honest ones do. */

export interface TarPart {
  name: string
  type?: string
  linkName?: string
  body?: Buffer | string
  mode?: number
  userId?: number
  groupId?: number
  mtimeSeconds?: number
  major?: number
  minor?: number
  /** What the header says, where that is not the truth. */
  sizeBytes?: number
  /** Records of an extended header before it; values are one character a byte. */
  pax?: Record<string, string>
}

/** One header, and its data filled up to whole blocks. */
export function tarPart(part: TarPart): Buffer {
  const body = Buffer.from(part.body ?? '')
  const pieces: Buffer[] = []
  if (part.pax !== undefined) {
    const records = Object.entries(part.pax).map(([key, value]) => paxRecord(key, value))
    pieces.push(tarPart({ name: 'PaxHeader', type: 'x', body: Buffer.concat(records) }))
  }
  pieces.push(header(part, body.length), body, Buffer.alloc((512 - (body.length % 512)) % 512))
  return Buffer.concat(pieces)
}

/** A whole archive, with its end mark. */
export function tarOf(...parts: TarPart[]): Buffer {
  return Buffer.concat([...parts.map(tarPart), Buffer.alloc(1024)])
}

export function paxRecord(key: string, value: string): Buffer {
  const rest = Buffer.from(` ${key}=${value}\n`, 'latin1')
  let lengthBytes = rest.length
  while (String(lengthBytes).length + rest.length !== lengthBytes) {
    lengthBytes = String(lengthBytes).length + rest.length
  }
  return Buffer.concat([Buffer.from(String(lengthBytes)), rest])
}

function header(part: TarPart, bodyBytes: number): Buffer {
  const block = Buffer.alloc(512)
  const octal = (at: number, lengthBytes: number, value: number): void => {
    block.write(value.toString(8).padStart(lengthBytes - 1, '0'), at, 'latin1')
  }
  block.write(part.name, 0, 100, 'latin1')
  octal(100, 8, part.mode ?? 0o644)
  octal(108, 8, part.userId ?? 0)
  octal(116, 8, part.groupId ?? 0)
  octal(124, 12, part.sizeBytes ?? bodyBytes)
  octal(136, 12, part.mtimeSeconds ?? 1_700_000_000)
  block.write(part.type ?? '0', 156, 'latin1')
  block.write(part.linkName ?? '', 157, 100, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  octal(329, 8, part.major ?? 0)
  octal(337, 8, part.minor ?? 0)
  return withChecksum(block)
}

/** After a header has been tampered with. */
export function withChecksum(block: Buffer): Buffer {
  block.fill(32, 148, 156)
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}
