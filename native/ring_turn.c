/* The hot path: operations in, completions out, one burst of turns at a time. */
#include "ring.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#define SPIN_NS 50000
#define SPIN_CREDIT_MAX 8
#define SPIN_PROBE_PERIOD 32

/* The pieces of an operation; the kernel has read them by the time it is submitted. */
static struct iovec *vectors_of(struct ring *ring, const int32_t *op) {
  uint32_t first = (uint32_t)op[OP_PAIR];
  uint32_t count = (uint32_t)op[OP_PAIR_COUNT];
  for (uint32_t i = first; i < first + count; i++) {
    ring->vectors[i].iov_base = ring->arena + ring->pairs[2 * i];
    ring->vectors[i].iov_len = ring->pairs[2 * i + 1];
  }
  return &ring->vectors[first];
}

static void convert_vectored(struct ring *ring, uint8_t opcode, const int32_t *op,
                             struct io_uring_sqe *sqe) {
  sqe->opcode = opcode;
  sqe->addr = (uint64_t)(uintptr_t)vectors_of(ring, op);
  sqe->len = (uint32_t)op[OP_PAIR_COUNT];
}

static void convert_send(struct ring *ring, uint32_t index, const int32_t *op,
                         struct io_uring_sqe *sqe) {
  struct msghdr *message = &ring->messages[index];
  memset(message, 0, sizeof *message);
  message->msg_iov = vectors_of(ring, op);
  message->msg_iovlen = (uint32_t)op[OP_PAIR_COUNT];
  sqe->opcode = IORING_OP_SENDMSG;
  sqe->addr = (uint64_t)(uintptr_t)message;
  sqe->len = 1;
  /* The kernel goes on where it can after a short send. */
  sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

/* The halves of this word lie the other way round on a big-endian machine. */
static uint32_t poll_events(uint32_t events) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return events << 16 | events >> 16;
#else
  return events;
#endif
}

static void convert(struct ring *ring, uint32_t index, struct io_uring_sqe *sqe) {
  const int32_t *op = ring->operations + (size_t)index * OP_WORDS;
  sqe->fd = op[OP_FD];
  sqe->user_data = (uint32_t)op[OP_SLOT];
  uint64_t address = (uint64_t)(uintptr_t)(ring->arena + (uint32_t)op[OP_ARENA_OFFSET]);
  switch (op[OP_KIND]) {
    case KIND_READ:
      sqe->opcode = IORING_OP_READ;
      sqe->addr = address;
      sqe->len = (uint32_t)op[OP_LENGTH];
      sqe->off = (uint64_t)ring->file_offsets[index];
      break;
    case KIND_SYNC:
      sqe->opcode = IORING_OP_FSYNC;
      sqe->fsync_flags = IORING_FSYNC_DATASYNC;
      break;
    case KIND_RECEIVE:
      sqe->opcode = IORING_OP_RECV;
      sqe->addr = address;
      sqe->len = (uint32_t)op[OP_LENGTH];
      break;
    case KIND_SEND:
      convert_send(ring, index, op, sqe);
      break;
    case KIND_ACCEPT:
      sqe->opcode = IORING_OP_ACCEPT;
      sqe->accept_flags = SOCK_CLOEXEC;
      break;
    case KIND_CANCEL:
      sqe->opcode = IORING_OP_ASYNC_CANCEL;
      sqe->fd = -1;
      sqe->addr = (uint32_t)op[OP_LENGTH];
      break;
    case KIND_AWAIT:
      sqe->opcode = IORING_OP_POLL_ADD;
      sqe->poll32_events = poll_events(POLLIN);
      break;
    case KIND_PUT:
      convert_vectored(ring, IORING_OP_WRITEV, op, sqe);
      break;
    default:
      sqe->opcode = IORING_OP_NOP;
  }
}

void ring_convert(struct ring *ring) {
  /* Messages and vectors are in use until the kernel has taken every entry. */
  if (uring_unsubmitted(&ring->uring) > 0) return;
  uint32_t count = (uint32_t)ring->header[HEADER_QUEUED];
  for (uint32_t i = 0; i < count; i++) convert(ring, i, uring_next(&ring->uring));
  ring->header[HEADER_QUEUED] = 0;
  ring->header[HEADER_PAIRS] = 0;
}

