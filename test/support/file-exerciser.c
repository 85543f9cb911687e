/*
 * Random operations on one file, each read checked against a copy in memory. It stands in for fsx,
 * which no Debian release packages; the test runs a real fsx besides where there is one.
 *
 *     file-exerciser MODE OPERATIONS SEED SIZE_MAX FILE
 *
 * MODE: buffered, direct (O_DIRECT, everything in multiples of 512) or mmap (shared mappings and
 * read/write in turns). Prints one line of JSON: how often each operation was done, how often the
 * filesystem said EOPNOTSUPP. The first difference ends it with 1, naming seed and operation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HISTORY 24
#define LENGTH_MAX (256 * 1024)

enum mode { BUFFERED, DIRECT, MAPPED };

static struct {
  const char *path;
  enum mode mode;
  uint64_t random_state;
  uint64_t seed;
  long number;
  int fd;
  size_t size_max;
  /* What the file holds; zero behind its end. */
  size_t size;
  uint8_t *model;
  uint8_t *buffer;
  char history[HISTORY][96];
} w;

static void fail(const char *format, ...) {
  va_list arguments;
  fprintf(stderr, "seed %" PRIu64 ", operation %ld: ", w.seed, w.number);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\nthe last operations:\n");
  for (long i = w.number < HISTORY ? 1 : w.number - HISTORY + 1; i <= w.number; i++)
    fprintf(stderr, "  %ld %s\n", i, w.history[i % HISTORY]);
  exit(1);
}

static void note(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(w.history[w.number % HISTORY], sizeof w.history[0], format, arguments);
  va_end(arguments);
}

/* SplitMix64: the same seed, the same operations, anywhere. */
static uint64_t next_random(void) {
  uint64_t z = (w.random_state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/* Below `limit`, in multiples of what the mode needs. */
static size_t pick(size_t limit) {
  size_t unit = w.mode == DIRECT ? 512 : 1;
  return limit < unit ? 0 : next_random() % (limit / unit) * unit;
}

static size_t pick_length(size_t room) {
  size_t unit = w.mode == DIRECT ? 512 : 1;
  size_t limit = room < LENGTH_MAX ? room : LENGTH_MAX;
  /* Mostly small, now and then large. */
  if (next_random() % 4 != 0 && limit > 16384) limit = 16384;
  return limit < unit ? 0 : pick(limit) + unit;
}

static void fill(size_t length) {
  for (size_t i = 0; i < length; i += 8) {
    uint64_t word = next_random();
    memcpy(w.buffer + i, &word, 8);
  }
}

static void open_file(int flags) {
  w.fd = open(w.path, O_RDWR | flags | (w.mode == DIRECT ? O_DIRECT : 0), 0600);
  if (w.fd < 0) fail("open: %s", strerror(errno));
}

static void compare(const uint8_t *got, size_t offset, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (got[i] == w.model[offset + i]) continue;
    fail("byte %zu of %zu+%zu is %02x, not %02x", offset + i, offset, length, got[i],
         w.model[offset + i]);
  }
}

static void check_size(void) {
  struct stat status;
  if (fstat(w.fd, &status) < 0) fail("fstat: %s", strerror(errno));
  if ((size_t)status.st_size != w.size) fail("size %zu, not %zu", (size_t)status.st_size, w.size);
}

static void grown_to(size_t end) {
  if (end > w.size) w.size = end;
}

static bool do_write(void) {
  size_t offset = pick(w.size_max), length = pick_length(w.size_max - offset);
  note("write %zu+%zu", offset, length);
  fill(length);
  ssize_t written = pwrite(w.fd, w.buffer, length, (off_t)offset);
  if (written != (ssize_t)length) fail("write: %zd, %s", written, strerror(errno));
  memcpy(w.model + offset, w.buffer, length);
  grown_to(offset + length);
  return true;
}

static bool do_read(void) {
  size_t offset = pick(w.size_max), length = pick_length(w.size_max - offset);
  note("read %zu+%zu", offset, length);
  size_t there = offset >= w.size ? 0 : w.size - offset < length ? w.size - offset : length;
  ssize_t got = pread(w.fd, w.buffer, length, (off_t)offset);
  if (got != (ssize_t)there) fail("read: %zd, not %zu, %s", got, there, strerror(errno));
  compare(w.buffer, offset, there);
  return true;
}

static bool do_mapped(bool is_write) {
  if (w.size == 0) return false;
  size_t offset = pick(w.size), length = pick_length(w.size - offset);
  note("mapped %s %zu+%zu", is_write ? "write" : "read", offset, length);
  size_t skipped = offset % 4096;
  uint8_t *map = mmap(NULL, length + skipped, PROT_READ | (is_write ? PROT_WRITE : 0), MAP_SHARED,
                      w.fd, (off_t)(offset - skipped));
  if (map == MAP_FAILED) fail("mmap: %s", strerror(errno));
  if (is_write) {
    fill(length);
    memcpy(map + skipped, w.buffer, length);
    memcpy(w.model + offset, w.buffer, length);
    if (next_random() % 2 == 0 && msync(map, length + skipped, MS_SYNC) < 0)
      fail("msync: %s", strerror(errno));
  } else {
    compare(map + skipped, offset, length);
  }
  if (munmap(map, length + skipped) < 0) fail("munmap: %s", strerror(errno));
  return true;
}

static bool do_mapped_write(void) { return do_mapped(true); }
static bool do_mapped_read(void) { return do_mapped(false); }

static bool do_truncate(void) {
  size_t size = pick(w.size_max);
  note("truncate %zu to %zu", w.size, size);
  if (ftruncate(w.fd, (off_t)size) < 0) fail("ftruncate: %s", strerror(errno));
  if (size < w.size) memset(w.model + size, 0, w.size - size);
  w.size = size;
  return true;
}

static bool do_fallocate(int mode, const char *name) {
  size_t offset = pick(w.size_max), length = pick_length(w.size_max - offset);
  note("%s %zu+%zu", name, offset, length);
  if (length == 0) return false;
  if (fallocate(w.fd, mode, (off_t)offset, (off_t)length) < 0) {
    if (errno == EOPNOTSUPP || errno == ENOSYS) return false;
    fail("fallocate: %s", strerror(errno));
  }
  if (!(mode & FALLOC_FL_KEEP_SIZE)) grown_to(offset + length);
  if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
    memset(w.model + offset, 0, length);
  return true;
}

static bool do_punch(void) {
  return do_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch");
}
static bool do_zero(void) { return do_fallocate(FALLOC_FL_ZERO_RANGE, "zero"); }
static bool do_zero_keep(void) {
  return do_fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, "zero, keep size");
}
static bool do_allocate(void) { return do_fallocate(0, "allocate"); }
static bool do_allocate_keep(void) {
  return do_fallocate(FALLOC_FL_KEEP_SIZE, "allocate, keep size");
}

