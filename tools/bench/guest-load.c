/*
 * Load on a block device past the page cache, for a guest whose userland is this program alone
 * (linked statically) and a shell:
 *
 *     guest-load DEVICE read|write SIZE BLOCK DEPTH SECONDS SEED random|ordered
 *
 * Linux's own AIO, DEPTH requests of BLOCK bytes at a time within the first SIZE. The first second
 * is not counted. Prints one line of JSON; any failed request ends it with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "load.h"

#define PAGE 4096

static aio_context_t context;
static int device;
static uint8_t *data;
static struct iocb requests[DEPTH_MAX];

static void submit(const uint32_t *slots, uint32_t count, double at)
{
  struct iocb *pointers[DEPTH_MAX];
  for (uint32_t index = 0; index < count; index += 1) {
    const uint32_t slot = slots[index];
    uint8_t *bytes = data + (size_t)slot * load.block_bytes;
    requests[slot] = (struct iocb){
        .aio_data = slot,
        .aio_lio_opcode = load.is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)device,
        .aio_buf = (uint64_t)(uintptr_t)bytes,
        .aio_nbytes = load.block_bytes,
        .aio_offset = (int64_t)begin_request(slot, bytes, at),
    };
    pointers[index] = &requests[slot];
  }
  if (syscall(SYS_io_submit, context, (long)count, pointers) != (long)count)
    die("requests were not taken: %s", strerror(errno));
}

static void run(void)
{
  uint32_t slots[DEPTH_MAX];
  for (uint32_t slot = 0; slot < load.depth; slot += 1) slots[slot] = slot;
  start_clock(now());
  submit(slots, load.depth, now());
  for (uint32_t in_flight = load.depth; in_flight > 0;) {
    struct io_event events[DEPTH_MAX];
    const long count = syscall(SYS_io_getevents, context, 1L, (long)DEPTH_MAX, events, NULL);
    if (count < 1) die("no events: %s", strerror(errno));
    const double at = now();
    for (long index = 0; index < count; index += 1) {
      if (events[index].res != (int64_t)load.block_bytes)
        die("a request failed: %lld", (long long)events[index].res);
      slots[index] = (uint32_t)events[index].data;
      end_request(slots[index], at);
    }
    if (at < load.end) submit(slots, (uint32_t)count, at);
    else in_flight -= (uint32_t)count;
  }
}

int main(int count, char **words)
{
  parse_words(count, words);
  device = open(load.path, O_RDWR | O_DIRECT);
  if (device < 0) die("%s: %s", load.path, strerror(errno));
  if (posix_memalign((void **)&data, PAGE, (size_t)load.depth * load.block_bytes) != 0)
    die("no memory");
  if (syscall(SYS_io_setup, (long)load.depth, &context) != 0) die("%s", strerror(errno));
  run();
  print_result();
  return 0;
}
