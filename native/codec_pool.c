/*
 * Frames for JavaScript: decoding at once, encoding at once or on threads of our own. Those run at
 * a low priority, so that a guest's request comes before a compressor; libuv's threads could not
 * be told so. Not at the lowest: a host that is always busy would never get its disks settled.
 * Each environment of Node has its own, made when first needed.
 */
#include "codec.h"
#include "varve.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { THREAD_COUNT = 2, THREAD_NICE = 10 };

struct job {
  struct job *next;
  struct codec_run run;
  napi_ref keep; /* source, target and lengths, so that their memory stays */
  napi_deferred deferred;
  long result;
};

struct pool {
  struct codec *codec; /* of the environment's own thread */
  napi_threadsafe_function done;
  pthread_t threads[THREAD_COUNT];
  int thread_count;
  uint32_t pending; /* jobs not answered; while there are any, the process stays */
  pthread_mutex_t lock;
  pthread_cond_t wake;
  /* Under the lock. */
  struct job *first, *last;
  int stop;
  int gentle; /* atomic: read between two jobs */
};

static struct job *next_job(struct pool *pool) {
  pthread_mutex_lock(&pool->lock);
  while (pool->first == NULL && !pool->stop) pthread_cond_wait(&pool->wake, &pool->lock);
  struct job *job = pool->stop ? NULL : pool->first;
  if (job != NULL) pool->first = job->next;
  pthread_mutex_unlock(&pool->lock);
  return job;
}

/*
 * An idle thread gives way at once to whoever wakes, where a nice one first uses up its slice: two
 * or three milliseconds that a guest would wait.
 */
static void be_gentle(int gentle) {
  struct sched_param none = {0};
  sched_setscheduler(0, gentle ? SCHED_IDLE : SCHED_OTHER, &none);
}

static void *work(void *data) {
  struct pool *pool = data;
  /* On Linux a priority is a thread's; one that may not be lowered further is low enough. */
  setpriority(PRIO_PROCESS, (id_t)gettid(), THREAD_NICE);
  struct codec *codec = codec_create();
  int gentle = 0;
  for (struct job *job; (job = next_job(pool)) != NULL;) {
    int wanted = __atomic_load_n(&pool->gentle, __ATOMIC_RELAXED);
    if (wanted != gentle) be_gentle(gentle = wanted);
    job->result = codec == NULL ? -ENOMEM : codec_encode(codec, &job->run, &pool->stop);
    if (napi_call_threadsafe_function(pool->done, job, napi_tsfn_nonblocking) != napi_ok) free(job);
  }
  codec_free(codec);
  return NULL;
}

/* On the environment's thread, for each job done. No environment: it is going down. */
static void on_done(napi_env env, napi_value callback, void *context, void *data) {
  (void)callback;
  struct pool *pool = context;
  struct job *job = data;
  if (env != NULL) {
    napi_delete_reference(env, job->keep);
    napi_resolve_deferred(env, job->deferred, varve_number(env, (double)job->result));
    if (--pool->pending == 0) napi_unref_threadsafe_function(env, pool->done);
  }
  free(job);
}

/* Before Node lets go of the memory that the threads work in. */
static void on_cleanup(void *data) {
  struct pool *pool = data;
  pthread_mutex_lock(&pool->lock);
  __atomic_store_n(&pool->stop, 1, __ATOMIC_RELAXED);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < pool->thread_count; i++) pthread_join(pool->threads[i], NULL);
  while (pool->first != NULL) {
    struct job *job = pool->first;
    pool->first = job->next;
    free(job);
  }
  napi_release_threadsafe_function(pool->done, napi_tsfn_abort);
}

