/* Listening, and what is asked of a connection once. Bytes move through the ring. */
#include "varve.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 128 };

/* Closes `fd` and keeps the errno of what failed before. */
static int fail(int fd) {
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

static int address_of(const char *path, struct sockaddr_un *address) {
  size_t length = strlen(path);
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (length >= sizeof address->sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address->sun_path, path, length + 1);
  return 0;
}

static int bind_unix(const char *path, int mode) {
  struct sockaddr_un address;
  if (address_of(path, &address) < 0) return -1;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) return fail(fd);
  /* Nobody connects before listen, so the mode is in force from the first connection on. Should
     somebody have put a link in the socket's place, what it leads to is left alone. */
  int is_set = mode < 0 || fchmodat(AT_FDCWD, path, (mode_t)mode, AT_SYMLINK_NOFOLLOW) == 0;
  if (!is_set || listen(fd, BACKLOG) < 0) {
    int saved = errno;
    unlink(path);
    errno = saved;
    return fail(fd);
  }
  return fd;
}

static int connect_unix_to(const char *path) {
  struct sockaddr_un address;
  if (address_of(path, &address) < 0) return -1;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  return connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? fail(fd) : fd;
}

static napi_value connect_unix(napi_env env, napi_callback_info info) {
  napi_value args[1];
  char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
  size_t length = 0;
  if (!varve_args(env, info, 1, args)) return NULL;
  if (napi_get_value_string_utf8(env, args[0], path, sizeof path, &length) != napi_ok) {
    return varve_number(env, -EINVAL);
  }
  return varve_result(env, connect_unix_to(path));
}

static napi_value listen_unix(napi_env env, napi_callback_info info) {
  napi_value args[2];
  char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
  size_t length = 0;
  if (!varve_args(env, info, 2, args)) return NULL;
  if (napi_get_value_string_utf8(env, args[0], path, sizeof path, &length) != napi_ok) {
    return varve_number(env, -EINVAL);
  }
  return varve_result(env, bind_unix(path, varve_int(env, args[1])));
}

static int bind_tcp(const char *host, int port) {
  struct addrinfo hints = {
    .ai_family = AF_UNSPEC,
    .ai_socktype = SOCK_STREAM,
    .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
  };
  char service[16];
  snprintf(service, sizeof service, "%d", port);
  struct addrinfo *found;
  if (getaddrinfo(host, service, &hints, &found) != 0) {
    errno = EINVAL;
    return -1;
  }
  int one = 1;
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int result = fd;
  if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
                  bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)) {
    result = fail(fd);
  }
  int saved = errno;
  freeaddrinfo(found);
  errno = saved;
  return result;
}

static napi_value listen_tcp(napi_env env, napi_callback_info info) {
  napi_value args[2];
  char host[64];
  size_t length = 0;
  if (!varve_args(env, info, 2, args)) return NULL;
  if (napi_get_value_string_utf8(env, args[0], host, sizeof host, &length) != napi_ok) {
    return varve_number(env, -EINVAL);
  }
  return varve_result(env, bind_tcp(host, varve_int(env, args[1])));
}

/* The port of an internet address, -1 for any other. */
static int port_of(const struct sockaddr_storage *address) {
  if (address->ss_family == AF_INET) {
    return ntohs(((const struct sockaddr_in *)address)->sin_port);
  }
  if (address->ss_family == AF_INET6) {
    return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
  }
  return -1;
}

static napi_value socket_port(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct sockaddr_storage address;
  socklen_t length = sizeof address;
  int fd = varve_int(env, args[0]);
  if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) return varve_result(env, -1);
  int port = port_of(&address);
  return varve_number(env, port < 0 ? -EINVAL : port);
}

static napi_value socket_peer(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  struct sockaddr_storage address;
  socklen_t length = sizeof address;
  int fd = varve_int(env, args[0]);
  if (getpeername(fd, (struct sockaddr *)&address, &length) < 0) return varve_result(env, -1);
  char text[INET6_ADDRSTRLEN + 16] = "unix";
  char host[INET6_ADDRSTRLEN] = "";
  int port = port_of(&address);
  if (port >= 0) {
    int one = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0) {
      return varve_result(env, -1);
    }
    int is_v4 = address.ss_family == AF_INET;
    const void *bytes = is_v4 ? (const void *)&((struct sockaddr_in *)&address)->sin_addr
                              : (const void *)&((struct sockaddr_in6 *)&address)->sin6_addr;
    inet_ntop(address.ss_family, bytes, host, sizeof host);
    snprintf(text, sizeof text, is_v4 ? "%s:%d" : "[%s]:%d", host, port);
  }
  napi_value result = NULL;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &result);
  return result;
}

static napi_value socket_shutdown(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!varve_args(env, info, 1, args)) return NULL;
  return varve_result(env, shutdown(varve_int(env, args[0]), SHUT_RDWR));
}

static napi_value peer_credentials(napi_env env, napi_callback_info info) {
  napi_value args[2];
  if (!varve_args(env, info, 2, args)) return NULL;
  struct ucred peer;
  socklen_t length = sizeof peer;
  size_t room;
  int32_t *out = (int32_t *)varve_bytes(env, args[1], &room);
  if (out == NULL || room < 3 * sizeof *out) return varve_number(env, -EINVAL);
  if (getsockopt(varve_int(env, args[0]), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
    return varve_result(env, -1);
  }
  out[0] = peer.pid;
  out[1] = (int32_t)peer.uid;
  out[2] = (int32_t)peer.gid;
  return varve_number(env, 0);
}

const struct varve_export varve_socket_exports[] = {
  {"listenUnix", listen_unix},   {"listenTcp", listen_tcp},     {"connectUnix", connect_unix},
  {"socketPort", socket_port},   {"socketPeer", socket_peer},
  {"socketShutdown", socket_shutdown}, {"peerCredentials", peer_credentials},
  {NULL, NULL},
};
