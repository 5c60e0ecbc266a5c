// Preloaded into one redis-server: its time of day is what a test wrote into the file that $MANUAL_CLOCK names.
//
// The file holds two counts of microseconds since 1970 and a byte that says which of them is the time. Other clocks are
// the machine's.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile struct { int64_t micros[2]; uint8_t which; } *told;

__attribute__((constructor)) static void open_clock(void) {
    int file = open(getenv("MANUAL_CLOCK"), O_RDONLY);
    void *mapped = mmap(NULL, sizeof *told, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) abort();
    told = mapped;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *time) {
    if (!told || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return syscall(SYS_clock_gettime, id, time);
    int64_t micros = told->micros[told->which & 1];
    time->tv_sec = micros / 1000000;
    time->tv_nsec = micros % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