static bool do_copy(void) {
  if (w.size == 0) return false;
  /* Half of them whole blocks, which a pool can share. */
  size_t mask = next_random() % 2 == 0 ? ~(size_t)4095 : ~(size_t)0;
  size_t from = pick(w.size) & mask;
  size_t length = pick_length(w.size - from) & mask;
  size_t to = pick(w.size_max - length) & mask;
  note("copy %zu+%zu to %zu", from, length, to);
  if (length == 0 || (from < to + length && to < from + length)) return false;
  off_t in = (off_t)from, out = (off_t)to;
  for (size_t left = length; left > 0;) {
    ssize_t copied = copy_file_range(w.fd, &in, w.fd, &out, left, 0);
    if (copied <= 0) fail("copy_file_range: %zd, %s", copied, strerror(errno));
    left -= (size_t)copied;
  }
  memcpy(w.model + to, w.model + from, length);
  grown_to(to + length);
  return true;
}

static bool do_sync(void) {
  bool is_data = next_random() % 2 == 0;
  note(is_data ? "fdatasync" : "fsync");
  if ((is_data ? fdatasync(w.fd) : fsync(w.fd)) < 0) fail("fsync: %s", strerror(errno));
  return true;
}

static bool do_reopen(void) {
  note("close and open");
  if (close(w.fd) < 0) fail("close: %s", strerror(errno));
  open_file(0);
  return true;
}

/* What is cached goes, so that later reads ask the filesystem. */
static bool do_drop(void) {
  note("drop the cache");
  if (fdatasync(w.fd) < 0) fail("fdatasync: %s", strerror(errno));
  int error = posix_fadvise(w.fd, 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) fail("posix_fadvise: %s", strerror(error));
  return true;
}

/* What is said to be a hole must read as zeros, and what is not zero must be said to be data. */
static bool do_seek(void) {
  if (w.size == 0) return false;
  size_t offset = pick(w.size);
  note("seek from %zu", offset);
  off_t data = lseek(w.fd, (off_t)offset, SEEK_DATA);
  if (data < 0 && errno != ENXIO) fail("SEEK_DATA: %s", strerror(errno));
  size_t hole_end = data < 0 ? w.size : (size_t)data;
  for (size_t i = offset; i < hole_end; i++)
    if (w.model[i] != 0) fail("byte %zu is in a hole by SEEK_DATA, but %02x", i, w.model[i]);
  if (data < 0) return true;
  off_t hole = lseek(w.fd, data, SEEK_HOLE);
  if (hole <= data || (size_t)hole > w.size) fail("SEEK_HOLE %jd: %jd", data, hole);
  return true;
}

