/* A ring's life: created with its arrays, woken by the loop, closed with or before its Node. */
#include "ring.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { COMPLETIONS_PER_ENTRY = 16 };

static void release(struct ring *ring) {
  if (--ring->owners > 0) return;
  free(ring->vectors);
  free(ring->messages);
  free(ring);
}

static void finalize(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release(data);
}

static void on_close(uv_handle_t *handle) {
  struct ring *ring = handle->data;
  if (--ring->handles_open > 0) return;
  uring_close(&ring->uring);
  napi_remove_async_cleanup_hook(ring->cleanup);
  release(ring);
}

void ring_begin_close(struct ring *ring) {
  uv_close((uv_handle_t *)&ring->poll, on_close);
  uv_close((uv_handle_t *)&ring->idle, on_close);
  uv_close((uv_handle_t *)&ring->check, on_close);
}

void ring_close(struct ring *ring) {
  napi_delete_reference(ring->env, ring->turn);
  napi_delete_reference(ring->env, ring->keep);
  napi_async_destroy(ring->env, ring->context);
  ring_begin_close(ring);
}

/* Node is going down with the ring open. */
static void on_cleanup(napi_async_cleanup_hook_handle handle, void *data) {
  (void)handle;
  struct ring *ring = data;
  if (ring->is_closing) return;
  ring->is_closing = 1;
  ring_begin_close(ring);
}

static void on_idle(uv_idle_t *handle) {
  (void)handle; /* An active idle handle keeps the loop from sleeping before `check` runs. */
}

static void on_check(uv_check_t *handle) {
  struct ring *ring = handle->data;
  uv_idle_stop(&ring->idle);
  uv_check_stop(&ring->check);
  ring_run(ring);
}

static void on_poll(uv_poll_t *handle, int status, int events) {
  (void)status;
  (void)events;
  struct ring *ring = handle->data;
  uint64_t count;
  /* Nothing to read means that an earlier round took these completions. */
  if (read(ring->uring.event_fd, &count, sizeof count) < 0 && errno != EAGAIN) return;
  ring_run(ring);
}

void ring_schedule(struct ring *ring) {
  ring->header[HEADER_SCHEDULED] = 1;
  uv_idle_start(&ring->idle, on_idle);
  uv_check_start(&ring->check, on_check);
}

static void *array_of(napi_env env, napi_value arrays, const char *name, size_t *bytes) {
  napi_value value;
  *bytes = 0;
  if (napi_get_named_property(env, arrays, name, &value) != napi_ok) return NULL;
  return varve_bytes(env, value, bytes);
}

/* Finds the shared arrays' memory and what fits in it. 0 when one is missing. */
static int take_arrays(struct ring *ring, napi_env env, napi_value arrays) {
  size_t header, operations, offsets, pairs, done;
  ring->header = array_of(env, arrays, "header", &header);
  ring->operations = array_of(env, arrays, "operations", &operations);
  ring->file_offsets = array_of(env, arrays, "fileOffsets", &offsets);
  ring->pairs = array_of(env, arrays, "pairs", &pairs);
  ring->done = array_of(env, arrays, "done", &done);
  ring->operations_max = (uint32_t)(offsets / sizeof(double));
  ring->pairs_max = (uint32_t)(pairs / (2 * sizeof(uint32_t)));
  ring->done_max = (uint32_t)(done / (2 * sizeof(int32_t)));
  ring->vectors = calloc(ring->pairs_max, sizeof *ring->vectors);
  ring->messages = calloc(ring->operations_max, sizeof *ring->messages);
  return header == HEADER_WORDS * sizeof(int32_t) && ring->operations_max > 0 &&
         operations == (size_t)ring->operations_max * OP_WORDS * sizeof(int32_t) &&
         ring->pairs_max > 0 && ring->done_max > 0 && ring->vectors != NULL &&
         ring->messages != NULL;
}

static int start_handles(struct ring *ring, uv_loop_t *loop) {
  ring->poll.data = ring->idle.data = ring->check.data = ring;
  uv_idle_init(loop, &ring->idle);
  uv_check_init(loop, &ring->check);
  int result = uv_poll_init(loop, &ring->poll, ring->uring.event_fd);
  if (result == 0) result = uv_poll_start(&ring->poll, UV_READABLE, on_poll);
  uv_unref((uv_handle_t *)&ring->poll);
  return result;
}

/* ringCreate(arena, arrays, turn, burstTurnsMax) */
static napi_value ring_create(napi_env env, napi_callback_info info) {
  napi_value args[4], keep, name, external;
  if (!varve_args(env, info, 4, args)) return NULL;
  struct ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL) return varve_number(env, -ENOMEM);
  size_t arena_size;
  uv_loop_t *loop;
  ring->env = env;
  ring->owners = 1;
  ring->handles_open = 3;
  ring->arena = varve_bytes(env, args[0], &arena_size);
  ring->turns_max = (uint32_t)varve_int(env, args[3]);
  int result = ring->arena != NULL && take_arrays(ring, env, args[1]) ? 0 : -EINVAL;
  if (result == 0) {
    uint32_t completions = ring->operations_max * COMPLETIONS_PER_ENTRY;
    result = uring_open(&ring->uring, ring->operations_max, completions);
  }
  if (result < 0) {
    release(ring);
    return varve_number(env, result);
  }
  if (napi_get_uv_event_loop(env, &loop) != napi_ok || start_handles(ring, loop) != 0 ||
      napi_create_string_utf8(env, "varve:ring", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_async_init(env, NULL, name, &ring->context) != napi_ok ||
      napi_create_reference(env, args[2], 1, &ring->turn) != napi_ok ||
      napi_create_array_with_length(env, 2, &keep) != napi_ok ||
      napi_set_element(env, keep, 0, args[0]) != napi_ok ||
      napi_set_element(env, keep, 1, args[1]) != napi_ok ||
      napi_create_reference(env, keep, 1, &ring->keep) != napi_ok ||
      napi_add_async_cleanup_hook(env, on_cleanup, ring, &ring->cleanup) != napi_ok ||
      napi_create_external(env, ring, finalize, NULL, &external) != napi_ok) {
    napi_fatal_error("ringCreate", NAPI_AUTO_LENGTH, "Node refused a handle", NAPI_AUTO_LENGTH);
  }
  ring->owners = 2; /* the loop's handles, and the value in JavaScript */
  return external;
}

