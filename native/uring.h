/* The raw io_uring: its mappings, and the three calls on it. No Node here. */
#ifndef VARVE_URING_H
#define VARVE_URING_H

#include <linux/io_uring.h>
#include <stdint.h>

struct uring {
  int fd;
  int event_fd;
  /* The submission queue; `local_tail` runs ahead of the shared tail until `uring_enter`. */
  uint32_t *sq_head, *sq_tail, *sq_flags;
  uint32_t sq_mask, sq_entries, local_tail;
  struct io_uring_sqe *sqes;
  /* The completion queue. */
  uint32_t *cq_head, *cq_tail, *cq_flags;
  uint32_t cq_mask;
  struct io_uring_cqe *cqes;
  /* Mappings, for closing. */
  void *rings;
  unsigned long rings_size, sqes_size;
};

/* 0, or -errno; -ENOSYS when the kernel's io_uring lacks what we need. */
int uring_open(struct uring *uring, uint32_t entries, uint32_t completion_entries);
void uring_close(struct uring *uring);

/* The next free entry, zeroed; null when the queue is full. */
struct io_uring_sqe *uring_next(struct uring *uring);
/* Entries written that the kernel has not taken. */
uint32_t uring_unsubmitted(const struct uring *uring);
/* Submits what was written; waits for nothing. Entries taken, or -errno. */
int uring_enter(struct uring *uring);

/* Completions that can be taken now. */
uint32_t uring_ready(const struct uring *uring);
/* Whether the kernel holds completions back until it is entered. */
int uring_held_back(const struct uring *uring);
/* While quiet, completions do not signal `event_fd`. */
void uring_set_quiet(struct uring *uring, int quiet);

#endif
