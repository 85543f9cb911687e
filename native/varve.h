/*
 * The addon: thin C between Node and Linux. It knows no format, retries nothing, and answers a
 * failed call with a negative errno. `src/native/binding.ts` describes every function.
 */
#ifndef VARVE_H
#define VARVE_H

#define NAPI_VERSION 8
#include <node_api.h>
#include <stddef.h>
#include <stdint.h>

/* One function of the addon. */
struct varve_export {
  const char *name;
  napi_callback call;
};

/* Tables ended by a null name, one a file; module.c lists them. */
extern const struct varve_export varve_arena_exports[];
extern const struct varve_export varve_codec_exports[];
extern const struct varve_export varve_hash_exports[];
extern const struct varve_export varve_ring_exports[];
extern const struct varve_export varve_socket_exports[];
extern const struct varve_export varve_file_exports[];
extern const struct varve_export varve_mount_exports[];
extern const struct varve_export varve_shared_exports[];
extern const struct varve_export varve_descriptors_exports[];

/* Reads exactly `count` arguments; throws a TypeError and returns 0 when there are fewer. */
int varve_args(napi_env env, napi_callback_info info, size_t count, napi_value *args);

/* Argument readers: what is no number reads as 0. */
int32_t varve_int(napi_env env, napi_value value);
double varve_double(napi_env env, napi_value value);

/* Memory behind a Buffer or typed array and its length in bytes; null for anything else. */
uint8_t *varve_bytes(napi_env env, napi_value value, size_t *length);

/* Whether `length` bytes from `offset` on, numbers of JavaScript's, lie in memory of `size`. */
static inline int varve_is_within(double offset, double length, size_t size) {
  return offset >= 0 && length >= 0 && offset + length <= (double)size;
}

napi_value varve_number(napi_env env, double value);
napi_value varve_undefined(napi_env env);
/* `result` where it is not negative, else the negated errno. */
napi_value varve_result(napi_env env, long result);
napi_value varve_throw(napi_env env, const char *fact);

uint64_t varve_xxh64(const uint8_t *bytes, size_t length);
/* Of `count` blocks, each a multiple of 32 bytes. */
void varve_xxh64_blocks(
  const uint8_t *const *blocks, size_t block_bytes, size_t count, uint64_t *hashes);

#endif
