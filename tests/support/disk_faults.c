/* Preloaded into a process to make its n-th change of files below a folder fail, or to kill it there.

FAULT_FOLDER  absolute path; calls on other files are left alone
FAULT_LOG     file that gets a line "NUMBER CALL PATH" for each counted call
FAULT_AT      number of the call that fails, from 1; 0 or unset for none
FAULT_ERROR   errno of the failure; 0 sends the process a signal instead, before the call
FAULT_SIGNAL  number of the signal; SIGKILL if unset
FAULT_STAYS   set: all later calls fail too, as on a full disk

Counted are open for writing, write, fsync, rename, mkdir, ftruncate, mmap for writing, and removals,
which do not fail but may be killed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long count;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *folder(void) { return getenv("FAULT_FOLDER"); }

static int is_below(const char *path) {
    const char *root = folder();
    if (!root || !path) return 0;
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* Count a call on an absolute path; return whether it must fail, with errno set. */
static int fails(const char *call, const char *path) {
    if (!is_below(path)) return 0;
    pthread_mutex_lock(&lock);
    long number = ++count;
    const char *log = getenv("FAULT_LOG"), *at = getenv("FAULT_AT"), *error = getenv("FAULT_ERROR");
    if (log) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path + strlen(folder()));
        int handle = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0666);
        if (handle >= 0) {
            if (syscall(SYS_write, handle, line, (size_t)length) < 0) abort();
            syscall(SYS_close, handle);
        }
    }
    pthread_mutex_unlock(&lock);
    long wanted = at ? atol(at) : 0;
    if (!wanted || number < wanted || (number > wanted && !getenv("FAULT_STAYS"))) return 0;
    int failure = error ? atoi(error) : 0;
    if (failure && !strcmp(call, "remove")) return 0;
    if (!failure) {
        const char *wanted_signal = getenv("FAULT_SIGNAL");
        int which = wanted_signal ? atoi(wanted_signal) : SIGKILL;
        kill(getpid(), which);
        if (which != SIGKILL) return 0;
        for (;;) pause();
    }
    errno = failure;
    return 1;
}

static int fails_at(const char *call, int directory, const char *path) {
    char absolute[PATH_MAX * 2], base[PATH_MAX], link[64];
    if (!path) return 0;
    if (path[0] == '/') return fails(call, path);
    snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length < 0) return 0;
    base[length] = 0;
    snprintf(absolute, sizeof absolute, "%s/%s", base, path);
    return fails(call, absolute);
}

static int fails_on(const char *call, int handle) {
    char path[PATH_MAX], link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    int before = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name)                                                             \
    int name(const char *path, int flags, ...) {                               \
        va_list rest; va_start(rest, flags);                                   \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (writes(flags) && fails_at("open", AT_FDCWD, path)) return -1;      \
        return REAL(name)(path, flags, mode);                                  \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
    int name(int directory, const char *path, int flags, ...) {                \
        va_list rest; va_start(rest, flags);                                   \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (writes(flags) && fails_at("open", directory, path)) return -1;     \
        return REAL(name)(directory, path, flags, mode);                       \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                            \
    FILE *name(const char *path, const char *mode) {                           \
        if (strpbrk(mode, "wa+") && fails_at("open", AT_FDCWD, path)) return NULL; \
        return REAL(name)(path, mode);                                         \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int handle, const void *data, size_t size) {
    return fails_on("write", handle) ? -1 : REAL(write)(handle, data, size);
}
ssize_t writev(int handle, const struct iovec *parts, int number) {
    return fails_on("write", handle) ? -1 : REAL(writev)(handle, parts, number);
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t place) {
    return fails_on("write", handle) ? -1 : REAL(pwrite)(handle, data, size, place);
}
ssize_t pwrite64(int handle, const void *data, size_t size, off64_t place) {
    return fails_on("write", handle) ? -1 : REAL(pwrite64)(handle, data, size, place);
}
int fsync(int handle) { return fails_on("fsync", handle) ? -1 : REAL(fsync)(handle); }
int fdatasync(int handle) { return fails_on("fsync", handle) ? -1 : REAL(fdatasync)(handle); }
int ftruncate(int handle, off_t size) {
    return fails_on("ftruncate", handle) ? -1 : REAL(ftruncate)(handle, size);
}
int ftruncate64(int handle, off64_t size) {
    return fails_on("ftruncate", handle) ? -1 : REAL(ftruncate64)(handle, size);
}
int rename(const char *from, const char *to) {
    return fails_at("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int renameat(int one, const char *from, int two, const char *to) {
    return fails_at("rename", two, to) ? -1 : REAL(renameat)(one, from, two, to);
}
int renameat2(int one, const char *from, int two, const char *to, unsigned flags) {
    return fails_at("rename", two, to) ? -1 : REAL(renameat2)(one, from, two, to, flags);
}
int mkdir(const char *path, mode_t mode) {
    return fails_at("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int mkdirat(int directory, const char *path, mode_t mode) {
    return fails_at("mkdir", directory, path) ? -1 : REAL(mkdirat)(directory, path, mode);
}
int unlink(const char *path) {
    fails_at("remove", AT_FDCWD, path);
    return REAL(unlink)(path);
}
int unlinkat(int directory, const char *path, int flags) {
    fails_at("remove", directory, path);
    return REAL(unlinkat)(directory, path, flags);
}
int rmdir(const char *path) {
    fails_at("remove", AT_FDCWD, path);
    return REAL(rmdir)(path);
}
void *mmap(void *at, size_t size, int protection, int flags, int handle, off_t place) {
    if (handle >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED) && fails_on("mmap", handle))
        return MAP_FAILED;
    return REAL(mmap)(at, size, protection, flags, handle, place);
}
