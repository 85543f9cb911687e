/* Checksums over JavaScript memory; two little-endian words a hash, the low one first. */
#include "varve.h"
#include <string.h>

enum {
  BLOCK_BYTES = 4096,
  /* Hashed at once: they are computed side by side, wherever each of them lies. */
  BATCH_BLOCKS = 32,
};

/* Blocks to be hashed: a run of them, and then those of further pieces. */
struct request {
  const uint8_t *memory;
  const uint8_t *next;
  size_t left;
  const uint32_t *pairs;
  size_t pieces_left;
  uint32_t *words;
};

static void out_of_range(napi_env env) {
  napi_throw_range_error(env, NULL, "hashed bytes or their hashes lie outside the memory");
}

/* Words for `hashes` from `index` on; NULL, and it throws, when they are not there. */
static uint32_t *words_of(napi_env env, napi_value array, napi_value index, double hashes) {
  size_t length;
  uint8_t *words = varve_bytes(env, array, &length);
  double first = varve_double(env, index);
  if (words != NULL && first >= 0 && (first + hashes * 2) * 4 <= (double)length) {
    return (uint32_t *)words + (size_t)first;
  }
  out_of_range(env);
  return NULL;
}

/* Reads (memory, offsetBytes, blockCount, words, wordIndex); throws when out of range. */
static int parse_run(napi_env env, napi_callback_info info, struct request *request) {
  napi_value args[5];
  if (!varve_args(env, info, 5, args)) return 0;
  size_t length;
  request->memory = varve_bytes(env, args[0], &length);
  double offset = varve_double(env, args[1]);
  double count = varve_double(env, args[2]);
  if (!varve_is_within(offset, count * BLOCK_BYTES, length)) {
    out_of_range(env);
    return 0;
  }
  request->next = request->memory + (size_t)offset;
  request->left = (size_t)count;
  request->pieces_left = 0;
  request->words = words_of(env, args[3], args[4], count);
  return request->words != NULL;
}

/* Reads (memory, pairs, firstPair, pairCount, words, wordIndex); throws when out of range. */
static int parse_pieces(napi_env env, napi_callback_info info, struct request *request) {
  napi_value args[6];
  if (!varve_args(env, info, 6, args)) return 0;
  size_t length, pairs_length;
  request->memory = varve_bytes(env, args[0], &length);
  const uint32_t *pairs = (const uint32_t *)varve_bytes(env, args[1], &pairs_length);
  uint32_t first = (uint32_t)varve_int(env, args[2]);
  uint32_t count = (uint32_t)varve_int(env, args[3]);
  int is_sound = pairs != NULL && ((uint64_t)first + count) * 8 <= pairs_length;
  request->left = 0;
  request->pairs = pairs + 2 * (size_t)first;
  request->pieces_left = count;
  uint64_t blocks = 0;
  for (uint32_t i = 0; is_sound && i < count; i++) {
    uint64_t offset = request->pairs[2 * (size_t)i];
    uint64_t bytes = request->pairs[2 * (size_t)i + 1];
    is_sound = offset + bytes <= length && bytes % BLOCK_BYTES == 0;
    blocks += bytes / BLOCK_BYTES;
  }
  if (!is_sound) {
    out_of_range(env);
    return 0;
  }
  request->words = words_of(env, args[4], args[5], (double)blocks);
  return request->words != NULL;
}

/* Hashes the next blocks; returns how many, 0 when there are no more. */
static size_t batch_of(struct request *r, uint64_t *hashes) {
  const uint8_t *blocks[BATCH_BLOCKS];
  size_t count = 0;
  while (count < BATCH_BLOCKS && (r->left > 0 || r->pieces_left > 0)) {
    if (r->left == 0) {
      r->next = r->memory + r->pairs[0];
      r->left = r->pairs[1] / BLOCK_BYTES;
      r->pairs += 2;
      r->pieces_left--;
      continue;
    }
    blocks[count++] = r->next;
    r->next += BLOCK_BYTES;
    r->left--;
  }
  varve_xxh64_blocks(blocks, BLOCK_BYTES, count, hashes);
  return count;
}

static void hash(struct request *r) {
  uint64_t hashes[BATCH_BLOCKS];
  size_t done = 0;
  for (size_t count; (count = batch_of(r, hashes)) > 0; done += count) {
    memcpy(r->words + 2 * done, hashes, count * sizeof *hashes);
  }
}

/* Index of the first block whose hash is another, or -1. */
static double verify(struct request *r) {
  uint64_t hashes[BATCH_BLOCKS];
  size_t done = 0;
  for (size_t count; (count = batch_of(r, hashes)) > 0; done += count) {
    for (size_t i = 0; i < count; i++) {
      uint64_t expected;
      memcpy(&expected, r->words + 2 * (done + i), sizeof expected);
      if (hashes[i] != expected) return (double)(done + i);
    }
  }
  return -1;
}

static napi_value hash_blocks(napi_env env, napi_callback_info info) {
  struct request r;
  if (parse_run(env, info, &r)) hash(&r);
  return NULL;
}

static napi_value verify_blocks(napi_env env, napi_callback_info info) {
  struct request r;
  return parse_run(env, info, &r) ? varve_number(env, verify(&r)) : NULL;
}

static napi_value hash_pieces(napi_env env, napi_callback_info info) {
  struct request r;
  if (parse_pieces(env, info, &r)) hash(&r);
  return NULL;
}

static napi_value verify_pieces(napi_env env, napi_callback_info info) {
  struct request r;
  return parse_pieces(env, info, &r) ? varve_number(env, verify(&r)) : NULL;
}

/* hashBytes(memory, offsetBytes, lengthBytes, words, wordIndex) */
static napi_value hash_bytes(napi_env env, napi_callback_info info) {
  napi_value args[5];
  if (!varve_args(env, info, 5, args)) return NULL;
  size_t size;
  const uint8_t *memory = varve_bytes(env, args[0], &size);
  double offset = varve_double(env, args[1]);
  double length = varve_double(env, args[2]);
  if (!varve_is_within(offset, length, size)) {
    out_of_range(env);
    return NULL;
  }
  uint32_t *words = words_of(env, args[3], args[4], 1);
  if (words == NULL) return NULL;
  uint64_t value = varve_xxh64(memory + (size_t)offset, (size_t)length);
  memcpy(words, &value, sizeof value);
  return NULL;
}

const struct varve_export varve_hash_exports[] = {
  {"hashBlocks", hash_blocks},
  {"verifyBlocks", verify_blocks},
  {"hashPieces", hash_pieces},
  {"verifyPieces", verify_pieces},
  {"hashBytes", hash_bytes},
  {NULL, NULL},
};
