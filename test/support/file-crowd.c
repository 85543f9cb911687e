/*
 * Many processes at once on the files of a served pool, for some seconds.
 *
 *     file-crowd MOUNT SECONDS WORKERS SEED
 *
 * Each worker has files and snapshots of its own, of which it knows every byte, and shares others,
 * of which each word says where it belongs. On its own nothing may fail; on the shared ones only
 * what a local filesystem would say of a race, and EBUSY for removing or renaming what is in use.
 * At the end everything is removed again. Prints one line of JSON with the number of operations;
 * what is wrong goes to stderr, and the exit code is 1. Without MOUNT/snapshots none are taken: a
 * plain folder, to try the program itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
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
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define OWN_COUNT 2
#define SNAPSHOT_COUNT 2
#define SHARED_COUNT 6
#define SIZE_MAX_BYTES (256 * 1024)
#define PATH_BYTES 512
#define COUNTERS 4

struct snapshot {
  bool exists;
  size_t size;
  uint8_t *bytes;
};

struct own {
  bool exists;
  char name[64];
  unsigned generation;
  int fd;
  size_t size;
  uint8_t *bytes;
  struct snapshot snapshots[SNAPSHOT_COUNT];
};

static struct {
  const char *mount;
  bool has_snapshots;
  unsigned worker;
  uint64_t random_state;
  uint8_t *buffer;
  struct own files[OWN_COUNT];
  const char *doing;
} w;

static struct {
  uint64_t own, shared, snapshots, busy;
} *counts;

static void fail(const char *format, ...) {
  int error = errno;
  char said[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(said, sizeof said, format, arguments);
  va_end(arguments);
  fprintf(stderr, "worker %u, %s: %s (errno %d, %s)\n", w.worker, w.doing, said, error,
          strerror(error));
  _exit(1);
}

static uint64_t next_random(void) {
  uint64_t z = (w.random_state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

static size_t below(size_t limit) { return limit == 0 ? 0 : next_random() % limit; }

static const char *path_of(const char *format, ...) {
  static char paths[2][PATH_BYTES];
  static unsigned turn;
  char *path = paths[turn++ % 2];
  int length = snprintf(path, PATH_BYTES, "%s/", w.mount);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(path + length, PATH_BYTES - (size_t)length, format, arguments);
  va_end(arguments);
  return path;
}

static void close_file(struct own *file) {
  if (file->fd >= 0 && close(file->fd) < 0) fail("close %s", file->name);
  file->fd = -1;
}

static void need_open(struct own *file) {
  if (file->fd >= 0) return;
  file->fd = open(path_of("volumes/%s", file->name), O_RDWR | O_CLOEXEC);
  if (file->fd < 0) fail("open %s", file->name);
}

static void verify(int fd, const uint8_t *expected, size_t size, const char *name) {
  struct stat status;
  if (fstat(fd, &status) < 0) fail("fstat %s", name);
  if ((size_t)status.st_size != size) fail("%s has %jd bytes, not %zu", name, status.st_size, size);
  size_t offset = below(size), length = below(size - offset) + 1;
  if (size == 0) return;
  ssize_t got = pread(fd, w.buffer, length, (off_t)offset);
  if (got != (ssize_t)length) fail("read of %s at %zu+%zu: %zd", name, offset, length, got);
  for (size_t i = 0; i < length; i++)
    if (w.buffer[i] != expected[offset + i])
      fail("%s: byte %zu is %02x, not %02x", name, offset + i, w.buffer[i], expected[offset + i]);
}

static void create_own(struct own *file, unsigned index) {
  w.doing = "create";
  snprintf(file->name, sizeof file->name, "own-%u-%u-%u", w.worker, index, ++file->generation);
  file->fd = open(path_of("volumes/%s", file->name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file->fd < 0) fail("create %s", file->name);
  file->exists = true;
  file->size = 0;
  memset(file->bytes, 0, SIZE_MAX_BYTES);
}

static void write_own(struct own *file) {
  w.doing = "write";
  size_t offset = below(SIZE_MAX_BYTES), length = below(SIZE_MAX_BYTES - offset) % 32768 + 1;
  for (size_t i = 0; i < length; i++) file->bytes[offset + i] = (uint8_t)next_random();
  need_open(file);
  ssize_t written = pwrite(file->fd, file->bytes + offset, length, (off_t)offset);
  if (written != (ssize_t)length)
    fail("write %s %zu+%zu: %zd", file->name, offset, length, written);
  if (offset + length > file->size) file->size = offset + length;
}

static void truncate_own(struct own *file) {
  w.doing = "truncate";
  size_t size = below(SIZE_MAX_BYTES);
  int result = file->fd >= 0 ? ftruncate(file->fd, (off_t)size)
                             : truncate(path_of("volumes/%s", file->name), (off_t)size);
  if (result < 0) fail("truncate %s to %zu", file->name, size);
  if (size < file->size) memset(file->bytes + size, 0, file->size - size);
  file->size = size;
}

static void map_own(struct own *file) {
  w.doing = "mmap";
  if (file->size == 0) return;
  need_open(file);
  uint8_t *map = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
  if (map == MAP_FAILED) fail("mmap %s", file->name);
  if (memcmp(map, file->bytes, file->size) != 0) fail("%s differs in its mapping", file->name);
  size_t at = below(file->size);
  map[at] = file->bytes[at] = (uint8_t)next_random();
  if (msync(map, file->size, MS_SYNC) < 0) fail("msync %s", file->name);
  munmap(map, file->size);
}

static void rename_own(struct own *file, unsigned index) {
  w.doing = "rename";
  char name[64];
  snprintf(name, sizeof name, "own-%u-%u-%u", w.worker, index, ++file->generation);
  const char *from = path_of("volumes/%s", file->name);
  if (rename(from, path_of("volumes/%s", name)) < 0) {
    /* Clients know a disk by its name; nobody takes it from them. */
    if (errno != EBUSY || file->fd < 0) fail("rename %s to %s", file->name, name);
    counts->busy++;
    return;
  }
  strcpy(file->name, name);
}

