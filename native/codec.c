/* LZ4 blocks and zstd frames by the system's libraries. */
#include "codec.h"
#include <errno.h>
#include <lz4.h>
#include <lz4hc.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

/* Measured: docs/decisions/2026-11-25-frame-codecs.md. The format does not know them. */
enum { LZ4_LEVEL = 6, ZSTD_LEVEL = 9 };
/* Encoding must save a sixteenth, or the frame is stored as it is. */
enum { SAVED_DIVISOR = 16 };
/* Checksum flag, reserved bit and dictionary id of a zstd frame's descriptor: all zero in ours. */
enum { ZSTD_DESCRIPTOR_OFFSET = 4, ZSTD_DESCRIPTOR_FOREIGN = 0x0f };

struct codec {
  void *lz4;
  ZSTD_CCtx *compress;
  ZSTD_DCtx *decompress;
  uint8_t decoded[CODEC_FRAME_BYTES_MAX];
};

struct codec *codec_create(void) {
  struct codec *codec = malloc(sizeof *codec);
  if (codec == NULL) return NULL;
  codec->lz4 = malloc((size_t)LZ4_sizeofStateHC());
  codec->compress = ZSTD_createCCtx();
  codec->decompress = ZSTD_createDCtx();
  if (codec->lz4 == NULL || codec->compress == NULL || codec->decompress == NULL ||
      ZSTD_isError(
        ZSTD_CCtx_setParameter(codec->compress, ZSTD_c_compressionLevel, ZSTD_LEVEL))) {
    codec_free(codec);
    return NULL;
  }
  return codec;
}

void codec_free(struct codec *codec) {
  if (codec == NULL) return;
  free(codec->lz4);
  ZSTD_freeCCtx(codec->compress);
  ZSTD_freeDCtx(codec->decompress);
  free(codec);
}

/*
 * One frame as we write them, and nothing behind it. The library by itself would also take several
 * frames, skippable ones, and those of the versions before 1.0, whose decoders nobody reviews now.
 */
static int is_our_zstd(const uint8_t *source, size_t source_bytes, size_t raw_bytes) {
  static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};
  return source_bytes > ZSTD_DESCRIPTOR_OFFSET && memcmp(source, magic, sizeof magic) == 0 &&
         (source[ZSTD_DESCRIPTOR_OFFSET] & ZSTD_DESCRIPTOR_FOREIGN) == 0 &&
         ZSTD_getFrameContentSize(source, source_bytes) == raw_bytes &&
         ZSTD_findFrameCompressedSize(source, source_bytes) == source_bytes;
}

int codec_decode(struct codec *codec, int kind, const uint8_t *source, size_t source_bytes,
                 uint8_t *target, size_t raw_bytes) {
  if (kind == CODEC_LZ4) {
    return LZ4_decompress_safe((const char *)source, (char *)target, (int)source_bytes,
                               (int)raw_bytes) == (int)raw_bytes;
  }
  return is_our_zstd(source, source_bytes, raw_bytes) &&
         ZSTD_decompressDCtx(codec->decompress, target, raw_bytes, source, source_bytes) ==
           raw_bytes;
}

/* Stored bytes; 0 when they would be more than `room`; -ENOMEM. */
static long encode_frame(struct codec *codec, int kind, const uint8_t *source, size_t raw_bytes,
                         uint8_t *target, size_t room) {
  if (kind == CODEC_LZ4) {
    return LZ4_compress_HC_extStateHC(codec->lz4, (const char *)source, (char *)target,
                                      (int)raw_bytes, (int)room, LZ4_LEVEL);
  }
  size_t stored = ZSTD_compress2(codec->compress, target, room, source, raw_bytes);
  if (!ZSTD_isError(stored)) return (long)stored;
  return ZSTD_getErrorCode(stored) == ZSTD_error_memory_allocation ? -ENOMEM : 0;
}

long codec_encode(struct codec *codec, const struct codec_run *run, const int *stop) {
  uint8_t *out = run->target;
  size_t left = run->total_bytes;
  const uint8_t *source = run->source;
  for (uint32_t *length = run->lengths; left > 0; length++) {
    if (__atomic_load_n(stop, __ATOMIC_RELAXED)) return -ECANCELED;
    size_t raw = left < run->frame_bytes ? left : run->frame_bytes;
    size_t room = raw - (raw + SAVED_DIVISOR - 1) / SAVED_DIVISOR;
    long stored = encode_frame(codec, run->kind, source, raw, out, room);
    if (stored < 0) return stored;
    if (stored == 0 ||
        !codec_decode(codec, run->kind, out, (size_t)stored, codec->decoded, raw) ||
        memcmp(codec->decoded, source, raw) != 0) {
      memcpy(out, source, raw);
      stored = (long)raw;
    }
    *length = (uint32_t)stored;
    out += stored;
    source += raw;
    left -= raw;
  }
  return out - run->target;
}
