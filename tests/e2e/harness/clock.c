/* The wall clock, off by so many seconds: the 8 bytes of the file that FRESHET_TEST_CLOCK names. For LD_PRELOAD.
 *
 * The time that only runs (CLOCK_MONOTONIC) stays right, as where a clock is set by hand or by NTP. A wait until a wall
 * clock time lasts as long as by the wrong clock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

/* No monotonic clock has come so far: about 2001 as a wall clock. */
#define WALL_CLOCK_FROM 1000000000

static const volatile int64_t *off;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FRESHET_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (page != MAP_FAILED) off = page;
}

static int64_t seconds_off(void) { return off ? *off : 0; }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += seconds_off();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *to, int base) {
    clock_gettime(CLOCK_REALTIME, to);
    return base;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    if (until->tv_sec < WALL_CLOCK_FROM) return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, until);
    struct timespec right = {until->tv_sec - seconds_off(), until->tv_nsec};
    return pthread_cond_clockwait(cond, mutex, CLOCK_REALTIME, &right);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec right = {until->tv_sec - seconds_off(), until->tv_nsec};
    return sem_clockwait(semaphore, CLOCK_REALTIME, &right);
}

/* glibc's C11 threads are its POSIX threads under other names. */
int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec right = {until->tv_sec - seconds_off(), until->tv_nsec};
    switch (pthread_cond_clockwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, CLOCK_REALTIME, &right)) {
        case 0: return thrd_success;
        case ETIMEDOUT: return thrd_timedout;
        default: return thrd_error;
    }
}
