/* A stream to a server on this machine. Included after load.h. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

static int connect_to_path(const char *path)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("the path is too long: %s", path);
  strcpy(address.sun_path, path);
  const int stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(stream, (struct sockaddr *)&address, sizeof address) != 0)
    die("cannot connect to %s: %s", path, strerror(errno));
  return stream;
}