int ring_submit(struct ring *ring) {
  ring_convert(ring);
  uint32_t before = uring_unsubmitted(&ring->uring);
  int result = uring_enter(&ring->uring);
  ring->in_flight += before - uring_unsubmitted(&ring->uring);
  return result < 0 ? result : 0;
}

/* Takes completions into the array of pairs (slot, result). */
static uint32_t reap(struct ring *ring) {
  struct uring *uring = &ring->uring;
  uint32_t count = uring_ready(uring);
  if (count > ring->done_max) count = ring->done_max;
  uint32_t head = *uring->cq_head;
  for (uint32_t i = 0; i < count; i++) {
    const struct io_uring_cqe *cqe = &uring->cqes[(head + i) & uring->cq_mask];
    ring->done[2 * i] = (int32_t)cqe->user_data;
    ring->done[2 * i + 1] = cqe->res;
  }
  __atomic_store_n(uring->cq_head, head + count, __ATOMIC_RELEASE);
  ring->in_flight -= count;
  return count;
}

/* Microtasks run before this returns, so what they queue is submitted in the same turn. */
static void call_turn(struct ring *ring, uint32_t count) {
  napi_env env = ring->env;
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value turn, receiver, argument, error;
  if (napi_get_reference_value(env, ring->turn, &turn) == napi_ok &&
      napi_get_global(env, &receiver) == napi_ok &&
      napi_create_uint32(env, count, &argument) == napi_ok &&
      napi_make_callback(env, ring->context, receiver, turn, 1, &argument, NULL) ==
        napi_pending_exception &&
      napi_get_and_clear_last_exception(env, &error) == napi_ok) {
    napi_fatal_exception(env, error);
  }
  napi_close_handle_scope(env, scope);
}

static int has_work(const struct ring *ring) {
  return uring_ready(&ring->uring) > 0 || uring_held_back(&ring->uring) ||
         uring_unsubmitted(&ring->uring) > 0 || ring->header[HEADER_QUEUED] > 0 ||
         ring->header[HEADER_HOOKS] > 0;
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Tells the processor that this is a wait. */
static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/*
 * Waits a moment for the next completion without giving the processor away: a client that sends
 * one request at a time answers sooner than a sleep and a wake-up take. Only while that keeps
 * being so: each vain wait costs credit, and without credit only one in many tries.
 */
static int spin(struct ring *ring) {
  if (ring->in_flight == 0) return 0;
  if (ring->spin_credit <= 0 && ++ring->spins_skipped < SPIN_PROBE_PERIOD) return 0;
  ring->spins_skipped = 0;
  uint64_t end = now_ns() + SPIN_NS;
  do {
    for (int i = 0; i < 64; i++) {
      if (uring_ready(&ring->uring) > 0 || uring_held_back(&ring->uring)) {
        if (ring->spin_credit < SPIN_CREDIT_MAX) ring->spin_credit += 2;
        return 1;
      }
      relax();
    }
  } while (now_ns() < end);
  if (ring->spin_credit > 0) ring->spin_credit--;
  return 0;
}

void ring_run(struct ring *ring) {
  ring->is_running = 1;
  ring->header[HEADER_SCHEDULED] = 1;
  uring_set_quiet(&ring->uring, 1);
  for (uint32_t turn = 0; turn < ring->turns_max && !ring->is_closing; turn++) {
    uint32_t count = reap(ring);
    if (count > 0 || ring->header[HEADER_HOOKS] > 0) {
      call_turn(ring, count);
      if (ring->is_closing) break;
    } else if (turn > 0 && !has_work(ring) && !spin(ring)) {
      break;
    }
    /* The kernel is out of memory or was interrupted: come back in the next round. */
    if (ring_submit(ring) < 0) break;
  }
  ring->is_running = 0;
  if (ring->is_closing) {
    ring_close(ring);
    return;
  }
  ring->header[HEADER_SCHEDULED] = 0;
  uring_set_quiet(&ring->uring, 0);
  if (has_work(ring)) ring_schedule(ring);
  if (ring->in_flight > 0) uv_ref((uv_handle_t *)&ring->poll);
  else uv_unref((uv_handle_t *)&ring->poll);
}
