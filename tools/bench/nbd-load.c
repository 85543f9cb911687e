/*
 * Load on an NBD export over a unix socket, by a client that costs little:
 *
 *     nbd-load URI read|write SIZE BLOCK DEPTH SECONDS SEED random|ordered
 *
 * URI: nbd+unix:///EXPORT?socket=PATH. Requests of BLOCK bytes within the first SIZE, DEPTH at a
 * time, simple replies. It takes what has arrived with one call, and sends all requests that this
 * has made room for with another: fio's engine has several calls for each request, and may be what
 * is measured. The first second is not counted. Prints one line of JSON; any failed request ends it
 * with 1.
 */
#define _GNU_SOURCE
#include <endian.h>
#include "load.h"
#include "unix-socket.h"

/* The NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. */
#define INIT_MAGIC 0x4e42444d41474943ull
#define OPTION_MAGIC 0x49484156454f5054ull
#define OPTION_REPLY_MAGIC 0x3e889045565a9ull
#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_REPLY_MAGIC 0x67446698u
enum { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };
enum { OPTION_GO = 7, REPLY_ACK = 1 };
enum { COMMAND_READ = 0, COMMAND_WRITE = 1 };

#define NAME_BYTES_MAX 255
#define RECEIVED_BYTES_MAX (1024 * 1024)

struct option {
  uint64_t magic;
  uint32_t option;
  uint32_t length;
} __attribute__((packed));

struct option_reply {
  uint64_t magic;
  uint32_t option;
  uint32_t type;
  uint32_t length;
} __attribute__((packed));

struct request {
  uint32_t magic;
  uint16_t flags;
  uint16_t type;
  uint64_t cookie;
  uint64_t offset;
  uint32_t length;
} __attribute__((packed));

struct reply {
  uint32_t magic;
  uint32_t error;
  uint64_t cookie;
} __attribute__((packed));

static struct {
  int socket;
  /* Requests, their data behind them, that the next `flush_requests` sends. */
  uint8_t *sent;
  size_t sent_bytes;
  uint8_t received[RECEIVED_BYTES_MAX];
  /* Of `received`, not looked at: less than a header. */
  size_t rest_bytes;
  /* Of a read's data, not arrived. */
  size_t data_bytes;
  uint32_t data_slot;
} client;

static void send_all(const void *bytes, size_t length)
{
  for (const uint8_t *at = bytes; length > 0;) {
    const ssize_t sent = send(client.socket, at, length, 0);
    if (sent < 0 && errno != EINTR) die("send: %s", strerror(errno));
    if (sent < 0) continue;
    at += sent;
    length -= (size_t)sent;
  }
}

static size_t receive_some(void *bytes, size_t length)
{
  for (;;) {
    const ssize_t received = recv(client.socket, bytes, length, 0);
    if (received > 0) return (size_t)received;
    if (received == 0) die("the server has hung up");
    if (errno != EINTR) die("recv: %s", strerror(errno));
  }
}

static void receive_all(void *bytes, size_t length)
{
  for (uint8_t *at = bytes; length > 0;) {
    const size_t received = receive_some(at, length);
    at += received;
    length -= received;
  }
}

/* Leaves the export's name in `name`. */
static void connect_to(const char *uri, char *name)
{
  static const char scheme[] = "nbd+unix:///";
  const char *path = strstr(uri, "?socket=");
  if (strncmp(uri, scheme, strlen(scheme)) != 0 || path == NULL) die("no such URI: %s", uri);
  const char *begin = uri + strlen(scheme);
  snprintf(name, NAME_BYTES_MAX + 1, "%.*s", (int)(path - begin), begin);
  client.socket = connect_to_path(path + strlen("?socket="));
}

