/* What the programs that put load on a disk have in common: words, time, randomness, result. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEPTH_MAX 64
#define RAMP_SECONDS 1.0
/* Latencies are counted by the microsecond up to this. */
#define LATENCY_US_MAX 1000000

static struct {
  const char *path;
  bool is_write;
  bool is_ordered;
  uint64_t block_count;
  uint32_t block_bytes;
  uint32_t depth;
  double seconds;
  uint64_t random;
  uint64_t next_block;
  double counted_from;
  double end;
  uint64_t operations;
  double begun_at[DEPTH_MAX];
  uint64_t latencies[LATENCY_US_MAX + 1];
} load;

static _Noreturn void die(const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static double now(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* xorshift64: fresh bytes for every request must cost little. */
static uint64_t next_random(void)
{
  load.random ^= load.random << 13;
  load.random ^= load.random >> 7;
  load.random ^= load.random << 17;
  return load.random;
}

/* The byte where the next request of `slot` begins, whose data, if written, are at `data`. */
static uint64_t begin_request(uint32_t slot, uint8_t *data, double at)
{
  const uint64_t block = load.is_ordered ? load.next_block++ : next_random();
  if (load.is_write) {
    for (uint32_t at_byte = 0; at_byte < load.block_bytes; at_byte += 8) {
      const uint64_t word = next_random();
      /* Behind a header of its protocol, data is aligned to nothing. */
      memcpy(data + at_byte, &word, sizeof word);
    }
  }
  load.begun_at[slot] = at;
  return block % load.block_count * load.block_bytes;
}

static void end_request(uint32_t slot, double at)
{
  if (at < load.counted_from || at >= load.end) return;
  const double us = (at - load.begun_at[slot]) * 1e6;
  load.latencies[us < LATENCY_US_MAX ? (uint32_t)us : LATENCY_US_MAX] += 1;
  load.operations += 1;
}

/* Words: PATH read|write SIZE BLOCK DEPTH SECONDS SEED random|ordered. */
static void parse_words(int count, char **words)
{
  if (count != 9) die("see the head of its source for what it takes");
  load.path = words[1];
  load.is_write = strcmp(words[2], "write") == 0;
  load.block_bytes = (uint32_t)strtoul(words[4], NULL, 10);
  load.depth = (uint32_t)strtoul(words[5], NULL, 10);
  load.seconds = strtod(words[6], NULL);
  load.random = strtoull(words[7], NULL, 10) * 2654435761u + 88172645463325252ull;
  load.is_ordered = strcmp(words[8], "ordered") == 0;
  if (load.block_bytes < 512 || load.depth < 1 || load.depth > DEPTH_MAX) die("no such load");
  load.block_count = strtoull(words[3], NULL, 10) / load.block_bytes;
  if (load.block_count == 0) die("the disk is too small");
}

static void start_clock(double begin)
{
  load.counted_from = begin + RAMP_SECONDS;
  load.end = load.counted_from + load.seconds;
}

static uint32_t latency(double part)
{
  uint64_t seen = 0;
  for (uint32_t us = 0; us < LATENCY_US_MAX; us += 1) {
    seen += load.latencies[us];
    if ((double)seen >= (double)load.operations * part) return us;
  }
  return LATENCY_US_MAX;
}

static void print_result(void)
{
  printf("{\"operationCount\":%" PRIu64 ",\"latencyMedianUs\":%u,\"latency99Us\":%u}\n",
         load.operations, latency(0.5), latency(0.99));
}