static struct {
  const char *name;
  bool (*run)(void);
  unsigned weight;
  /* Bits of the modes it belongs to. */
  unsigned modes;
  unsigned done;
  unsigned not_done;
} operations[] = {
    {"write", do_write, 20, 1 | 2 | 4, 0, 0},
    {"read", do_read, 20, 1 | 2 | 4, 0, 0},
    {"mappedWrite", do_mapped_write, 20, 4, 0, 0},
    {"mappedRead", do_mapped_read, 20, 4, 0, 0},
    {"truncate", do_truncate, 6, 1 | 2 | 4, 0, 0},
    {"punch", do_punch, 6, 1 | 2 | 4, 0, 0},
    {"zero", do_zero, 4, 1 | 2 | 4, 0, 0},
    {"zeroKeepingSize", do_zero_keep, 4, 1 | 2 | 4, 0, 0},
    {"allocate", do_allocate, 3, 1 | 2 | 4, 0, 0},
    {"allocateKeepingSize", do_allocate_keep, 3, 1 | 2 | 4, 0, 0},
    {"copy", do_copy, 6, 1 | 2 | 4, 0, 0},
    {"seek", do_seek, 6, 1 | 2 | 4, 0, 0},
    {"sync", do_sync, 3, 1 | 2 | 4, 0, 0},
    {"reopen", do_reopen, 2, 1 | 2 | 4, 0, 0},
    {"drop", do_drop, 2, 1 | 4, 0, 0},
};
#define OPERATION_COUNT (sizeof operations / sizeof *operations)

static void run_one(void) {
  unsigned total = 0;
  for (size_t i = 0; i < OPERATION_COUNT; i++)
    if (operations[i].modes >> w.mode & 1) total += operations[i].weight;
  unsigned chosen = next_random() % total;
  for (size_t i = 0; i < OPERATION_COUNT; i++) {
    if (!(operations[i].modes >> w.mode & 1)) continue;
    if (chosen >= operations[i].weight) {
      chosen -= operations[i].weight;
      continue;
    }
    if (operations[i].run()) operations[i].done++;
    else operations[i].not_done++;
    return;
  }
}

/* After closing, through another descriptor, from the first byte to the last. */
static void check_whole(void) {
  if (close(w.fd) < 0) fail("close: %s", strerror(errno));
  open_file(0);
  check_size();
  for (size_t offset = 0; offset < w.size; offset += LENGTH_MAX) {
    size_t length = w.size - offset < LENGTH_MAX ? w.size - offset : LENGTH_MAX;
    /* An O_DIRECT read asks for whole sectors and gets what there is. */
    ssize_t got = pread(w.fd, w.buffer, LENGTH_MAX, (off_t)offset);
    if (got != (ssize_t)length) fail("whole: %zd, not %zu, %s", got, length, strerror(errno));
    compare(w.buffer, offset, length);
  }
  close(w.fd);
}

static enum mode mode_of(const char *name) {
  if (strcmp(name, "buffered") == 0) return BUFFERED;
  if (strcmp(name, "direct") == 0) return DIRECT;
  if (strcmp(name, "mmap") == 0) return MAPPED;
  fprintf(stderr, "no mode %s\n", name);
  exit(2);
}

int main(int count, char **arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: file-exerciser MODE OPERATIONS SEED SIZE_MAX FILE\n");
    return 2;
  }
  w.mode = mode_of(arguments[1]);
  long total = atol(arguments[2]);
  w.seed = w.random_state = strtoull(arguments[3], NULL, 10);
  w.size_max = strtoull(arguments[4], NULL, 10) & ~(size_t)4095;
  w.path = arguments[5];
  w.model = calloc(1, w.size_max + LENGTH_MAX);
  if (w.model == NULL || posix_memalign((void **)&w.buffer, 4096, LENGTH_MAX) != 0) return 2;
  open_file(O_CREAT | O_TRUNC);
  for (w.number = 1; w.number <= total; w.number++) {
    run_one();
    check_size();
  }
  w.number = total;
  check_whole();
  printf("{");
  for (size_t i = 0; i < OPERATION_COUNT; i++)
    printf("%s\"%s\":[%u,%u]", i == 0 ? "" : ",", operations[i].name, operations[i].done,
           operations[i].not_done);
  printf("}\n");
  return 0;
}
