/* Preloaded into a process: makes the system's calls on files below $FAULT_ROOT fail as $FAULT_FILE says.
 *
 * That file holds lines "CALL ERRNO [SHORT]": while it does, each such call fails with that error number. With
 * SHORT a write puts half of its bytes into the file before it fails, as a disk that ends in the middle does.
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
#include <unistd.h>

static int wanted(const char *call, int *half) {
    const char *path = getenv("FAULT_FILE");
    char text[256], *line, *rest;
    ssize_t length;
    int fd;

    *half = 0;
    if (path == NULL || (fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC)) < 0)
        return 0;
    length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char name[32], word[16] = "";
        int code;
        if (sscanf(line, "%31s %d %15s", name, &code, word) >= 2 && strcmp(name, call) == 0) {
            *half = strcmp(word, "SHORT") == 0;
            return code;
        }
    }
    return 0;
}

static int below(const char *path) {
    const char *root = getenv("FAULT_ROOT");
    return root != NULL && path != NULL && strncmp(path, root, strlen(root)) == 0;
}

static int mine(int fd) {
    char link[64], path[4096];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(call)                                                                                         \
    do {                                                                                                   \
        int half_, code_ = wanted(call, &half_);                                                           \
        if (code_) {                                                                                       \
            errno = code_;                                                                                 \
            return -1;                                                                                     \
        }                                                                                                  \
    } while (0)

int fsync(int fd) {
    if (mine(fd))
        FAIL("fsync");
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    if (mine(fd))
        FAIL("fdatasync");
    return REAL(fdatasync)(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    if (mine(fd)) {
        int half, code = wanted("pwrite", &half);
        if (code) {
            if (half)
                REAL(pwrite64)(fd, data, size / 2, offset);
            errno = code;
            return -1;
        }
    }
    return REAL(pwrite64)(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

int posix_fallocate64(int fd, off64_t offset, off64_t size) {
    if (mine(fd)) {
        int half, code = wanted("fallocate", &half);
        if (code)
            return code;
    }
    return REAL(posix_fallocate64)(fd, offset, size);
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    return posix_fallocate64(fd, offset, size);
}

int rename(const char *from, const char *to) {
    if (below(to))
        FAIL("rename");
    return REAL(rename)(from, to);
}

static int open_faulty(const char *path, int flags) {
    int half;
    return below(path) && (flags & (O_WRONLY | O_RDWR)) ? wanted("open", &half) : 0;
}

int open64(const char *path, int flags, ...) {
    int mode = 0, code = open_faulty(path, flags);
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, int);
        va_end(rest);
    }
    if (code) {
        errno = code;
        return -1;
    }
    return REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    int mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, int);
        va_end(rest);
    }
    return open64(path, flags, mode);
}
