/* The addon's entry, and the few conversions between Node values and C that all files share. */
#include "varve.h"
#include <errno.h>

int varve_args(napi_env env, napi_callback_info info, size_t count, napi_value *args) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, args, NULL, NULL) != napi_ok || given < count) {
    napi_throw_type_error(env, NULL, "too few arguments");
    return 0;
  }
  return 1;
}

int32_t varve_int(napi_env env, napi_value value) {
  int32_t result = 0;
  return napi_get_value_int32(env, value, &result) == napi_ok ? result : 0;
}

double varve_double(napi_env env, napi_value value) {
  double result = 0;
  return napi_get_value_double(env, value, &result) == napi_ok ? result : 0;
}

uint8_t *varve_bytes(napi_env env, napi_value value, size_t *length) {
  napi_typedarray_type type;
  size_t elements = 0;
  void *data = NULL;
  *length = 0;
  if (napi_get_typedarray_info(env, value, &type, &elements, &data, NULL, NULL) != napi_ok) {
    return NULL;
  }
  size_t width;
  switch (type) {
    case napi_int16_array:
    case napi_uint16_array: width = 2; break;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array: width = 4; break;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array: width = 8; break;
    default: width = 1;
  }
  *length = elements * width;
  return data;
}

napi_value varve_number(napi_env env, double value) {
  napi_value result = NULL;
  napi_create_double(env, value, &result);
  return result;
}

napi_value varve_undefined(napi_env env) {
  napi_value result = NULL;
  napi_get_undefined(env, &result);
  return result;
}

napi_value varve_result(napi_env env, long result) {
  return varve_number(env, result < 0 ? -(double)errno : (double)result);
}

napi_value varve_throw(napi_env env, const char *fact) {
  napi_throw_error(env, NULL, fact);
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct varve_export *tables[] = {
    varve_arena_exports,  varve_codec_exports, varve_hash_exports,  varve_ring_exports,
    varve_socket_exports, varve_file_exports,  varve_mount_exports, varve_shared_exports,
    varve_descriptors_exports,
  };
  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
    for (const struct varve_export *e = tables[t]; e->name != NULL; e++) {
      napi_value function;
      if (napi_create_function(env, e->name, NAPI_AUTO_LENGTH, e->call, NULL, &function) !=
            napi_ok ||
          napi_set_named_property(env, exports, e->name, function) != napi_ok) {
        return NULL;
      }
    }
  }
  return exports;
}
