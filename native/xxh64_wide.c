/*
 * XXH64 of many blocks of one length at once. One block's lanes keep a processor waiting: every
 * stripe needs the one before it. Blocks do not need each other, so their lanes are put side by
 * side: two blocks in a register, four registers in turn. Wants AVX-512 with its multiplication of
 * 64-bit words; elsewhere blocks are taken one by one.
 */
#include "varve.h"
#include "xxh64.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { REGISTERS = 4, STRIPE_BYTES = 32 };

#define WIDE __attribute__((target("avx512f,avx512dq")))

/* The stripes at `one` and `other` in the halves of a register. */
WIDE static inline __m512i load_pair(const uint8_t *one, const uint8_t *other) {
  __m256i low = _mm256_loadu_si256((const __m256i *)one);
  __m256i high = _mm256_loadu_si256((const __m256i *)other);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* `pairs` of blocks, at most REGISTERS; inlined for each number, so that nothing is spilled. */
WIDE static inline __attribute__((always_inline)) void hash_pairs(
  const uint8_t *const *blocks, size_t block_bytes, int pairs, uint64_t *hashes) {
  const __m512i prime_1 = _mm512_set1_epi64((long long)XXH64_PRIME_1);
  const __m512i prime_2 = _mm512_set1_epi64((long long)XXH64_PRIME_2);
  const __m512i start = _mm512_set4_epi64(
    (long long)(0 - XXH64_PRIME_1), 0, (long long)XXH64_PRIME_2,
    (long long)(XXH64_PRIME_1 + XXH64_PRIME_2));
  __m512i lanes[REGISTERS];
  for (int i = 0; i < pairs; i++) lanes[i] = start;
  for (size_t at = 0; at < block_bytes; at += STRIPE_BYTES) {
    for (int i = 0; i < pairs; i++) {
      __m512i stripes = load_pair(blocks[2 * i] + at, blocks[2 * i + 1] + at);
      __m512i input = _mm512_mullo_epi64(stripes, prime_2);
      __m512i mixed = _mm512_rol_epi64(_mm512_add_epi64(lanes[i], input), 31);
      lanes[i] = _mm512_mullo_epi64(mixed, prime_1);
    }
  }
  for (int i = 0; i < pairs; i++) {
    uint64_t words[8];
    _mm512_storeu_si512(words, lanes[i]);
    hashes[2 * i] = varve_xxh64_end(words, block_bytes);
    hashes[2 * i + 1] = varve_xxh64_end(words + 4, block_bytes);
  }
}

WIDE static size_t hash_wide(
  const uint8_t *const *blocks, size_t block_bytes, size_t count, uint64_t *hashes) {
  size_t done = 0;
  for (; count - done >= 2 * REGISTERS; done += 2 * REGISTERS) {
    hash_pairs(blocks + done, block_bytes, REGISTERS, hashes + done);
  }
  for (; count - done >= 2; done += 2) {
    hash_pairs(blocks + done, block_bytes, 1, hashes + done);
  }
  return done;
}

static int is_wide(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
}
#else
static size_t hash_wide(
  const uint8_t *const *blocks, size_t block_bytes, size_t count, uint64_t *hashes) {
  (void)blocks, (void)block_bytes, (void)count, (void)hashes;
  return 0;
}

static int is_wide(void) {
  return 0;
}
#endif

void varve_xxh64_blocks(
  const uint8_t *const *blocks, size_t block_bytes, size_t count, uint64_t *hashes) {
  size_t done = is_wide() ? hash_wide(blocks, block_bytes, count, hashes) : 0;
  for (; done < count; done++) hashes[done] = varve_xxh64(blocks[done], block_bytes);
}