static void look(struct own *file) {
  w.doing = "look";
  struct stat status;
  if (stat(path_of("volumes/%s", file->name), &status) < 0) fail("stat %s", file->name);
  if ((size_t)status.st_size != file->size)
    fail("%s has %jd bytes, not %zu", file->name, status.st_size, file->size);
  struct statvfs space;
  if (statvfs(w.mount, &space) < 0) fail("statvfs");
  char value[256];
  if (w.has_snapshots &&
      getxattr(path_of("volumes/%s", file->name), "user.varve.mapped", value, sizeof value) < 0)
    fail("getxattr of %s", file->name);
  DIR *folder = opendir(path_of("volumes"));
  if (folder == NULL) fail("opendir");
  bool found = false;
  errno = 0;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
    found = found || strcmp(entry->d_name, file->name) == 0;
  if (errno != 0) fail("readdir");
  closedir(folder);
  if (!found) fail("%s is not listed", file->name);
}

static void take_snapshot(struct own *file, unsigned index) {
  struct snapshot *snapshot = &file->snapshots[index];
  w.doing = "snapshot";
  /* What the kernel still caches is not the pool's yet. */
  need_open(file);
  if (fsync(file->fd) < 0) fail("fsync %s", file->name);
  if (mkdir(path_of("snapshots/%s/s%u", file->name, index), 0700) < 0)
    fail("mkdir of a snapshot of %s", file->name);
  snapshot->exists = true;
  snapshot->size = file->size;
  memcpy(snapshot->bytes, file->bytes, SIZE_MAX_BYTES);
  counts->snapshots++;
}

static void check_snapshot(struct own *file, unsigned index) {
  struct snapshot *snapshot = &file->snapshots[index];
  w.doing = "read of a snapshot";
  const char *path = path_of("snapshots/%s/s%u/disk", file->name, index);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open %s", path);
  verify(fd, snapshot->bytes, snapshot->size, path);
  if (close(fd) < 0) fail("close %s", path);
  fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd >= 0) fail("%s can be opened for writing", path);
}

