/* What mounting a filesystem of our own takes: its device, mount(2), and a descriptor passed on. */
#include "varve.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* Since Linux 5.6; older headers lack it. */
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

enum { OPTIONS_BYTES_MAX = 4096, TYPE_BYTES_MAX = 64 };

/* Reads a string that must fit; returns 0 when it does not or is none. */
static int text_of(napi_env env, napi_value value, char *out, size_t room) {
  size_t length = 0;
  napi_status status = napi_get_value_string_utf8(env, value, out, room, &length);
  /* A string that was cut fills the room but for its NUL; a NUL within would hide the rest. */
  return status == napi_ok && length < room - 1 && strlen(out) == length;
}

static napi_value open_device(napi_env env, napi_callback_info info) {
  napi_value args[1];
  char path[PATH_MAX + 1];
  if (!varve_args(env, info, 1, args)) return NULL;
  if (!text_of(env, args[0], path, sizeof path)) return varve_number(env, -EINVAL);
  return varve_result(env, open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK));
}

/* mountFilesystem(source, target, type, options): always nosuid and nodev. */
static napi_value mount_filesystem(napi_env env, napi_callback_info info) {
  napi_value args[4];
  char source[PATH_MAX + 1], target[PATH_MAX + 1], type[TYPE_BYTES_MAX];
  char options[OPTIONS_BYTES_MAX];
  if (!varve_args(env, info, 4, args)) return NULL;
  if (!text_of(env, args[0], source, sizeof source) ||
      !text_of(env, args[1], target, sizeof target) ||
      !text_of(env, args[2], type, sizeof type) ||
      !text_of(env, args[3], options, sizeof options)) {
    return varve_number(env, -EINVAL);
  }
  return varve_result(env, mount(source, target, type, MS_NOSUID | MS_NODEV, options));
}

/* socketPair(out): two connected unix stream sockets into out[0] and out[1]. */
static napi_value socket_pair(napi_env env, napi_callback_info info) {
  napi_value args[1];
  size_t room;
  int pair[2];
  if (!varve_args(env, info, 1, args)) return NULL;
  int32_t *out = (int32_t *)varve_bytes(env, args[0], &room);
  if (out == NULL || room < 2 * sizeof *out) return varve_number(env, -EINVAL);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return varve_result(env, -1);
  out[0] = pair[0];
  out[1] = pair[1];
  return varve_number(env, 0);
}

/* receiveDescriptor(fd): the descriptor in the next message, without waiting for one. */
static napi_value receive_descriptor(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control;
  char byte;
  struct iovec piece = {.iov_base = &byte, .iov_len = 1};
  struct msghdr message = {
    .msg_iov = &piece,
    .msg_iovlen = 1,
    .msg_control = control.bytes,
    .msg_controllen = sizeof control.bytes,
  };
  if (recvmsg(varve_int(env, args[0]), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) {
    return varve_result(env, -1);
  }
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
    return varve_number(env, -ENODATA);
  }
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return varve_number(env, fd);
}

static napi_value set_nonblocking(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  int fd = varve_int(env, args[0]);
  int flags = fcntl(fd, F_GETFL);
  return varve_result(env, flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

static napi_value set_io_flusher(napi_env env, napi_callback_info info) {
  (void)info;
  return varve_result(env, prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0));
}

const struct varve_export varve_mount_exports[] = {
  {"openDevice", open_device},
  {"mountFilesystem", mount_filesystem},
  {"socketPair", socket_pair},
  {"receiveDescriptor", receive_descriptor},
  {"setNonblocking", set_nonblocking},
  {"setIoFlusher", set_io_flusher},
  {NULL, NULL},
};