static void negotiate(const char *name)
{
  struct {
    uint64_t init, option;
    uint16_t flags;
  } __attribute__((packed)) greeting;
  receive_all(&greeting, sizeof greeting);
  if (be64toh(greeting.init) != INIT_MAGIC || be64toh(greeting.option) != OPTION_MAGIC ||
      (be16toh(greeting.flags) & FIXED_NEWSTYLE) == 0)
    die("no server of fixed newstyle");
  const uint32_t flags = htobe32(FIXED_NEWSTYLE | (be16toh(greeting.flags) & NO_ZEROES));
  send_all(&flags, sizeof flags);

  const uint32_t name_bytes = (uint32_t)strlen(name);
  const struct option go = {htobe64(OPTION_MAGIC), htobe32(OPTION_GO), htobe32(name_bytes + 6)};
  const uint32_t name_length = htobe32(name_bytes);
  const uint16_t information_count = 0;
  send_all(&go, sizeof go);
  send_all(&name_length, sizeof name_length);
  send_all(name, name_bytes);
  send_all(&information_count, sizeof information_count);
  for (struct option_reply reply;;) {
    receive_all(&reply, sizeof reply);
    const uint32_t length = be32toh(reply.length), type = be32toh(reply.type);
    if (be64toh(reply.magic) != OPTION_REPLY_MAGIC || length > RECEIVED_BYTES_MAX)
      die("no reply to an option");
    receive_all(client.received, length);
    if (type == REPLY_ACK) return;
    if ((type & 0x80000000u) != 0) die("the server refuses the export: %#x", type);
  }
}

static void offer(uint32_t slot, double at)
{
  struct request *request = (struct request *)(client.sent + client.sent_bytes);
  uint8_t *data = (uint8_t *)(request + 1);
  const uint64_t offset = begin_request(slot, data, at);
  *request = (struct request){
      .magic = htobe32(REQUEST_MAGIC),
      .type = htobe16(load.is_write ? COMMAND_WRITE : COMMAND_READ),
      .cookie = slot,
      .offset = htobe64(offset),
      .length = htobe32(load.block_bytes),
  };
  client.sent_bytes += sizeof *request + (load.is_write ? load.block_bytes : 0);
}

static void flush_requests(void)
{
  send_all(client.sent, client.sent_bytes);
  client.sent_bytes = 0;
}

/* True when a request was done and not followed by another. */
static bool done(uint32_t slot, double at)
{
  end_request(slot, at);
  if (at >= load.end) return true;
  offer(slot, at);
  return false;
}

static uint32_t slot_of(const struct reply *reply)
{
  if (be32toh(reply->magic) != SIMPLE_REPLY_MAGIC || reply->cookie >= load.depth)
    die("the server answered what was not asked");
  if (reply->error != 0) die("a request failed with error %u", be32toh(reply->error));
  return (uint32_t)reply->cookie;
}

/* Of what has arrived; returns how many requests were done and not followed by another. */
static uint32_t take(size_t received_bytes, double at)
{
  const uint8_t *next = client.received;
  const uint8_t *end = next + client.rest_bytes + received_bytes;
  uint32_t ended = 0;
  for (;;) {
    const size_t arrived = (size_t)(end - next);
    if (client.data_bytes > 0) {
      const size_t taken = arrived < client.data_bytes ? arrived : client.data_bytes;
      next += taken;
      client.data_bytes -= taken;
      if (client.data_bytes > 0) break;
      ended += done(client.data_slot, at);
    } else {
      if (arrived < sizeof(struct reply)) break;
      const uint32_t slot = slot_of((const struct reply *)next);
      next += sizeof(struct reply);
      client.data_slot = slot;
      client.data_bytes = load.is_write ? 0 : load.block_bytes;
      if (load.is_write) ended += done(slot, at);
    }
  }
  client.rest_bytes = (size_t)(end - next);
  memmove(client.received, next, client.rest_bytes);
  return ended;
}

static void run(void)
{
  const double begin = now();
  for (uint32_t slot = 0; slot < load.depth; slot += 1)
    offer(slot, begin);
  start_clock(begin);
  flush_requests();
  for (uint32_t in_flight = load.depth; in_flight > 0;) {
    uint8_t *free = client.received + client.rest_bytes;
    const size_t received = receive_some(free, RECEIVED_BYTES_MAX - client.rest_bytes);
    in_flight -= take(received, now());
    flush_requests();
  }
}

int main(int count, char **words)
{
  parse_words(count, words);
  const size_t data_bytes = load.is_write ? load.block_bytes : 0;
  client.sent = malloc(load.depth * (sizeof(struct request) + data_bytes));
  if (client.sent == NULL) die("no memory");
  char name[NAME_BYTES_MAX + 1];
  connect_to(load.path, name);
  negotiate(name);
  run();
  print_result();
  return 0;
}
