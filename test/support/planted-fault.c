/* A library with a fault as soon as it is loaded, to see that the sanitizers see it. */
#include <limits.h>
#include <stdlib.h>

static volatile int zero;
static void *volatile kept;

__attribute__((constructor)) static void plant(void) {
#if defined(PLANT_OVERFLOW)
  /* Volatile, so that the compiler does not see it first. */
  char *volatile bytes = malloc(16);
  bytes[16 + zero] = 1;
  kept = bytes;
#elif defined(PLANT_UNDEFINED)
  int most = INT_MAX - zero;
  zero = most + 1;
#elif defined(PLANT_LEAK)
  kept = malloc(4321);
  kept = NULL;
#endif
}
