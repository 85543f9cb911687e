/*
 * Load on a vhost-user-blk device, as a guest's driver and its monitor together would put on it,
 * without a guest:
 *
 *     vhost-load SOCKET read|write SIZE BLOCK DEPTH SECONDS SEED random|ordered [PIECE]
 *
 * One split ring with event index; requests of BLOCK bytes within the first SIZE, DEPTH at a time.
 * With PIECE their data lies in pieces of so many bytes, scattered over the memory, in a table of
 * its own, as the pages of a guest do.
 * When nothing is done it sleeps until the device signals, as a guest waits for its interrupt. The
 * first second is not counted. Prints one line of JSON; any failed request ends it with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "load.h"
#include "unix-socket.h"

/* Linux, docs/interop/vhost-user.rst of QEMU. */
enum {
  GET_FEATURES = 1,
  SET_FEATURES = 2,
  SET_OWNER = 3,
  SET_MEM_TABLE = 5,
  SET_VRING_NUM = 8,
  SET_VRING_ADDR = 9,
  SET_VRING_BASE = 10,
  SET_VRING_KICK = 12,
  SET_VRING_CALL = 13,
  GET_PROTOCOL_FEATURES = 15,
  SET_PROTOCOL_FEATURES = 16,
  SET_VRING_ENABLE = 18,
};
#define MESSAGE_VERSION 1u
#define FEATURE_FLUSH (1ull << 9)
#define FEATURE_INDIRECT (1ull << 28)
#define FEATURE_EVENT_INDEX (1ull << 29)
#define FEATURE_PROTOCOL (1ull << 30)
#define FEATURE_VERSION_1 (1ull << 32)

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2
#define DESCRIPTOR_INDIRECT 4
#define REQUEST_IN 0
#define REQUEST_OUT 1

#define RING_SIZE 256
#define PIECES_MAX 256
#define PAGE 4096
#define GUEST_BASE 0x100000000ull
#define USER_BASE 0x7f0000000000ull
#define DEVICE_TIMEOUT_MS 10000

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

struct available {
  uint16_t flags;
  _Atomic uint16_t index;
  uint16_t ring[RING_SIZE];
  _Atomic uint16_t used_event;
};

struct used {
  uint16_t flags;
  _Atomic uint16_t index;
  struct {
    uint32_t id;
    uint32_t length;
  } ring[RING_SIZE];
  _Atomic uint16_t available_event;
};

struct request {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
  uint8_t status;
};

struct shared {
  _Alignas(PAGE) struct descriptor descriptors[RING_SIZE];
  _Alignas(PAGE) struct available available;
  _Alignas(PAGE) struct used used;
  _Alignas(PAGE) struct request requests[DEPTH_MAX];
  _Alignas(PAGE) struct descriptor tables[DEPTH_MAX][PIECES_MAX + 2];
  _Alignas(PAGE) uint8_t data[];
};

static struct {
  int socket;
  int kick;
  int call;
  int memory;
  size_t memory_bytes;
  struct shared *shared;
  uint16_t taken;
  uint32_t piece_bytes; /* 0: data in one piece */
} device;

static void send_message(uint32_t request, const void *payload, uint32_t length, int descriptor)
{
  uint8_t bytes[12 + 64];
  const uint32_t header[3] = {request, MESSAGE_VERSION, length};
  memcpy(bytes, header, sizeof header);
  if (length > 0) memcpy(bytes + sizeof header, payload, length);
  struct iovec part = {bytes, sizeof header + length};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (descriptor >= 0) {
    message.msg_control = &control;
    message.msg_controllen = sizeof control.bytes;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
  }
  if (sendmsg(device.socket, &message, MSG_NOSIGNAL) != (ssize_t)part.iov_len)
    die("message %u was not taken: %s", request, strerror(errno));
}

static void receive(void *bytes, size_t length)
{
  if (recv(device.socket, bytes, length, MSG_WAITALL) != (ssize_t)length)
    die("the device hung up: %s", strerror(errno));
}

static uint64_t ask(uint32_t request)
{
  send_message(request, NULL, 0, -1);
  uint32_t header[3];
  uint64_t value;
  receive(header, sizeof header);
  if (header[0] != request || header[2] != sizeof value) die("no reply to %u", request);
  receive(&value, sizeof value);
  return value;
}

static void tell(uint32_t request, uint64_t value, int descriptor)
{
  send_message(request, &value, sizeof value, descriptor);
}

