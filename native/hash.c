/* Checksums over JavaScript memory; two little-endian words a hash, the low one first. */
#include "varve.h"
#include <string.h>

enum {
  BLOCK_BYTES = 4096,
  /* Hashed at once; more than are computed side by side. */
  BATCH_BLOCKS = 32,
};

struct request {
  const uint8_t *bytes;
  size_t count;
  uint32_t *words;
};

/*
 * Reads (memory, offsetBytes, count, words, wordIndex). `unit`: bytes one of `count` stands for;
 * `hash_count`: how many hashes the words must hold, 0 for one a unit. Throws when out of range.
 */
static int parse(
  napi_env env, napi_callback_info info, size_t unit, size_t hash_count, struct request *request) {
  napi_value args[5];
  if (!varve_args(env, info, 5, args)) return 0;
  size_t memory_length, words_length;
  uint8_t *memory = varve_bytes(env, args[0], &memory_length);
  uint8_t *words = varve_bytes(env, args[3], &words_length);
  double offset = varve_double(env, args[1]);
  double count = varve_double(env, args[2]);
  double index = varve_double(env, args[4]);
  double hashes = hash_count == 0 ? count : (double)hash_count;
  if (!(offset >= 0 && count >= 0 && index >= 0 &&
        offset + count * (double)unit <= (double)memory_length &&
        (index + hashes * 2) * 4 <= (double)words_length)) {
    napi_throw_range_error(env, NULL, "hashed bytes or their hashes lie outside the memory");
    return 0;
  }
  request->bytes = memory + (size_t)offset;
  request->count = (size_t)count;
  request->words = (uint32_t *)words + (size_t)index;
  return 1;
}

/* Hashes blocks from `first` on; returns how many. */
static size_t batch_of(const struct request *r, size_t first, uint64_t *hashes) {
  size_t count = r->count - first < BATCH_BLOCKS ? r->count - first : BATCH_BLOCKS;
  varve_xxh64_blocks(r->bytes + first * BLOCK_BYTES, BLOCK_BYTES, count, hashes);
  return count;
}

static napi_value hash_blocks(napi_env env, napi_callback_info info) {
  struct request r;
  if (!parse(env, info, BLOCK_BYTES, 0, &r)) return NULL;
  uint64_t hashes[BATCH_BLOCKS];
  for (size_t done = 0; done < r.count;) {
    size_t count = batch_of(&r, done, hashes);
    memcpy(r.words + 2 * done, hashes, count * sizeof *hashes);
    done += count;
  }
  return NULL;
}

static napi_value verify_blocks(napi_env env, napi_callback_info info) {
  struct request r;
  if (!parse(env, info, BLOCK_BYTES, 0, &r)) return NULL;
  uint64_t hashes[BATCH_BLOCKS];
  for (size_t done = 0; done < r.count;) {
    size_t count = batch_of(&r, done, hashes);
    for (size_t i = 0; i < count; i++) {
      uint64_t expected;
      memcpy(&expected, r.words + 2 * (done + i), sizeof expected);
      if (hashes[i] != expected) return varve_number(env, (double)(done + i));
    }
    done += count;
  }
  return varve_number(env, -1);
}

static napi_value hash_bytes(napi_env env, napi_callback_info info) {
  struct request r;
  if (!parse(env, info, 1, 1, &r)) return NULL;
  uint64_t hash = varve_xxh64(r.bytes, r.count);
  memcpy(r.words, &hash, sizeof hash);
  return NULL;
}

const struct varve_export varve_hash_exports[] = {
  {"hashBlocks", hash_blocks},
  {"verifyBlocks", verify_blocks},
  {"hashBytes", hash_bytes},
  {NULL, NULL},
};
