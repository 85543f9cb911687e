#include "uring.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Single mapping, completions never dropped, arguments read at submission, sockets polled inside
 * the kernel, workers that are threads of ours: all of Linux 5.12.
 */
static const uint32_t FEATURES_NEEDED = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP |
                                        IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL |
                                        IORING_FEAT_NATIVE_WORKERS;

static int setup(uint32_t entries, uint32_t completion_entries, struct io_uring_params *params) {
  uint32_t base = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  uint32_t recent =
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  uint32_t wanted[] = {base | recent, base};
  int fd = -1;
  for (int i = 0; i < 2 && fd < 0; i++) {
    memset(params, 0, sizeof *params);
    params->flags = wanted[i];
    params->cq_entries = completion_entries;
    fd = (int)syscall(SYS_io_uring_setup, entries, params);
    /* Older kernels know fewer flags, and say so with EINVAL. */
    if (fd < 0 && errno != EINVAL) break;
  }
  return fd < 0 ? -errno : fd;
}

static int map(struct uring *uring, const struct io_uring_params *params) {
  unsigned long sq_size = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
  unsigned long cq_size = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
  int protection = PROT_READ | PROT_WRITE;
  int flags = MAP_SHARED | MAP_POPULATE;
  uring->rings_size = sq_size > cq_size ? sq_size : cq_size;
  uring->sqes_size = params->sq_entries * sizeof(struct io_uring_sqe);
  uring->rings = mmap(NULL, uring->rings_size, protection, flags, uring->fd, IORING_OFF_SQ_RING);
  uring->sqes = mmap(NULL, uring->sqes_size, protection, flags, uring->fd, IORING_OFF_SQES);
  if (uring->rings == MAP_FAILED || uring->sqes == MAP_FAILED) return -errno;
  uint8_t *base = uring->rings;
  uring->sq_head = (uint32_t *)(base + params->sq_off.head);
  uring->sq_tail = (uint32_t *)(base + params->sq_off.tail);
  uring->sq_flags = (uint32_t *)(base + params->sq_off.flags);
  uring->sq_mask = *(uint32_t *)(base + params->sq_off.ring_mask);
  uring->sq_entries = params->sq_entries;
  uring->cq_head = (uint32_t *)(base + params->cq_off.head);
  uring->cq_tail = (uint32_t *)(base + params->cq_off.tail);
  uring->cq_flags = (uint32_t *)(base + params->cq_off.flags);
  uring->cq_mask = *(uint32_t *)(base + params->cq_off.ring_mask);
  uring->cqes = (struct io_uring_cqe *)(base + params->cq_off.cqes);
  /* Entries are used in order, so the indirection is set once. */
  uint32_t *array = (uint32_t *)(base + params->sq_off.array);
  for (uint32_t i = 0; i < params->sq_entries; i++) array[i] = i;
  uring->local_tail = *uring->sq_tail;
  return 0;
}

int uring_open(struct uring *uring, uint32_t entries, uint32_t completion_entries) {
  struct io_uring_params params;
  memset(uring, 0, sizeof *uring);
  uring->event_fd = -1;
  uring->rings = uring->sqes = MAP_FAILED;
  uring->fd = setup(entries, completion_entries, &params);
  if (uring->fd < 0) return uring->fd;
  int result = -ENOSYS;
  if ((params.features & FEATURES_NEEDED) == FEATURES_NEEDED) {
    result = map(uring, &params);
    if (result == 0) {
      uring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      if (uring->event_fd < 0 || syscall(SYS_io_uring_register, uring->fd, IORING_REGISTER_EVENTFD,
                                         &uring->event_fd, 1) < 0) {
        result = -errno;
      }
    }
  }
  if (result < 0) uring_close(uring);
  return result;
}

void uring_close(struct uring *uring) {
  if (uring->rings != MAP_FAILED) munmap(uring->rings, uring->rings_size);
  if (uring->sqes != MAP_FAILED) munmap(uring->sqes, uring->sqes_size);
  if (uring->event_fd >= 0) close(uring->event_fd);
  close(uring->fd);
}

struct io_uring_sqe *uring_next(struct uring *uring) {
  uint32_t head = __atomic_load_n(uring->sq_head, __ATOMIC_ACQUIRE);
  if (uring->local_tail - head == uring->sq_entries) return NULL;
  struct io_uring_sqe *sqe = &uring->sqes[uring->local_tail & uring->sq_mask];
  memset(sqe, 0, sizeof *sqe);
  uring->local_tail++;
  return sqe;
}

uint32_t uring_unsubmitted(const struct uring *uring) {
  return uring->local_tail - __atomic_load_n(uring->sq_head, __ATOMIC_ACQUIRE);
}

int uring_enter(struct uring *uring) {
  __atomic_store_n(uring->sq_tail, uring->local_tail, __ATOMIC_RELEASE);
  uint32_t count = uring_unsubmitted(uring);
  uint32_t flags = uring_held_back(uring) ? IORING_ENTER_GETEVENTS : 0;
  if (count == 0 && flags == 0) return 0;
  long result = syscall(SYS_io_uring_enter, uring->fd, count, 0, flags, NULL, 0);
  return result < 0 ? -errno : (int)result;
}

uint32_t uring_ready(const struct uring *uring) {
  return __atomic_load_n(uring->cq_tail, __ATOMIC_ACQUIRE) - *uring->cq_head;
}

int uring_held_back(const struct uring *uring) {
  uint32_t held_back = IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN;
  return (__atomic_load_n(uring->sq_flags, __ATOMIC_RELAXED) & held_back) != 0;
}

void uring_set_quiet(struct uring *uring, int quiet) {
  __atomic_store_n(uring->cq_flags, quiet ? IORING_CQ_EVENTFD_DISABLED : 0, __ATOMIC_RELAXED);
  /* Before the caller looks for completions: one that was posted quietly must be seen then. */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