static void remove_snapshot(struct own *file, unsigned index) {
  w.doing = "removal of a snapshot";
  if (rmdir(path_of("snapshots/%s/s%u", file->name, index)) < 0)
    fail("rmdir of s%u of %s", index, file->name);
  file->snapshots[index].exists = false;
}

static void remove_own(struct own *file) {
  w.doing = "unlink";
  close_file(file);
  const char *path = path_of("volumes/%s", file->name);
  for (unsigned i = 0; i < SNAPSHOT_COUNT; i++) {
    if (!file->snapshots[i].exists) continue;
    if (unlink(path) == 0 || errno != EBUSY) fail("%s has a snapshot, but went", file->name);
    counts->busy++;
    remove_snapshot(file, i);
    path = path_of("volumes/%s", file->name);
  }
  if (unlink(path) < 0) fail("unlink %s", file->name);
  file->exists = false;
}

static void work_own(void) {
  unsigned index = (unsigned)below(OWN_COUNT);
  struct own *file = &w.files[index];
  counts->own++;
  if (!file->exists) return create_own(file, index);
  unsigned which = (unsigned)below(SNAPSHOT_COUNT);
  struct snapshot *snapshot = &file->snapshots[which];
  switch (next_random() % 20) {
    case 0: case 1: case 2: case 3: return write_own(file);
    case 4: case 5: case 6: case 7:
      w.doing = "read";
      need_open(file);
      return verify(file->fd, file->bytes, file->size, file->name);
    case 8: return truncate_own(file);
    case 9: return map_own(file);
    case 10: return rename_own(file, index);
    case 11: case 12: return look(file);
    case 13:
      need_open(file);
      w.doing = "fsync";
      if (fsync(file->fd) < 0) fail("fsync %s", file->name);
      return;
    case 14: return close_file(file);
    case 15: return remove_own(file);
    default:
      if (!w.has_snapshots) return;
      if (!snapshot->exists) return take_snapshot(file, which);
      if (next_random() % 3 == 0) return remove_snapshot(file, which);
      return check_snapshot(file, which);
  }
}

/* What a race may answer; anything else is wrong. */
static void allow(int result, int allowed_mask, const char *name) {
  if (result >= 0) return;
  if (errno == EBUSY && (allowed_mask & 4)) counts->busy++;
  else if (!((errno == ENOENT && (allowed_mask & 1)) || (errno == EEXIST && (allowed_mask & 2))))
    fail("%s", name);
}

/* A word of a shared file: where it belongs, and who wrote it. */
static void shared_data(const char *name) {
  int flags = O_RDWR | O_CLOEXEC | (next_random() % 2 == 0 ? O_CREAT : 0);
  int fd = open(path_of("volumes/%s", name), flags, 0600);
  allow(fd, 1 | (flags & O_CREAT ? 2 : 0), name);
  if (fd < 0) return;
  uint64_t *words = (uint64_t *)w.buffer;
  size_t block = below(SIZE_MAX_BYTES / 4096);
  for (size_t i = 0; i < 512; i++) words[i] = (block * 512 + i + 1) << 16 | w.worker;
  if (next_random() % 2 == 0 && pwrite(fd, words, 4096, (off_t)block * 4096) != 4096)
    fail("write of %s", name);
  ssize_t got = pread(fd, words, 4096, (off_t)block * 4096);
  if (got < 0) fail("read of %s", name);
  for (size_t i = 0; i < (size_t)got / 8; i++)
    if (words[i] != 0 && words[i] >> 16 != block * 512 + i + 1)
      fail("%s: word %zu of block %zu is %" PRIx64, name, i, block, words[i]);
  if (next_random() % 8 == 0 && fdatasync(fd) < 0) fail("fdatasync of %s", name);
  if (close(fd) < 0) fail("close of %s", name);
}

