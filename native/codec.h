/* Frames: encoding them, and decoding what may be damaged. No Node and no threads here. */
#ifndef VARVE_CODEC_H
#define VARVE_CODEC_H

#include <stddef.h>
#include <stdint.h>

/* As in src/base/codec.ts; 0 is raw and never comes here. */
enum { CODEC_LZ4 = 1, CODEC_ZSTD = 2 };
enum { CODEC_FRAME_BYTES_MAX = 65536 };

/* Memory that the libraries work in. One thread at a time. */
struct codec;

/* Null when memory is short. */
struct codec *codec_create(void);
void codec_free(struct codec *codec);

/*
 * 1 when `source` was one whole frame of exactly `raw_bytes`, which are now in `target`; else 0,
 * and `target` holds anything. Reads and writes nothing outside, whatever the bytes are.
 */
int codec_decode(struct codec *codec, int kind, const uint8_t *source, size_t source_bytes,
                 uint8_t *target, size_t raw_bytes);

struct codec_run {
  int kind;
  const uint8_t *source;
  size_t total_bytes, frame_bytes;
  uint8_t *target; /* room for total_bytes */
  uint32_t *lengths; /* one a frame */
};

/*
 * Encodes every frame of `run`, checks that it decodes to its source, else stores it as it is.
 * Bytes in `target`, or -ENOMEM; -ECANCELED when `*stop` was seen set between two frames.
 */
long codec_encode(struct codec *codec, const struct codec_run *run, const int *stop);

#endif
