/* File calls that node:fs does not have. */
#include "varve.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static napi_value close_fd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  return varve_result(env, close(varve_int(env, args[0])));
}

static napi_value lock_file(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return varve_result(env, fcntl(varve_int(env, args[0]), F_OFD_SETLK, &whole));
}

static napi_value seek_to(napi_env env, napi_callback_info info) {
  napi_value args[3];
  if (!varve_args(env, info, 3, args)) return NULL;
  off_t offset = (off_t)varve_double(env, args[1]);
  return varve_result(env, lseek(varve_int(env, args[0]), offset, varve_int(env, args[2])));
}

/* One fallocate on a thread of the pool. */
struct allocation {
  napi_async_work work;
  napi_deferred deferred;
  int fd;
  int mode;
  off_t offset;
  off_t length;
  int result;
};

static void allocation_run(napi_env env, void *data) {
  (void)env;
  struct allocation *a = data;
  a->result = fallocate(a->fd, a->mode, a->offset, a->length) < 0 ? -errno : 0;
}

static void allocation_done(napi_env env, napi_status status, void *data) {
  struct allocation *a = data;
  int result = status == napi_ok ? a->result : -ECANCELED;
  napi_resolve_deferred(env, a->deferred, varve_number(env, result));
  napi_delete_async_work(env, a->work);
  free(a);
}

static napi_value fallocate_async(napi_env env, napi_callback_info info) {
  napi_value args[4], promise, name;
  if (!varve_args(env, info, 4, args)) return NULL;
  struct allocation *a = calloc(1, sizeof *a);
  if (a == NULL) return varve_throw(env, "out of memory");
  a->fd = varve_int(env, args[0]);
  a->mode = varve_int(env, args[1]);
  a->offset = (off_t)varve_double(env, args[2]);
  a->length = (off_t)varve_double(env, args[3]);
  if (napi_create_promise(env, &a->deferred, &promise) != napi_ok ||
      napi_create_string_utf8(env, "varve:fallocate", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, allocation_run, allocation_done, a, &a->work) !=
        napi_ok ||
      napi_queue_async_work(env, a->work) != napi_ok) {
    free(a);
    return varve_throw(env, "cannot queue fallocate");
  }
  return promise;
}

const struct varve_export varve_file_exports[] = {
  {"closeFd", close_fd},
  {"lockFile", lock_file},
  {"seek", seek_to},
  {"fallocate", fallocate_async},
  {NULL, NULL},
};
