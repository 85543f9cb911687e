/** Every bound of the back end, with where its number comes from. */
import { KIB, MIB } from '../../base/units.ts'

/** vhost-user.rst: a memory table without CONFIGURE_MEM_SLOTS has eight regions. */
export const TABLE_REGION_COUNT_MAX = 8
/** What QEMU's vhost-user code takes: memory devices of a guest are mapped one by one. */
export const REGION_COUNT_MAX = 32
/** The largest message, a read of the whole configuration, has 268 bytes. */
export const PAYLOAD_BYTES_MAX: number = 4 * KIB
/** Of one message: a table of memory regions. */
export const MESSAGE_DESCRIPTOR_COUNT_MAX: number = TABLE_REGION_COUNT_MAX
/** VHOST_USER_MAX_CONFIG_SIZE of QEMU. */
export const CONFIG_BYTES_MAX = 256
/** A queue each for the processors of a large guest. */
export const QUEUE_COUNT_MAX = 64
/** VIRTQUEUE_MAX_SIZE of QEMU; the specification allows 32,768. */
export const QUEUE_SIZE_MAX = 1024
/** Of one request, in a table of its own: as many as QEMU takes. */
export const INDIRECT_COUNT_MAX = 1024
/** Of one request, cut where regions of memory end; nobody's buffers lie across many of them. */
export const PIECE_COUNT_MAX: number = QUEUE_SIZE_MAX + INDIRECT_COUNT_MAX + 64
/** Copies from or to a guest that go in one call; more go in several. */
export const COPY_COUNT_MAX = 1024
/**
 * Requests of one ring that a turn begins, and bytes of them that suffice: so that a guest sees the
 * first answers while the rest is at work, and neither side sleeps while the other one works.
 */
export const TURN_REQUEST_COUNT_MAX = 32
export const TURN_BYTES_MIN: number = 512 * KIB
/** Requests of a connection at work at once; further ones wait in their rings. */
export const REQUEST_COUNT_MAX = 256
/** Operations of the disk that they are cut into. */
export const OPERATION_COUNT_MAX: number = 2 * REQUEST_COUNT_MAX
/** Segments of one request: with the header and the status a full queue of QEMU's default. */
export const SEGMENT_COUNT_MAX = 126
/** Ranges of one DISCARD or WRITE_ZEROES. Linux asks for at most 256. */
export const RANGE_COUNT_MAX = 64
/** Of a range, in sectors: 2 GiB, so that no request asks for an endless walk. */
export const RANGE_SECTORS_MAX = 4194304

/** Of the arena: belongs to one connection alone, so that it moves however greedy others are. */
export const RESERVE_PIECE_BYTES: number = 64 * KIB
/** Of the arena, too: headers and other small things on their way. */
export const SMALL_PAGE_BYTES: number = 4 * KIB
/** Of shared memory, for one connection. */
export const CONNECTION_BYTES_MAX: number = 16 * MIB
