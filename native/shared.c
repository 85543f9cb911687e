/*
 * Memory that another process shares with us by a descriptor. Payload is copied in and out by
 * calls. Small parts that are shared word by word, rings, are shown to JavaScript in *windows*:
 * external ArrayBuffers. Not all of it: for each gigabyte in an ArrayBuffer V8 collects garbage
 * once, synchronously, and a guest has many.
 *
 * The other process may shrink its file at any time, whatever was checked before; touching what is
 * gone then raises SIGBUS. Seals would forbid it, but the virtual machine monitors in use set none.
 * So the signal is caught: zeros of our own are put in the place of the whole mapping, the access
 * is repeated by the processor and finds them, and the mapping is marked as broken for whoever
 * asks (libwayland does so for its clients' pools). Mappings are made, touched and asked about on
 * one thread.
 *
 * Only memory files (tmpfs, memfd, hugetlbfs) are mapped: a page fault on any other could wait for
 * a disk, or for a filesystem that the other process itself serves, and we would wait with it.
 */
#include "varve.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { MAPPINGS_MAX = 4096 };

struct mapping {
  uint8_t *base; /* what was mapped, whole pages; null once it is closed */
  size_t length;
  uint8_t *start; /* what was asked for */
  size_t size;
  int owners;   /* the value in JavaScript, and one a window, until Node has let go of them */
  int attached; /* windows through which JavaScript can see it */
  volatile sig_atomic_t is_broken;
};

/* Looked through by the signal handler. */
static struct mapping *volatile mappings[MAPPINGS_MAX];
static struct sigaction previous_action;
static int is_catching;

static void on_bus_error(int number, siginfo_t *info, void *context) {
  (void)context;
  int saved = errno;
  uint8_t *address = info->si_addr;
  for (int i = 0; i < MAPPINGS_MAX; i++) {
    struct mapping *m = mappings[i];
    if (m == NULL || address < m->base || address >= m->base + m->length) continue;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    if (mmap(m->base, m->length, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) break;
    m->is_broken = 1;
    errno = saved;
    return;
  }
  /* Not ours: the access is repeated and goes the way it would have gone. */
  sigaction(number, &previous_action, NULL);
  errno = saved;
}

static int catch_bus_errors(void) {
  if (is_catching) return 0;
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &previous_action) < 0) return -1;
  is_catching = 1;
  return 0;
}

static void unmap(struct mapping *m) {
  if (m->base == NULL) return;
  for (int i = 0; i < MAPPINGS_MAX; i++) {
    if (mappings[i] == m) mappings[i] = NULL;
  }
  munmap(m->base, m->length);
  m->base = NULL;
  m->size = 0;
}

static void release(struct mapping *m) {
  if (--m->owners > 0) return;
  unmap(m);
  free(m);
}

static void finalize(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  release(hint);
}

/* Alignment that mappings of the file need: a page, or a huge one; 0 and errno for other files. */
static size_t alignment_of(int fd, const struct stat *stat) {
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0) return 0;
  if (S_ISREG(stat->st_mode) && fs.f_type == TMPFS_MAGIC) return (size_t)sysconf(_SC_PAGESIZE);
  if (S_ISREG(stat->st_mode) && fs.f_type == HUGETLBFS_MAGIC) return (size_t)fs.f_bsize;
  errno = EMEDIUMTYPE;
  return 0;
}

static int free_place(void) {
  for (int i = 0; i < MAPPINGS_MAX; i++) {
    if (mappings[i] == NULL) return i;
  }
  errno = ENOMEM;
  return -1;
}

/* 0, or -1 and errno. `size` is not 0; `offset` is not negative. */
static int map_file(struct mapping *m, int fd, uint64_t offset, uint64_t size) {
  struct stat stat;
  if (fstat(fd, &stat) < 0) return -1;
  size_t align = alignment_of(fd, &stat);
  if (align == 0) return -1;
  /* In this order nothing overflows. */
  if (offset > (uint64_t)stat.st_size || size > (uint64_t)stat.st_size - offset) {
    errno = EOVERFLOW;
    return -1;
  }
  uint64_t lead = offset & (align - 1);
  m->length = (size_t)((lead + size + align - 1) & ~((uint64_t)align - 1));
  m->base = mmap(NULL, m->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                 (off_t)(offset - lead));
  if (m->base == MAP_FAILED) return -1;
  /* What the other process has is not copied into what we start. */
  madvise(m->base, m->length, MADV_DONTFORK);
  madvise(m->base, m->length, MADV_DONTDUMP);
  m->start = m->base + lead;
  m->size = (size_t)size;
  return 0;
}

/* sharedMap(fd, offsetBytes, sizeBytes) */
static napi_value shared_map(napi_env env, napi_callback_info info) {
  napi_value args[3], external;
  if (!varve_args(env, info, 3, args)) return NULL;
  double offset = varve_double(env, args[1]), size = varve_double(env, args[2]);
  if (!(offset >= 0 && offset < 9007199254740992.0 && size >= 1 && size < 9007199254740992.0)) {
    return varve_number(env, -EINVAL);
  }
  int place = free_place();
  if (place < 0 || catch_bus_errors() < 0) return varve_result(env, -1);
  struct mapping *m = calloc(1, sizeof *m);
  if (m == NULL) return varve_number(env, -ENOMEM);
  if (map_file(m, varve_int(env, args[0]), (uint64_t)offset, (uint64_t)size) < 0) {
    int saved = errno;
    free(m);
    return varve_number(env, -saved);
  }
  m->owners = 1;
  mappings[place] = m;
  if (napi_create_external(env, m, finalize, m, &external) != napi_ok) {
    release(m);
    return varve_throw(env, "this Node allows no external values");
  }
  return external;
}

