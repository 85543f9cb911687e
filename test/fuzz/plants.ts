/**
 * Bugs put into decoders, as they are compiled, to see that the fuzzer finds them: a check that is
 * missing, off by one, or late; a loop that does not end; memory taken on a stranger's word.
 */
import type { Plant } from './instrument.ts'

export interface PlantedBug {
  name: string
  target: string
  plant: Plant
  /** Within so many executions. */
  executionCount: number
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'a superblock with more unfinished ids than fit',
    target: 'superblock',
    executionCount: 60_000,
    plant: {
      module: '/format/superblock.js',
      from: 'if (unfinishedCount > SUPERBLOCK_UNFINISHED_COUNT_MAX)',
      to: 'if (unfinishedCount > 2 ** 20)',
    },
  },
  {
    name: 'a record with an entry about no blocks',
    target: 'record',
    executionCount: 60_000,
    plant: {
      module: '/format/record.js',
      from: ' || kind > EntryKind.grow || count === 0)',
      to: ' || kind > EntryKind.grow)',
    },
  },
  {
    name: 'a node that points into segment 0',
    target: 'node',
    executionCount: 60_000,
    plant: {
      module: '/format/node.js',
      from: "return 'points into segment 0, which does not exist';",
      to: 'return null;',
    },
  },
  {
    name: 'a frame that ends before the block',
    target: 'directory',
    executionCount: 30_000,
    plant: {
      module: '/format/directory.js',
      from: 'frameIndex(word0) >= frameBlockCount(word1)',
      to: 'frameIndex(word0) > frameBlockCount(word1)',
    },
  },
  {
    name: 'memory for a catalogue part as large as it says it is',
    target: 'catalogue',
    executionCount: 60_000,
    plant: {
      module: '/format/catalogue.js',
      from: 'if (payloadBytes > bytes.length - FIELD.endOffset)',
      to: 'if (Buffer.alloc(payloadBytes % 2 ** 28).length > bytes.length - FIELD.endOffset)',
    },
  },
  {
    name: 'a decoder that keeps what it was given',
    target: 'node',
    executionCount: 1500,
    plant: {
      module: '/format/node.js',
      from: 'export function decodeNode(memory, offsetBytes, level) {',
      to: `export function decodeNode(memory, offsetBytes, level) {
        (globalThis.keptForEver ??= []).push(new Uint8Array(65536));`,
    },
  },
  {
    name: 'an NBD option with fewer numbers than it counts',
    target: 'nbd-option-data',
    executionCount: 60_000,
    plant: {
      module: '/nbd/option-data.js',
      from: 'count === null || reader.remainingBytes !== 2 * count',
      to: 'count === null',
    },
  },
  {
    name: 'an NBD request past the end of its disk',
    target: 'nbd-request',
    executionCount: 60_000,
    plant: {
      module: '/nbd/request.js',
      from: 'request.lengthBytes > target.sizeBytes - request.offsetBytes',
      to: 'request.lengthBytes > target.sizeBytes',
    },
  },
  {
    name: 'header extensions of a qcow2 image that never end',
    target: 'image-qcow2',
    executionCount: 20_000,
    plant: {
      module: '/format/qcow2.js',
      from: 'at += 8 + Math.ceil(lengthBytes / 8) * 8;',
      to: 'at += Math.ceil(lengthBytes / 8) * 8; count = 0;',
    },
  },
]
