/*
 * XXH64 with seed 0, after the algorithm's published description (xxHash, "XXH64 algorithm
 * description"): four lanes take 32-byte stripes, are merged, and the rest is mixed in word by
 * word. Little-endian hosts only, as everything else here.
 */
#include "varve.h"
#include "xxh64.h"
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian host");

static const uint64_t PRIME_1 = XXH64_PRIME_1;
static const uint64_t PRIME_2 = XXH64_PRIME_2;
static const uint64_t PRIME_3 = 0x165667B19E3779F9u;
static const uint64_t PRIME_4 = 0x85EBCA77C2B2AE63u;
static const uint64_t PRIME_5 = 0x27D4EB2F165667C5u;

static inline uint64_t rotate(uint64_t value, int bits) {
  return value << bits | value >> (64 - bits);
}

static inline uint64_t load64(const uint8_t *at) {
  uint64_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static inline uint32_t load32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static inline uint64_t round_of(uint64_t lane, uint64_t input) {
  return rotate(lane + input * PRIME_2, 31) * PRIME_1;
}

static inline uint64_t merge(uint64_t hash, uint64_t lane) {
  return (hash ^ round_of(0, lane)) * PRIME_1 + PRIME_4;
}

static uint64_t merge_all(const uint64_t lanes[4]) {
  uint64_t hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) +
                  rotate(lanes[3], 18);
  for (int i = 0; i < 4; i++) hash = merge(hash, lanes[i]);
  return hash;
}

static uint64_t stripes(const uint8_t **at, const uint8_t *end) {
  const uint8_t *p = *at;
  uint64_t a = PRIME_1 + PRIME_2;
  uint64_t b = PRIME_2;
  uint64_t c = 0;
  uint64_t d = 0 - PRIME_1;
  for (; end - p >= 32; p += 32) {
    a = round_of(a, load64(p));
    b = round_of(b, load64(p + 8));
    c = round_of(c, load64(p + 16));
    d = round_of(d, load64(p + 24));
  }
  *at = p;
  const uint64_t lanes[4] = {a, b, c, d};
  return merge_all(lanes);
}

static uint64_t avalanche(uint64_t hash) {
  hash = (hash ^ hash >> 33) * PRIME_2;
  hash = (hash ^ hash >> 29) * PRIME_3;
  return hash ^ hash >> 32;
}

uint64_t varve_xxh64_end(const uint64_t lanes[4], size_t length) {
  return avalanche(merge_all(lanes) + length);
}

uint64_t varve_xxh64(const uint8_t *bytes, size_t length) {
  const uint8_t *p = bytes;
  const uint8_t *end = bytes + length;
  uint64_t hash = length >= 32 ? stripes(&p, end) : PRIME_5;
  hash += length;
  for (; end - p >= 8; p += 8) {
    hash = rotate(hash ^ round_of(0, load64(p)), 27) * PRIME_1 + PRIME_4;
  }
  if (end - p >= 4) {
    hash = rotate(hash ^ load32(p) * PRIME_1, 23) * PRIME_2 + PRIME_3;
    p += 4;
  }
  for (; p < end; p++) hash = rotate(hash ^ *p * PRIME_5, 11) * PRIME_1;
  return avalanche(hash);
}
