/** Feature bits: of VIRTIO 1.2, of its block device, and of the vhost-user protocol. */

function bit(number: number): bigint {
  return 1n << BigInt(number)
}

export const BLK_F_SEG_MAX: bigint = bit(2)
export const BLK_F_RO: bigint = bit(5)
export const BLK_F_BLK_SIZE: bigint = bit(6)
export const BLK_F_FLUSH: bigint = bit(9)
export const BLK_F_TOPOLOGY: bigint = bit(10)
export const BLK_F_CONFIG_WCE: bigint = bit(11)
export const BLK_F_MQ: bigint = bit(12)
export const BLK_F_DISCARD: bigint = bit(13)
export const BLK_F_WRITE_ZEROES: bigint = bit(14)
export const RING_F_INDIRECT_DESC: bigint = bit(28)
export const RING_F_EVENT_IDX: bigint = bit(29)
/** Of vhost-user: there is a second set of features, and rings begin disabled. */
export const F_PROTOCOL_FEATURES: bigint = bit(30)
export const F_VERSION_1: bigint = bit(32)
export const F_RING_PACKED: bigint = bit(34)

/** What a disk offers whatever it is. */
const COMMON: bigint =
  BLK_F_SEG_MAX |
  BLK_F_BLK_SIZE |
  BLK_F_FLUSH |
  BLK_F_TOPOLOGY |
  BLK_F_MQ |
  RING_F_INDIRECT_DESC |
  RING_F_EVENT_IDX |
  F_PROTOCOL_FEATURES |
  F_VERSION_1 |
  F_RING_PACKED

export function deviceFeatures(isReadOnly: boolean): bigint {
  if (isReadOnly) return COMMON | BLK_F_RO
  return COMMON | BLK_F_CONFIG_WCE | BLK_F_DISCARD | BLK_F_WRITE_ZEROES
}

/** Of the protocol between front end and back end. */
export const P_MQ: bigint = bit(0)
export const P_REPLY_ACK: bigint = bit(3)
export const P_BACKEND_REQ: bigint = bit(5)
export const P_CONFIG: bigint = bit(9)
export const P_INFLIGHT_SHMFD: bigint = bit(12)
export const P_RESET_DEVICE: bigint = bit(13)
export const P_CONFIGURE_MEM_SLOTS: bigint = bit(15)
export const P_STATUS: bigint = bit(16)

export const PROTOCOL_FEATURES: bigint =
  P_MQ |
  P_REPLY_ACK |
  P_BACKEND_REQ |
  P_CONFIG |
  P_INFLIGHT_SHMFD |
  P_RESET_DEVICE |
  P_CONFIGURE_MEM_SLOTS |
  P_STATUS
