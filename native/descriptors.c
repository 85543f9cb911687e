/*
 * Descriptors that travel over a unix socket, and eventfds. Whatever comes from another process is
 * not trusted: how many descriptors a message brings is bounded, and nothing here waits.
 */
#include "varve.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 64 };

static void close_all(const int *fds, size_t count) {
  for (size_t i = 0; i < count; i++) close(fds[i]);
}

/* Descriptors of `message` into `out` (at most `room`); how many, or -EMSGSIZE with all closed. */
static int take_descriptors(struct msghdr *message, int32_t *out, size_t room) {
  size_t taken = 0;
  int is_over = (message->msg_flags & MSG_CTRUNC) != 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int fds[DESCRIPTORS_MAX];
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
    if (count > DESCRIPTORS_MAX) count = DESCRIPTORS_MAX;
    memcpy(fds, CMSG_DATA(c), count * sizeof *fds);
    if (taken + count > room) {
      is_over = 1;
      close_all(fds, count);
      continue;
    }
    memcpy(out + taken, fds, count * sizeof *fds);
    taken += count;
  }
  if (!is_over) return (int)taken;
  close_all((int *)out, taken);
  return -EMSGSIZE;
}

struct piece {
  uint8_t *bytes;
  size_t length;
  int32_t *fds;
  size_t fd_room;
};

/* Reads arguments 1 to 4: memory, offset, length, descriptors. Throws when out of range. */
static int parse(napi_env env, napi_value *args, struct piece *piece) {
  size_t memory_length, fds_length;
  uint8_t *memory = varve_bytes(env, args[1], &memory_length);
  double offset = varve_double(env, args[2]), length = varve_double(env, args[3]);
  piece->fds = (int32_t *)varve_bytes(env, args[4], &fds_length);
  piece->fd_room = fds_length / sizeof(int32_t);
  if (memory == NULL || (piece->fds == NULL && fds_length > 0) ||
      !(length >= 1 && varve_is_within(offset, length, memory_length))) {
    napi_throw_range_error(env, NULL, "a message lies outside its memory");
    return 0;
  }
  piece->bytes = memory + (size_t)offset;
  piece->length = (size_t)length;
  return 1;
}

/* descriptorsReceive(socket, bytes, offset, length, fds): fds[0] is how many follow in it. */
static napi_value descriptors_receive(napi_env env, napi_callback_info info) {
  napi_value args[5];
  struct piece piece;
  if (!varve_args(env, info, 5, args) || !parse(env, args, &piece)) return NULL;
  if (piece.fd_room < 1) return varve_number(env, -EINVAL);
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
  } control;
  struct iovec vector = {.iov_base = piece.bytes, .iov_len = piece.length};
  struct msghdr message = {
    .msg_iov = &vector,
    .msg_iovlen = 1,
    .msg_control = control.bytes,
    .msg_controllen = sizeof control.bytes,
  };
  piece.fds[0] = 0;
  ssize_t result = recvmsg(varve_int(env, args[0]), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (result < 0) return varve_result(env, -1);
  int count = take_descriptors(&message, piece.fds + 1, piece.fd_room - 1);
  if (count < 0) return varve_number(env, count);
  piece.fds[0] = count;
  return varve_number(env, (double)result);
}

/* descriptorsSend(socket, bytes, offset, length, fds): all of `fds` go with the first byte. */
static napi_value descriptors_send(napi_env env, napi_callback_info info) {
  napi_value args[5];
  struct piece piece;
  if (!varve_args(env, info, 5, args) || !parse(env, args, &piece)) return NULL;
  if (piece.fd_room > DESCRIPTORS_MAX) return varve_number(env, -EINVAL);
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
  } control;
  memset(&control, 0, sizeof control);
  struct iovec vector = {.iov_base = piece.bytes, .iov_len = piece.length};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  if (piece.fd_room > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(piece.fd_room * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(piece.fd_room * sizeof(int));
    memcpy(CMSG_DATA(c), piece.fds, piece.fd_room * sizeof(int));
  }
  return varve_result(env, sendmsg(varve_int(env, args[0]), &message, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static napi_value event_create(napi_env env, napi_callback_info info) {
  (void)info;
  return varve_result(env, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

/* eventIs(fd): 1 for an eventfd, 0 for anything else. */
static napi_value event_is(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  char path[64], target[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", varve_int(env, args[0]));
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) return varve_result(env, -1);
  target[length] = 0;
  return varve_number(env, strcmp(target, "anon_inode:[eventfd]") == 0);
}

const struct varve_export varve_descriptors_exports[] = {
  {"descriptorsReceive", descriptors_receive},
  {"descriptorsSend", descriptors_send},
  {"eventCreate", event_create},
  {"eventIs", event_is},
  {NULL, NULL},
};
