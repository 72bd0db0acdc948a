/* Faults that a test injects into a process below the C library, by LD_PRELOAD:
 *
 * NETRING_TEST_SUSPENDED names a file that holds nanoseconds, a signed 64-bit integer in the byte order of the machine. They
 * are added to CLOCK_BOOTTIME and CLOCK_REALTIME, as if the host had been suspended for so long. The file is mapped, so
 * that a change counts at once.
 *
 * NETRING_TEST_DISK names a file. While it exists, fsync(2) and fdatasync(2) do not return, as on a disk that hangs.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *suspended;
static const char *hanging;
static int (*next_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    hanging = getenv("NETRING_TEST_DISK");
    /* By a dynamic look-up the time comes without a system call, as it does for a process that is not governed. */
    *(void **)&next_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("NETRING_TEST_SUSPENDED");
    if (path == NULL)
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        abort();
    void *mapped = mmap(NULL, sizeof *suspended, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort();
    close(file);
    suspended = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = next_clock_gettime != NULL ? next_clock_gettime(clock, time)
                                             : (int)syscall(SYS_clock_gettime, clock, time);
    if (outcome == 0 && (clock == CLOCK_BOOTTIME || clock == CLOCK_REALTIME) && suspended != NULL) {
        int64_t nanoseconds = *suspended;
        time->tv_sec += nanoseconds / 1000000000;
        time->tv_nsec += nanoseconds % 1000000000;
        if (time->tv_nsec >= 1000000000) {
            time->tv_sec += 1;
            time->tv_nsec -= 1000000000;
        }
    }
    return outcome;
}

static void hang(void) {
    const struct timespec moment = {.tv_sec = 0, .tv_nsec = 5000000};
    while (hanging != NULL && access(hanging, F_OK) == 0)
        nanosleep(&moment, NULL);
}

int fsync(int file) {
    hang();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    hang();
    return (int)syscall(SYS_fdatasync, file);
}
