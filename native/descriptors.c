/*
 * Descriptors that travel over a unix socket, and eventfds of another process.
 *
 * Whatever comes from there is not trusted: how many descriptors a message brings is bounded, and
 * nothing here waits. An eventfd whose counter is full would make write(2) wait, and whether it is
 * nonblocking is the other process's to change at any moment. So events are signalled as the
 * completion of a read of nothing (Linux AIO with IOCB_FLAG_RESFD), which never waits, refuses
 * what is no eventfd, and takes any number of them in one call.
 */
#include "varve.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 64, SIGNALS_MAX = 64, COMPLETIONS_MAX = 512 };

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
      !(offset >= 0 && length >= 1 && offset + length <= (double)memory_length)) {
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

/* One context for the process; the file that is always read to its end at once. */
static aio_context_t context;
static int null_fd = -1;
/* Completions that nobody has taken. */
static uint32_t untaken_count;

static int open_context(void) {
  if (null_fd >= 0) return 0;
  if (context == 0 && syscall(SYS_io_setup, COMPLETIONS_MAX, &context) < 0) return -1;
  null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return null_fd < 0 ? -1 : 0;
}

/* Takes the completions, which say nothing, when there is no room for more. */
static void make_room(void) {
  if (untaken_count + SIGNALS_MAX <= COMPLETIONS_MAX) return;
  struct io_event events[SIGNALS_MAX];
  struct timespec now = {0};
  while (syscall(SYS_io_getevents, context, 0, SIGNALS_MAX, events, &now) == SIGNALS_MAX) continue;
  untaken_count = 0;
}

/*
 * eventSignal(fds, count): adds 1 to each, whatever the others do. How many were signalled, or
 * -errno on a host without AIO.
 */
static napi_value event_signal(napi_env env, napi_callback_info info) {
  napi_value args[2];
  if (!varve_args(env, info, 2, args)) return NULL;
  size_t bytes;
  const int32_t *fds = (const int32_t *)varve_bytes(env, args[0], &bytes);
  uint32_t count = (uint32_t)varve_int(env, args[1]);
  if (fds == NULL || (size_t)count * sizeof *fds > bytes) return varve_number(env, -EINVAL);
  if (open_context() < 0) return varve_result(env, -1);
  uint32_t signalled = 0, next = 0;
  while (next < count) {
    static uint8_t nothing[1];
    struct iocb blocks[SIGNALS_MAX], *pointers[SIGNALS_MAX];
    uint32_t batch = count - next < SIGNALS_MAX ? count - next : SIGNALS_MAX;
    memset(blocks, 0, batch * sizeof *blocks);
    for (uint32_t i = 0; i < batch; i++) {
      blocks[i].aio_lio_opcode = IOCB_CMD_PREAD;
      blocks[i].aio_fildes = (uint32_t)null_fd;
      blocks[i].aio_buf = (uint64_t)(uintptr_t)nothing;
      blocks[i].aio_nbytes = sizeof nothing;
      blocks[i].aio_flags = IOCB_FLAG_RESFD;
      blocks[i].aio_resfd = (uint32_t)fds[next + i];
      pointers[i] = &blocks[i];
    }
    make_room();
    long result = syscall(SYS_io_submit, context, (long)batch, pointers);
    /* A failure is that of the first one: what is no eventfd is passed over. */
    uint32_t taken = result > 0 ? (uint32_t)result : 0;
    untaken_count += taken;
    signalled += taken;
    next += taken > 0 ? taken : 1;
  }
  return varve_number(env, signalled);
}

const struct varve_export varve_descriptors_exports[] = {
  {"descriptorsReceive", descriptors_receive},
  {"descriptorsSend", descriptors_send},
  {"eventCreate", event_create},
  {"eventIs", event_is},
  {"eventSignal", event_signal},
  {NULL, NULL},
};