static void finalize(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  struct pool *pool = data;
  codec_free(pool->codec);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

/* The environment's pool; throws and returns null when there is no memory for one. */
static struct pool *pool_of(napi_env env) {
  void *data = NULL;
  if (napi_get_instance_data(env, &data) != napi_ok) return NULL;
  if (data != NULL) return data;
  struct pool *pool = calloc(1, sizeof *pool);
  struct codec *codec = codec_create();
  if (pool == NULL || codec == NULL ||
      napi_set_instance_data(env, pool, finalize, NULL) != napi_ok) {
    codec_free(codec);
    free(pool);
    varve_throw(env, "out of memory");
    return NULL;
  }
  pool->codec = codec;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  return pool;
}

/* 0, or the negative errno for which there is no thread. */
static int start_threads(napi_env env, struct pool *pool) {
  if (pool->thread_count > 0) return 0;
  if (pool->done == NULL) {
    napi_value name;
    if (napi_create_string_utf8(env, "varve:codec", NAPI_AUTO_LENGTH, &name) != napi_ok ||
        napi_create_threadsafe_function(env, NULL, NULL, name, 0, 1, NULL, NULL, pool, on_done,
                                        &pool->done) != napi_ok) {
      return -ENOMEM;
    }
    napi_unref_threadsafe_function(env, pool->done);
    /* After the function, so that it runs before the function is closed. */
    napi_add_env_cleanup_hook(env, on_cleanup, pool);
  }
  /* Signals are for Node's own thread. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int result = 0;
  while (pool->thread_count < THREAD_COUNT && result == 0) {
    result = pthread_create(&pool->threads[pool->thread_count], NULL, work, pool);
    if (result == 0) pool->thread_count++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return pool->thread_count > 0 ? 0 : -result;
}

static int is_whole(double value, double most) {
  return value >= 0 && value <= most && value == (double)(size_t)value;
}

/* `bytes` at the offset of a memory; null when they are not all in it. */
static uint8_t *range_of(napi_env env, napi_value memory, napi_value offset, double bytes) {
  size_t length;
  uint8_t *base = varve_bytes(env, memory, &length);
  double first = varve_double(env, offset);
  if (base == NULL || !is_whole(bytes, (double)length)) return NULL;
  return is_whole(first, (double)length - bytes) ? base + (size_t)first : NULL;
}

static int overlap(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

static int is_kind(int32_t kind) { return kind == CODEC_LZ4 || kind == CODEC_ZSTD; }

static napi_value refuse(napi_env env) {
  napi_throw_range_error(env, NULL, "a frame's codec, size or place is out of range");
  return NULL;
}

/* codecDecode(codec, source, sourceOffset, sourceBytes, target, targetOffset, rawBytes) */
static napi_value decode(napi_env env, napi_callback_info info) {
  napi_value args[7], result = NULL;
  if (!varve_args(env, info, 7, args)) return NULL;
  int32_t kind = varve_int(env, args[0]);
  double source_bytes = varve_double(env, args[3]);
  double raw_bytes = varve_double(env, args[6]);
  const uint8_t *source = range_of(env, args[1], args[2], source_bytes);
  uint8_t *target = range_of(env, args[4], args[5], raw_bytes);
  if (!is_kind(kind) || source == NULL || target == NULL ||
      source_bytes > CODEC_FRAME_BYTES_MAX || raw_bytes > CODEC_FRAME_BYTES_MAX ||
      overlap(source, (size_t)source_bytes, target, (size_t)raw_bytes)) {
    return refuse(env);
  }
  struct pool *pool = pool_of(env);
  if (pool == NULL) return NULL;
  int is_whole_frame = codec_decode(pool->codec, kind, source, (size_t)source_bytes, target,
                                    (size_t)raw_bytes);
  napi_get_boolean(env, is_whole_frame, &result);
  return result;
}

/* (codec, source, sourceOffset, totalBytes, frameBytes, target, targetOffset, lengths) */
static int parse_run(napi_env env, const napi_value *args, struct codec_run *run) {
  size_t lengths_bytes;
  double total = varve_double(env, args[3]);
  double frame = varve_double(env, args[4]);
  run->kind = varve_int(env, args[0]);
  run->source = range_of(env, args[1], args[2], total);
  run->target = range_of(env, args[5], args[6], total);
  run->lengths = (uint32_t *)varve_bytes(env, args[7], &lengths_bytes);
  if (!is_kind(run->kind) || run->source == NULL || run->target == NULL ||
      !is_whole(frame, CODEC_FRAME_BYTES_MAX) || frame == 0 ||
      (uintptr_t)run->lengths % sizeof *run->lengths != 0) {
    return 0;
  }
  run->total_bytes = (size_t)total;
  run->frame_bytes = (size_t)frame;
  size_t frame_count = (run->total_bytes + run->frame_bytes - 1) / run->frame_bytes;
  return frame_count <= lengths_bytes / sizeof *run->lengths &&
         !overlap(run->source, run->total_bytes, run->target, run->total_bytes);
}

/* codecEncodeInline: as parse_run has it. */
static napi_value encode_inline(napi_env env, napi_callback_info info) {
  static const int never = 0;
  napi_value args[8];
  struct codec_run run;
  if (!varve_args(env, info, 8, args)) return NULL;
  if (!parse_run(env, args, &run)) return refuse(env);
  struct pool *pool = pool_of(env);
  return pool == NULL ? NULL : varve_number(env, (double)codec_encode(pool->codec, &run, &never));
}

static int keep_arrays(napi_env env, const napi_value *args, napi_ref *keep) {
  napi_value array;
  return napi_create_array_with_length(env, 3, &array) == napi_ok &&
         napi_set_element(env, array, 0, args[1]) == napi_ok &&
         napi_set_element(env, array, 1, args[5]) == napi_ok &&
         napi_set_element(env, array, 2, args[7]) == napi_ok &&
         napi_create_reference(env, array, 1, keep) == napi_ok;
}

static void enqueue(napi_env env, struct pool *pool, struct job *job) {
  if (pool->pending++ == 0) napi_ref_threadsafe_function(env, pool->done);
  pthread_mutex_lock(&pool->lock);
  if (pool->first == NULL) pool->first = job;
  else pool->last->next = job;
  pool->last = job;
  pthread_cond_signal(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

/* codecEncode: as parse_run has it; a promise of what codec_encode answers. */
static napi_value encode(napi_env env, napi_callback_info info) {
  napi_value args[8], promise = NULL;
  struct codec_run run;
  if (!varve_args(env, info, 8, args)) return NULL;
  if (!parse_run(env, args, &run)) return refuse(env);
  struct pool *pool = pool_of(env);
  if (pool == NULL) return NULL;
  struct job *job = calloc(1, sizeof *job);
  if (job == NULL || !keep_arrays(env, args, &job->keep)) {
    free(job);
    return varve_throw(env, "out of memory");
  }
  if (napi_create_promise(env, &job->deferred, &promise) != napi_ok) {
    napi_delete_reference(env, job->keep);
    free(job);
    return varve_throw(env, "Node refused a promise");
  }
  job->run = run;
  int result = start_threads(env, pool);
  if (result == 0) {
    enqueue(env, pool, job);
    return promise;
  }
  napi_delete_reference(env, job->keep);
  napi_resolve_deferred(env, job->deferred, varve_number(env, result));
  free(job);
  return promise;
}

/* codecGentle(isGentle) */
static napi_value set_gentle(napi_env env, napi_callback_info info) {
  napi_value args[1];
  bool gentle;
  if (!varve_args(env, info, 1, args)) return NULL;
  struct pool *pool = pool_of(env);
  if (pool == NULL || napi_get_value_bool(env, args[0], &gentle) != napi_ok) return NULL;
  __atomic_store_n(&pool->gentle, gentle, __ATOMIC_RELAXED);
  return NULL;
}

const struct varve_export varve_codec_exports[] = {
  {"codecDecode", decode},
  {"codecEncode", encode},
  {"codecEncodeInline", encode_inline},
  {"codecGentle", set_gentle},
  {NULL, NULL},
};