static void work_shared(void) {
  char name[64], other[64];
  snprintf(name, sizeof name, "shared-%zu", below(SHARED_COUNT));
  snprintf(other, sizeof other, "shared-%zu", below(SHARED_COUNT));
  counts->shared++;
  w.doing = "shared";
  struct stat status;
  switch (next_random() % 12) {
    case 0: return allow(unlink(path_of("volumes/%s", name)), 1 | 4, "unlink of a shared file");
    case 1: {
      const char *from = path_of("volumes/%s", name);
      unsigned flags = RENAME_NOREPLACE;
      int result = renameat2(AT_FDCWD, from, AT_FDCWD, path_of("volumes/%s", other), flags);
      return allow(result, 1 | 2 | 4, "rename of a shared file");
    }
    case 2:
      if (!w.has_snapshots) return;
      return allow(mkdir(path_of("snapshots/%s/s", name), 0700), 1 | 2, "a shared snapshot");
    case 3:
      if (!w.has_snapshots) return;
      return allow(rmdir(path_of("snapshots/%s/s", name)), 1 | 4, "rmdir of a shared snapshot");
    case 4: return allow(stat(path_of("volumes/%s", name), &status), 1, "stat of a shared file");
    case 5: {
      off_t size = (off_t)below(SIZE_MAX_BYTES / 4096) * 4096;
      int result = truncate(path_of("volumes/%s", name), size);
      return allow(result, 1, "truncate of a shared file");
    }
    default: return shared_data(name);
  }
}

static void work(unsigned worker, uint64_t seed, double end) {
  w.worker = worker;
  w.random_state = seed * 1000 + worker;
  w.buffer = malloc(SIZE_MAX_BYTES);
  for (unsigned i = 0; i < OWN_COUNT; i++) {
    w.files[i].fd = -1;
    w.files[i].bytes = malloc(SIZE_MAX_BYTES);
    for (unsigned j = 0; j < SNAPSHOT_COUNT; j++)
      w.files[i].snapshots[j].bytes = malloc(SIZE_MAX_BYTES);
  }
  for (;;) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if ((double)now.tv_sec + (double)now.tv_nsec / 1e9 >= end) break;
    if (next_random() % 4 == 0) work_shared();
    else work_own();
  }
  for (unsigned i = 0; i < OWN_COUNT; i++)
    if (w.files[i].exists) remove_own(&w.files[i]);
}

static void remove_shared(void) {
  w.doing = "removal of what was shared";
  for (unsigned i = 0; i < SHARED_COUNT; i++) {
    if (w.has_snapshots) allow(rmdir(path_of("snapshots/shared-%u/s", i)), 1, "rmdir");
    allow(unlink(path_of("volumes/shared-%u", i)), 1, "unlink");
  }
}

int main(int count, char **arguments) {
  if (count != 5) {
    fprintf(stderr, "usage: file-crowd MOUNT SECONDS WORKERS SEED\n");
    return 2;
  }
  w.mount = arguments[1];
  unsigned workers = (unsigned)atoi(arguments[3]);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  double end = (double)now.tv_sec + (double)now.tv_nsec / 1e9 + atof(arguments[2]);
  struct stat status;
  w.has_snapshots = stat(path_of("snapshots"), &status) == 0;
  size_t shared_bytes = workers * sizeof *counts;
  void *all = mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return 2;
  counts = all;
  for (unsigned i = 0; i < workers; i++) {
    pid_t child = fork();
    if (child < 0) return 2;
    if (child > 0) continue;
    counts += i;
    work(i, strtoull(arguments[4], NULL, 10), end);
    _exit(0);
  }
  unsigned failed = 0;
  for (int result; wait(&result) > 0;)
    if (result != 0) failed++;
  uint64_t sums[COUNTERS] = {0};
  for (unsigned i = 0; i < workers; i++) {
    sums[0] += counts[i].own;
    sums[1] += counts[i].shared;
    sums[2] += counts[i].snapshots;
    sums[3] += counts[i].busy;
  }
  printf("{\"own\":%" PRIu64 ",\"shared\":%" PRIu64 ",\"snapshots\":%" PRIu64 ",\"busy\":%" PRIu64
         ",\"failed\":%u}\n",
         sums[0], sums[1], sums[2], sums[3], failed);
  remove_shared();
  return failed == 0 ? 0 : 1;
}
