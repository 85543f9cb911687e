/* A ring as JavaScript sees it: the io_uring, the shared arrays and the handles in Node's loop. */
#ifndef VARVE_RING_H
#define VARVE_RING_H

#include "uring.h"
#include "varve.h"
#include <sys/socket.h>
#include <sys/uio.h>
#include <uv.h>

/* Words of the header array, of an operation, and kinds of operation: as in src/io/ring.ts. */
enum {
  HEADER_QUEUED,
  HEADER_PAIRS,
  HEADER_HOOKS,
  HEADER_SCHEDULED,
  HEADER_WORDS
};
enum { OP_KIND, OP_FD, OP_SLOT, OP_ARENA_OFFSET, OP_LENGTH, OP_PAIR, OP_PAIR_COUNT, OP_WORDS = 8 };
enum {
  KIND_NOP = 1,
  KIND_READ,
  KIND_SYNC,
  KIND_RECEIVE,
  KIND_SEND,
  KIND_ACCEPT,
  KIND_CANCEL,
  KIND_AWAIT,
  KIND_PUT
};

struct ring {
  struct uring uring;
  napi_env env;
  napi_async_context context;
  napi_ref turn;
  napi_ref keep; /* the arena and the arrays, so that their memory stays */
  napi_async_cleanup_hook_handle cleanup;
  uv_poll_t poll;
  uv_idle_t idle; /* with `check`: a turn in this round of the loop, as setImmediate has it */
  uv_check_t check;
  uint8_t *arena;
  int32_t *header, *operations, *done;
  double *file_offsets;
  uint32_t *pairs;
  uint32_t operations_max, pairs_max, done_max, turns_max;
  uint32_t in_flight;
  int32_t spin_credit;
  uint32_t spins_skipped;
  struct iovec *vectors;
  struct msghdr *messages;
  int is_running, is_closing;
  int handles_open, owners;
};

/* Moves what JavaScript has queued into the submission queue, when that is empty. */
void ring_convert(struct ring *ring);
/* Submits what is queued. 0, or -errno of the call. */
int ring_submit(struct ring *ring);
/* One burst of turns: the loop of DESIGN.md section 6. */
void ring_run(struct ring *ring);
void ring_schedule(struct ring *ring);
/* Lets go of JavaScript's values and closes. */
void ring_close(struct ring *ring);
/* Closes the handles; the rest follows when the loop has let go of them. */
void ring_begin_close(struct ring *ring);

#endif