/* The ring of argument 0; throws when there is none or it is closed. */
static struct ring *ring_of(napi_env env, napi_value value) {
  void *ring = NULL;
  if (napi_get_value_external(env, value, &ring) != napi_ok || ((struct ring *)ring)->is_closing) {
    napi_throw_type_error(env, NULL, "not an open ring");
    return NULL;
  }
  return ring;
}

static napi_value ring_schedule_call(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct ring *ring = ring_of(env, args[0]);
  if (ring != NULL) ring_schedule(ring);
  return NULL;
}

static napi_value ring_submit_call(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct ring *ring = ring_of(env, args[0]);
  if (ring == NULL) return NULL;
  int result = ring_submit(ring);
  return varve_number(env, result < 0 ? result : ring->header[HEADER_QUEUED]);
}

static napi_value ring_close_call(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct ring *ring = ring_of(env, args[0]);
  if (ring == NULL) return NULL;
  ring->is_closing = 1;
  /* Within a burst it is closed at its end. */
  if (!ring->is_running) ring_close(ring);
  return NULL;
}

/* ringWrite(ring, fd, offsetBytes, pairs, pairIndex, pairCount, skipBytes) */
static napi_value ring_write(napi_env env, napi_callback_info info) {
  enum { PIECES_MAX = 1024 }; /* IOV_MAX */
  napi_value args[7];
  if (!varve_args(env, info, 7, args)) return NULL;
  struct ring *ring = ring_of(env, args[0]);
  if (ring == NULL) return NULL;
  size_t bytes;
  uint32_t *pairs = (uint32_t *)varve_bytes(env, args[3], &bytes);
  uint32_t first = (uint32_t)varve_int(env, args[4]);
  uint32_t count = (uint32_t)varve_int(env, args[5]);
  uint32_t skip = (uint32_t)varve_int(env, args[6]);
  if (pairs == NULL || ((size_t)first + count) * 8 > bytes) return varve_number(env, -EINVAL);
  if (count > PIECES_MAX) count = PIECES_MAX;
  struct iovec vectors[PIECES_MAX];
  for (uint32_t i = 0; i < count; i++) {
    vectors[i].iov_base = ring->arena + pairs[2 * (first + i)];
    vectors[i].iov_len = pairs[2 * (first + i) + 1];
  }
  if (count > 0 && skip > 0) {
    vectors[0].iov_base = (uint8_t *)vectors[0].iov_base + skip;
    vectors[0].iov_len -= skip;
  }
  off_t offset = (off_t)varve_double(env, args[2]);
  return varve_result(env, pwritev(varve_int(env, args[1]), vectors, (int)count, offset));
}

/*
 * ringTake(ring, fd, pairs, count, results): one readv into each two pieces of `pairs`, until one
 * fails. Returns how many succeeded; results[i] is the bytes of each, then the negative errno.
 */
static napi_value ring_take(napi_env env, napi_callback_info info) {
  napi_value args[5];
  if (!varve_args(env, info, 5, args)) return NULL;
  struct ring *ring = ring_of(env, args[0]);
  if (ring == NULL) return NULL;
  size_t pairs_bytes, results_bytes;
  uint32_t *pairs = (uint32_t *)varve_bytes(env, args[2], &pairs_bytes);
  int32_t *results = (int32_t *)varve_bytes(env, args[4], &results_bytes);
  int fd = varve_int(env, args[1]);
  uint32_t count = (uint32_t)varve_int(env, args[3]);
  if (pairs == NULL || (size_t)count * 16 > pairs_bytes || results == NULL ||
      (size_t)count * 4 > results_bytes) {
    return varve_number(env, -EINVAL);
  }
  uint32_t taken = 0;
  while (taken < count) {
    const uint32_t *pair = pairs + 4 * (size_t)taken;
    struct iovec pieces[2] = {
      {.iov_base = ring->arena + pair[0], .iov_len = pair[1]},
      {.iov_base = ring->arena + pair[2], .iov_len = pair[3]},
    };
    ssize_t result = readv(fd, pieces, 2);
    results[taken] = result < 0 ? -errno : (int32_t)result;
    if (result < 0) break;
    taken++;
  }
  return varve_number(env, taken);
}

const struct varve_export varve_ring_exports[] = {
  {"ringCreate", ring_create},
  {"ringSchedule", ring_schedule_call},
  {"ringSubmit", ring_submit_call},
  {"ringClose", ring_close_call},
  {"ringWrite", ring_write},
  {"ringTake", ring_take},
  {NULL, NULL},
};
