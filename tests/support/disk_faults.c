/*
 * A disk that fails on demand, for LD_PRELOAD; see disk_faults.py.
 *
 * DISK_FAULTS_DIRECTORY  only files below it are touched (an absolute path without links)
 * DISK_FAULTS_RULES      a file of rules, read again at every call, so that a test switches at run time
 *
 * One rule a line, the first that fits counts:   <operation> <part of the path> <process> <ms> <errno>
 * operation: write, sync, truncate, allocate, open (for writing) or *; part: * for every file; process: 0 for all.
 * First it waits: so many milliseconds, or with -1 until the rule is gone. Then it fails, or with 0 goes on.
 * Each call that a rule fits adds a byte to <rules>.hits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { RULES_BYTES = 4096, PATH_BYTES = 4096, SLICE_NS = 10 * 1000 * 1000 };

static int find_rule(const char *operation, const char *path, long *wait_ms)
{
    const char *rules = getenv("DISK_FAULTS_RULES");
    char text[RULES_BYTES], kind[32], part[256], *rest, *line;
    int process, number;
    long fd, length;
    if (rules == NULL || (fd = syscall(SYS_openat, AT_FDCWD, rules, O_RDONLY | O_CLOEXEC)) < 0)
        return -1;
    length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0)
        return -1;
    text[length] = 0;
    for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        if (sscanf(line, "%31s %255s %d %ld %d", kind, part, &process, wait_ms, &number) != 5)
            abort();
        if ((strcmp(kind, "*") == 0 || strcmp(kind, operation) == 0) &&
            (strcmp(part, "*") == 0 || strstr(path, part) != NULL) &&
            (process == 0 || process == getpid()))
            return number;
    }
    return -1;
}

static void count_hit(void)
{
    char hits[PATH_BYTES];
    long fd;
    snprintf(hits, sizeof hits, "%s.hits", getenv("DISK_FAULTS_RULES"));
    fd = syscall(SYS_openat, AT_FDCWD, hits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, "x", 1);
        syscall(SYS_close, fd);
    }
}

static int below(const char *path)
{
    const char *directory = getenv("DISK_FAULTS_DIRECTORY");
    size_t length = directory == NULL ? 0 : strlen(directory);
    return length > 0 && strncmp(path, directory, length) == 0 && path[length] == '/';
}

/* 0: go on; else errno. */
static int fault(const char *operation, const char *path)
{
    const struct timespec slice = {0, SLICE_NS};
    long wait_ms, waited, again;
    int number;
    if (!below(path) || (number = find_rule(operation, path, &wait_ms)) < 0)
        return 0;
    count_hit();
    for (waited = 0; wait_ms < 0 || waited < wait_ms; waited += SLICE_NS / 1000000) {
        /* The system call: a shim for the clock must not change how long this is. */
        syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &slice, NULL);
        if (wait_ms < 0 && find_rule(operation, path, &again) < 0)
            break;
    }
    return number;
}

static int fault_of(const char *operation, int fd)
{
    char link[64], path[PATH_BYTES];
    ssize_t length;
    int kept = errno, number;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0) {
        errno = kept;
        return 0;
    }
    path[length] = 0;
    number = fault(operation, path);
    errno = number ? number : kept;
    return number;
}

static int fault_at(int directory, const char *path, int flags)
{
    char whole[PATH_BYTES], link[64];
    ssize_t length = 0;
    int kept = errno, number;
    if ((flags & O_ACCMODE) == O_RDONLY)
        return 0;
    whole[0] = 0;
    if (path[0] != '/') {
        if (directory == AT_FDCWD)
            length = getcwd(whole, sizeof whole) == NULL ? 0 : (ssize_t)strlen(whole);
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
            length = readlink(link, whole, sizeof whole - 1);
        }
        if (length <= 0)
            return 0;
        snprintf(whole + length, sizeof whole - length, "/%s", path);
    } else
        snprintf(whole, sizeof whole, "%s", path);
    number = fault("open", whole);
    errno = number ? number : kept;
    return number;
}

#define REAL(name) __extension__({                      \
    static __typeof__(&name) found;                     \
    if (found == NULL)                                  \
        found = (__typeof__(found))dlsym(RTLD_NEXT, #name); \
    found; })

#define WRAP(kind, operation, name, parameters, arguments) \
    kind name parameters { return fault_of(operation, fd) ? -1 : REAL(name) arguments; }

WRAP(ssize_t, "write", write, (int fd, const void *data, size_t size), (fd, data, size))
WRAP(ssize_t, "write", pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRAP(ssize_t, "write", pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRAP(ssize_t, "write", writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRAP(ssize_t, "write", pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
WRAP(ssize_t, "write", pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))
WRAP(ssize_t, "write", pwritev2, (int fd, const struct iovec *parts, int count, off_t at, int flags),
     (fd, parts, count, at, flags))
WRAP(int, "sync", fsync, (int fd), (fd))
WRAP(int, "sync", fdatasync, (int fd), (fd))
WRAP(int, "sync", sync_file_range, (int fd, off64_t at, off64_t size, unsigned flags), (fd, at, size, flags))
WRAP(int, "truncate", ftruncate, (int fd, off_t size), (fd, size))
WRAP(int, "truncate", ftruncate64, (int fd, off64_t size), (fd, size))

/* These tell their error by their value. */
int posix_fallocate(int fd, off_t at, off_t size)
{
    int number = fault_of("allocate", fd);
    return number ? number : REAL(posix_fallocate)(fd, at, size);
}
int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    int number = fault_of("allocate", fd);
    return number ? number : REAL(posix_fallocate64)(fd, at, size);
}

static mode_t mode_of(int flags, va_list more)
{
    return flags & (O_CREAT | __O_TMPFILE) ? (mode_t)va_arg(more, unsigned) : 0;
}

#define WRAP_OPEN(name)                                                      \
    int name(const char *path, int flags, ...)                               \
    {                                                                        \
        va_list more;                                                        \
        mode_t mode;                                                         \
        va_start(more, flags);                                               \
        mode = mode_of(flags, more);                                         \
        va_end(more);                                                        \
        return fault_at(AT_FDCWD, path, flags) ? -1 : REAL(name)(path, flags, mode); \
    }
#define WRAP_OPENAT(name)                                                    \
    int name(int directory, const char *path, int flags, ...)                \
    {                                                                        \
        va_list more;                                                        \
        mode_t mode;                                                         \
        va_start(more, flags);                                               \
        mode = mode_of(flags, more);                                         \
        va_end(more);                                                        \
        return fault_at(directory, path, flags) ? -1 : REAL(name)(directory, path, flags, mode); \
    }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