static void tell_ring(uint32_t request, uint32_t value)
{
  const uint32_t state[2] = {0, value};
  send_message(request, state, sizeof state, -1);
}

static void negotiate(void)
{
  const uint64_t wanted = FEATURE_FLUSH | FEATURE_EVENT_INDEX | FEATURE_PROTOCOL |
                          FEATURE_VERSION_1 | (device.piece_bytes > 0 ? FEATURE_INDIRECT : 0);
  const uint64_t offered = ask(GET_FEATURES);
  if ((offered & wanted) != wanted) die("the device offers only %#" PRIx64, offered);
  ask(GET_PROTOCOL_FEATURES);
  tell(SET_PROTOCOL_FEATURES, 0, -1);
  send_message(SET_OWNER, NULL, 0, -1);
  tell(SET_FEATURES, wanted, -1);
  const struct {
    uint32_t count;
    uint32_t padding;
    uint64_t guest, bytes, user, offset;
  } table = {1, 0, GUEST_BASE, device.memory_bytes, USER_BASE, 0};
  send_message(SET_MEM_TABLE, &table, sizeof table, device.memory);
  tell_ring(SET_VRING_NUM, RING_SIZE);
  tell_ring(SET_VRING_BASE, 0);
  const struct {
    uint32_t index, flags;
    uint64_t descriptors, used, available, log;
  } addresses = {
      .descriptors = USER_BASE + offsetof(struct shared, descriptors),
      .used = USER_BASE + offsetof(struct shared, used),
      .available = USER_BASE + offsetof(struct shared, available),
  };
  send_message(SET_VRING_ADDR, &addresses, sizeof addresses, -1);
  tell(SET_VRING_CALL, 0, device.call);
  tell(SET_VRING_KICK, 0, device.kick);
  tell_ring(SET_VRING_ENABLE, 1);
}

static void set_up(const char *path)
{
  device.socket = connect_to_path(path);
  device.kick = eventfd(0, 0);
  device.call = eventfd(0, 0);
  device.memory = memfd_create("vhost-load", 0);
  device.memory_bytes = sizeof(struct shared) + (size_t)load.depth * load.block_bytes;
  device.memory_bytes = (device.memory_bytes + PAGE - 1) / PAGE * PAGE;
  if (ftruncate(device.memory, (off_t)device.memory_bytes) != 0) die("no memory");
  const int access = PROT_READ | PROT_WRITE;
  device.shared = mmap(NULL, device.memory_bytes, access, MAP_SHARED, device.memory, 0);
  if (device.shared == MAP_FAILED) die("the memory cannot be mapped: %s", strerror(errno));
}

static uint64_t address_of(const void *place)
{
  return GUEST_BASE + (uint64_t)((const uint8_t *)place - (const uint8_t *)device.shared);
}

/*
 * Piece `index` of all slots' data: no two of a request's lie side by side, and no two requests'
 * are in the same order.
 */
static uint64_t address_of_piece(uint32_t slot, uint32_t index, uint32_t count)
{
  const uint64_t place = (uint64_t)(index * 7 + slot * 3) % count * load.depth + slot;
  return address_of(device.shared->data + place * device.piece_bytes);
}

/* One descriptor, of a table: header, pieces of data, status. */
static void prepare_table(uint32_t slot)
{
  struct shared *shared = device.shared;
  struct request *request = &shared->requests[slot];
  struct descriptor *table = shared->tables[slot];
  const uint32_t count = load.block_bytes / device.piece_bytes;
  const uint16_t direction = load.is_write ? 0 : DESCRIPTOR_WRITE;
  request->type = load.is_write ? REQUEST_OUT : REQUEST_IN;
  table[0] = (struct descriptor){address_of(request), 16, DESCRIPTOR_NEXT, 1};
  for (uint32_t index = 0; index < count; index += 1)
    table[1 + index] = (struct descriptor){address_of_piece(slot, index, count),
                                           device.piece_bytes, direction | DESCRIPTOR_NEXT,
                                           (uint16_t)(index + 2)};
  table[count + 1] = (struct descriptor){address_of(&request->status), 1, DESCRIPTOR_WRITE, 0};
  shared->descriptors[3 * slot] = (struct descriptor){
      address_of(table), (count + 2) * sizeof *table, DESCRIPTOR_INDIRECT, 0};
}

