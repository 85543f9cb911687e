/* Memory of the arena: one anonymous mapping, shown to JavaScript once as an external Buffer. */
#include "varve.h"
#include <sys/mman.h>

static void unmap(napi_env env, void *data, void *hint) {
  (void)env;
  munmap(data, (size_t)(uintptr_t)hint);
}

static napi_value arena_create(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  double size = varve_double(env, args[0]);
  if (!(size >= 4096 && size <= 4294967296.0)) return varve_throw(env, "arena size");
  size_t length = (size_t)size;
  void *memory =
    mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return varve_throw(env, "the system gives no memory for the arena");
  /* A fork would else make every page of it copy-on-write under the kernel's hands. */
  madvise(memory, length, MADV_DONTFORK);
  napi_value buffer;
  if (napi_create_external_buffer(env, length, memory, unmap, (void *)(uintptr_t)length, &buffer) !=
      napi_ok) {
    munmap(memory, length);
    return varve_throw(env, "this Node allows no external memory");
  }
  return buffer;
}

const struct varve_export varve_arena_exports[] = {{"arenaCreate", arena_create}, {NULL, NULL}};