static struct mapping *mapping_of(napi_env env, napi_value value) {
  void *data = NULL;
  if (napi_get_value_external(env, value, &data) != napi_ok) {
    napi_throw_type_error(env, NULL, "not a mapping");
    return NULL;
  }
  return data;
}

/* sharedWindow(mapping, offsetBytes, lengthBytes) */
static napi_value shared_window(napi_env env, napi_callback_info info) {
  napi_value args[3], window;
  if (!varve_args(env, info, 3, args)) return NULL;
  struct mapping *m = mapping_of(env, args[0]);
  if (m == NULL) return NULL;
  double offset = varve_double(env, args[1]), length = varve_double(env, args[2]);
  if (!(length >= 1 && varve_is_within(offset, length, m->size))) {
    napi_throw_range_error(env, NULL, "a window lies outside its mapping");
    return NULL;
  }
  m->owners++;
  m->attached++;
  if (napi_create_external_arraybuffer(env, m->start + (size_t)offset, (size_t)length, finalize, m,
                                       &window) != napi_ok) {
    m->attached--;
    release(m);
    return varve_throw(env, "this Node allows no external memory");
  }
  return window;
}

/* sharedDetach(mapping, window) */
static napi_value shared_detach(napi_env env, napi_callback_info info) {
  napi_value args[2];
  if (!varve_args(env, info, 2, args)) return NULL;
  struct mapping *m = mapping_of(env, args[0]);
  if (m == NULL) return NULL;
  if (napi_detach_arraybuffer(env, args[1]) != napi_ok) {
    napi_throw_type_error(env, NULL, "not a window");
    return NULL;
  }
  m->attached--;
  return NULL;
}

/* sharedUnmap(mapping): its windows have been detached. */
static napi_value shared_unmap(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct mapping *m = mapping_of(env, args[0]);
  if (m == NULL) return NULL;
  if (m->attached > 0) return varve_throw(env, "a mapping goes after its windows");
  unmap(m);
  return NULL;
}

static napi_value refuse_copy(napi_env env) {
  napi_throw_range_error(env, NULL, "copied bytes lie outside their memory");
  return NULL;
}

/* sharedRead(mapping, offset, target, targetOffset, length) */
static napi_value shared_read(napi_env env, napi_callback_info info) {
  napi_value args[5];
  size_t own_size;
  if (!varve_args(env, info, 5, args)) return NULL;
  struct mapping *m = mapping_of(env, args[0]);
  if (m == NULL) return NULL;
  uint8_t *own = varve_bytes(env, args[2], &own_size);
  double offset = varve_double(env, args[1]), own_offset = varve_double(env, args[3]);
  double length = varve_double(env, args[4]);
  if (own == NULL || !varve_is_within(offset, length, m->size) ||
      !varve_is_within(own_offset, length, own_size)) {
    return refuse_copy(env);
  }
  memcpy(own + (size_t)own_offset, m->start + (size_t)offset, (size_t)length);
  return NULL;
}

/* Three numbers of JavaScript's for each. */
struct piece {
  double offset, own_offset, length;
};

/* (mapping, pieces, count, memory): all of them are judged before one is copied. */
static napi_value copy_pieces(napi_env env, napi_callback_info info, int is_write) {
  napi_value args[4];
  size_t pieces_size, own_size;
  if (!varve_args(env, info, 4, args)) return NULL;
  struct mapping *m = mapping_of(env, args[0]);
  if (m == NULL) return NULL;
  const struct piece *pieces = (const struct piece *)varve_bytes(env, args[1], &pieces_size);
  uint8_t *own = varve_bytes(env, args[3], &own_size);
  uint32_t count = (uint32_t)varve_int(env, args[2]);
  if (pieces == NULL || own == NULL || count > pieces_size / sizeof *pieces) {
    return refuse_copy(env);
  }
  for (uint32_t i = 0; i < count; i++) {
    if (!varve_is_within(pieces[i].offset, pieces[i].length, m->size) ||
        !varve_is_within(pieces[i].own_offset, pieces[i].length, own_size)) {
      return refuse_copy(env);
    }
  }
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *theirs = m->start + (size_t)pieces[i].offset;
    uint8_t *ours = own + (size_t)pieces[i].own_offset;
    if (is_write) memcpy(theirs, ours, (size_t)pieces[i].length);
    else memcpy(ours, theirs, (size_t)pieces[i].length);
  }
  return NULL;
}

static napi_value shared_read_pieces(napi_env env, napi_callback_info info) {
  return copy_pieces(env, info, 0);
}

static napi_value shared_write_pieces(napi_env env, napi_callback_info info) {
  return copy_pieces(env, info, 1);
}

static napi_value shared_is_broken(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  if (!varve_args(env, info, 1, args)) return NULL;
  struct mapping *m = mapping_of(env, args[0]);
  if (m == NULL) return NULL;
  napi_get_boolean(env, m->is_broken != 0, &result);
  return result;
}

/* sharedCreate(sizeBytes): memory to share, that neither side can resize. */
static napi_value shared_create(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  int fd = memfd_create("varve", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return varve_result(env, -1);
  if (ftruncate(fd, (off_t)varve_double(env, args[0])) < 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
    int saved = errno;
    close(fd);
    return varve_number(env, -saved);
  }
  return varve_number(env, fd);
}

const struct varve_export varve_shared_exports[] = {
  {"sharedMap", shared_map},         {"sharedWindow", shared_window},
  {"sharedDetach", shared_detach},   {"sharedUnmap", shared_unmap},
  {"sharedRead", shared_read},       {"sharedReadPieces", shared_read_pieces},
  {"sharedWritePieces", shared_write_pieces},
  {"sharedIsBroken", shared_is_broken}, {"sharedCreate", shared_create},
  {NULL, NULL},
};