/* Three descriptors each, at places of their own: header, data, status. */
static void prepare(uint32_t slot)
{
  if (device.piece_bytes > 0) {
    prepare_table(slot);
    return;
  }
  struct shared *shared = device.shared;
  struct request *request = &shared->requests[slot];
  struct descriptor *first = &shared->descriptors[3 * slot];
  const uint16_t direction = load.is_write ? 0 : DESCRIPTOR_WRITE;
  uint8_t *data = shared->data + (size_t)slot * load.block_bytes;
  request->type = load.is_write ? REQUEST_OUT : REQUEST_IN;
  first[0] = (struct descriptor){address_of(request), 16, DESCRIPTOR_NEXT, 3 * slot + 1};
  first[1] = (struct descriptor){
      address_of(data), load.block_bytes, direction | DESCRIPTOR_NEXT, 3 * slot + 2};
  first[2] = (struct descriptor){address_of(&request->status), 1, DESCRIPTOR_WRITE, 0};
}

/* Adds the request to those that the next `publish` shows. */
static void offer(uint32_t slot, uint16_t place, double at)
{
  struct shared *shared = device.shared;
  uint8_t *data = shared->data + (size_t)slot * load.block_bytes;
  shared->requests[slot].sector = begin_request(slot, data, at) / 512;
  shared->requests[slot].status = 0xff;
  shared->available.ring[place % RING_SIZE] = (uint16_t)(3 * slot);
}

static void publish(uint16_t before, uint16_t after)
{
  struct shared *shared = device.shared;
  atomic_store(&shared->available.index, after);
  const uint16_t event = atomic_load(&shared->used.available_event);
  if ((uint16_t)(after - event - 1) >= (uint16_t)(after - before)) return;
  const uint64_t one = 1;
  if (write(device.kick, &one, sizeof one) != sizeof one) die("the device cannot be kicked");
}

static void wait_for_device(void)
{
  struct shared *shared = device.shared;
  atomic_store(&shared->available.used_event, device.taken);
  if (atomic_load(&shared->used.index) != device.taken) return;
  struct pollfd signal = {.fd = device.call, .events = POLLIN};
  if (poll(&signal, 1, DEVICE_TIMEOUT_MS) != 1) die("no signal of the device");
  /* Some devices make the event not block, which is the same for both sides. */
  uint64_t count;
  if (read(device.call, &count, sizeof count) != sizeof count && errno != EAGAIN)
    die("no signal of the device: %s", strerror(errno));
}

static uint32_t take(double at)
{
  struct shared *shared = device.shared;
  const uint32_t id = shared->used.ring[device.taken % RING_SIZE].id;
  const uint32_t slot = id / 3;
  device.taken += 1;
  if (id % 3 != 0 || slot >= load.depth) die("the device gave back %u", id);
  if (shared->requests[slot].status != 0)
    die("a request failed with status %u", shared->requests[slot].status);
  end_request(slot, at);
  return slot;
}

static void run(void)
{
  uint16_t offered = 0;
  const double begin = now();
  for (uint32_t slot = 0; slot < load.depth; slot += 1) {
    prepare(slot);
    offer(slot, offered++, begin);
  }
  start_clock(begin);
  publish(0, offered);
  for (uint32_t in_flight = load.depth; in_flight > 0;) {
    const uint16_t before = offered;
    const uint16_t used = atomic_load(&device.shared->used.index);
    if (used == device.taken) {
      wait_for_device();
      continue;
    }
    const double at = now();
    while (device.taken != used) {
      const uint32_t slot = take(at);
      if (at < load.end) offer(slot, offered++, at);
      else in_flight -= 1;
    }
    if (offered != before) publish(before, offered);
  }
}

/* The one word that only this program takes. */
static void parse_piece(const char *word)
{
  device.piece_bytes = (uint32_t)strtoul(word, NULL, 10);
  const uint32_t count = device.piece_bytes > 0 ? load.block_bytes / device.piece_bytes : 0;
  /* So many that 7 shares no divisor with them: see `address_of_piece`. */
  if (count == 0 || count > PIECES_MAX || count % 7 == 0 ||
      load.block_bytes % device.piece_bytes != 0)
    die("no such pieces");
}

int main(int count, char **words)
{
  parse_words(count > 9 ? 9 : count, words);
  if (count == 10) parse_piece(words[9]);
  else if (count > 10) die("see the head of its source for what it takes");
  set_up(load.path);
  negotiate();
  run();
  print_result();
  return 0;
}
