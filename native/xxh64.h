/* What the two ways to compute XXH64 share. */
#ifndef VARVE_XXH64_H
#define VARVE_XXH64_H

#include <stddef.h>
#include <stdint.h>

#define XXH64_PRIME_1 0x9E3779B185EBCA87u
#define XXH64_PRIME_2 0xC2B2AE3D27D4EB4Fu

/* The hash of `length` bytes, all of them in whole stripes, whose four lanes are these. */
uint64_t varve_xxh64_end(const uint64_t lanes[4], size_t length);

#endif
