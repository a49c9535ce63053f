/* Faults of disk and clock for one process, put under it with LD_PRELOAD (Linux, glibc).
 *
 * Three environment variables, all optional:
 *
 *   JM_FAULTS_DIR  the directory whose files (at any depth) are looked at; nothing else is touched.
 *   JM_FAULTS      a file of 64 bytes (`struct control`), shared memory with the process that
 *                  injects: how far the wall clock is off, and the errno of every write.
 *   JM_FAULTS_LOG  every change of those files is appended there, in the order in which the kernel
 *                  did them (`struct record`), for tests that cut the power at every point.
 *
 * Nothing is remembered between calls: what a descriptor is, the kernel is asked each time. So dup,
 * fork, exec and descriptors closed behind our back need no care. With a log, an operation and its
 * record are one step for all threads (mutex) and all processes (POSIX lock on the log).
 *
 * Not seen, by construction: stdio of glibc (it calls the kernel without going through a symbol; so
 * C programs that use fwrite are not covered), raw system calls, stores into a shared mapping
 * (SQLite's -shm file, which it rebuilds after a crash), sendfile and copy_file_range, and waits
 * with an absolute deadline on a condition variable that uses the wall clock.
 *
 * A setting that cannot be used ends the process: a fault that is silently not injected would
 * pass for a program that survives it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- The next definition of a function: the C library's ---- */

static void give_up(const char *what, const char *why) {
  fprintf(stderr, "fault shim: %s: %s\n", what, why);
  abort();
}

static void *next_symbol(_Atomic(void *) *found, const char *name) {
  void *symbol = atomic_load_explicit(found, memory_order_acquire);
  if (!symbol) {
    symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) give_up(name, "not in the C library");
    atomic_store_explicit(found, symbol, memory_order_release);
  }
  return symbol;
}

#define NEXT(name)                                         \
  (__extension__({                                         \
    static _Atomic(void *) found;                          \
    (__typeof__(&name))next_symbol(&found, #name);         \
  }))

/* ---- Settings ---- */

struct control { /* 64 bytes, changed by another process at any time; shim.py knows the layout */
  _Atomic int64_t realtime_offset_ns;
  _Atomic int32_t write_errno;
  int32_t reserved;
  _Atomic uint64_t failed; /* how many operations got that errno */
  uint8_t unused[40];
};
_Static_assert(sizeof(struct control) == 64, "the file has 64 bytes");

static struct control no_faults;
static struct control *control = &no_faults;
static char root[PATH_MAX]; /* JM_FAULTS_DIR, resolved; empty: no file is looked at */
static size_t root_bytes;
static char log_path[PATH_MAX]; /* empty: no log */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void hold(void) { pthread_mutex_lock(&mutex); }
static void release(void) { pthread_mutex_unlock(&mutex); }

static void read_settings(void) {
  const char *path = getenv("JM_FAULTS");
  if (path && *path) {
    int fd = NEXT(open64)(path, O_RDWR | O_CLOEXEC);
    struct stat state;
    if (fd < 0 || fstat(fd, &state) != 0) give_up(path, strerror(errno));
    if (state.st_size < (off_t)sizeof(struct control)) give_up(path, "shorter than 64 bytes");
    control = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) give_up(path, strerror(errno));
    NEXT(close)(fd);
  }
  const char *directory = getenv("JM_FAULTS_DIR");
  if (directory && *directory) {
    if (!realpath(directory, root)) give_up(directory, strerror(errno));
    root_bytes = strlen(root);
  }
  const char *log = getenv("JM_FAULTS_LOG");
  if (log && *log) {
    if (!root_bytes) give_up("JM_FAULTS_LOG", "needs JM_FAULTS_DIR");
    if (*log != '/' || strlen(log) >= sizeof log_path) give_up(log, "not an absolute path");
    strcpy(log_path, log);
  }
  pthread_atfork(hold, release, release);
}

static struct control *faults(void) {
  pthread_once(&once, read_settings);
  return control;
}

__attribute__((constructor)) static void start(void) { faults(); }

/* ---- Which files ---- */

/* The part of an absolute path below the root, "" for the root itself, or NULL. */
static const char *below_root(const char *path) {
  if (!root_bytes || strncmp(path, root, root_bytes) != 0) return NULL;
  if (path[root_bytes] == '\0') return path + root_bytes;
  return path[root_bytes] == '/' ? path + root_bytes + 1 : NULL;
}

static bool path_of(int fd, char resolved[PATH_MAX]) {
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, resolved, PATH_MAX - 1);
  if (length < 0) return false;
  resolved[length] = '\0';
  return true;
}

/* The name of an open file or directory of ours, relative to the root, or NULL. */
static const char *name_of(int fd, struct stat *state, char resolved[PATH_MAX]) {
  int error = errno;
  const char *name = NULL;
  if (root_bytes && fstat(fd, state) == 0 && (S_ISREG(state->st_mode) || S_ISDIR(state->st_mode)) &&
      path_of(fd, resolved))
    name = below_root(resolved);
  errno = error;
  return name;
}

/* The same for a path that need not exist: its directory is resolved, the last part is kept. */
static const char *name_at(int directory, const char *path, char resolved[PATH_MAX]) {
  int error = errno;
  char whole[2 * PATH_MAX];
  const char *name = NULL;
  if (root_bytes && strlen(path) < PATH_MAX) {
    if (*path == '/') {
      strcpy(whole, path);
    } else {
      if (directory == AT_FDCWD ? !getcwd(whole, PATH_MAX) : !path_of(directory, whole)) goto done;
      strcat(whole, "/");
      strcat(whole, path);
    }
    char *last = strrchr(whole, '/');
    *last++ = '\0';
    if (!realpath(*whole ? whole : "/", resolved)) goto done;
    size_t length = strlen(resolved);
    if (length + strlen(last) + 2 > PATH_MAX) goto done;
    resolved[length] = '/';
    strcpy(resolved + length + 1, last);
    name = below_root(resolved);
  }
done:
  errno = error;
  return name;
}

static bool is_ours(int fd) {
  struct stat state;
  char resolved[PATH_MAX];
  return faults(), name_of(fd, &state, resolved) != NULL;
}

static bool is_ours_at(int directory, const char *path) {
  char resolved[PATH_MAX];
  return faults(), name_at(directory, path, resolved) != NULL;
}

/* ---- Errors ---- */

static int injected(void) {
  return atomic_load_explicit(&faults()->write_errno, memory_order_relaxed);
}

static int fail(int error) {
  atomic_fetch_add_explicit(&control->failed, 1, memory_order_relaxed);
  return errno = error, -1;
}

/* A full disk still lets a name go and a file shrink; a read-only or a broken one does not. */
static bool fails_everything(int error) { return error == EROFS || error == EIO; }

/* ---- The log ---- */

enum operation {
  OP_CREATE = 1,   /* name, file: a new, empty file */
  OP_WRITE = 2,    /* file, offset, data */
  OP_TRUNCATE = 3, /* file, length: cut, or grown with zeros */
  OP_SYNC = 4,     /* file */
  OP_SYNC_DIRECTORY = 5, /* name */
  OP_RENAME = 6,         /* name, other */
  OP_UNLINK = 7,         /* name */
  OP_MKDIR = 8,          /* name */
  OP_RMDIR = 9,          /* name */
  OP_LINK = 10,          /* name, other: the second name of a file */
  OP_OTHER = 11,         /* name: something that a replay does not know */
};

struct record { /* native byte order; then the two names and the data; log.py knows the layout */
  uint32_t magic, operation, pid, name_bytes, other_bytes, reserved;
  uint64_t file; /* inode number; one that was unlinked may come back by OP_CREATE */
  uint64_t offset, length, data_bytes;
};
_Static_assert(sizeof(struct record) == 56, "no padding");
#define RECORD_MAGIC 0x314C4D4Au

/* Begin a step; returns the log's descriptor, or -1 when there is no log. */
static int begin(void) {
  faults();
  if (!*log_path) return -1;
  int error = errno;
  hold();
  int log = NEXT(open64)(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) give_up(log_path, strerror(errno));
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  while (fcntl(log, F_SETLKW, &whole) != 0)
    if (errno != EINTR) give_up(log_path, strerror(errno));
  errno = error;
  return log;
}

static void end(int log) {
  if (log < 0) return;
  int error = errno;
  NEXT(close)(log); /* frees the lock */
  release();
  errno = error;
}

static void append(int log, struct record record, const char *name, const char *other,
                   const struct iovec *data, int pieces) {
  if (log < 0) return;
  int error = errno;
  record.magic = RECORD_MAGIC;
  record.pid = (uint32_t)getpid();
  record.name_bytes = (uint32_t)strlen(name);
  record.other_bytes = (uint32_t)strlen(other);
  struct iovec head[3] = {{&record, sizeof record},
                          {(void *)name, record.name_bytes},
                          {(void *)other, record.other_bytes}};
  size_t left = record.data_bytes;
  bool written = NEXT(writev)(log, head, 3) ==
                 (ssize_t)(sizeof record + record.name_bytes + record.other_bytes);
  for (int piece = 0; piece < pieces && left && written; piece++) {
    size_t size = data[piece].iov_len < left ? data[piece].iov_len : left;
    written = NEXT(write)(log, data[piece].iov_base, size) == (ssize_t)size;
    left -= size;
  }
  if (!written) give_up(log_path, "cannot append to the log");
  errno = error;
}

static void append_name(int log, enum operation operation, const char *name) {
  append(log, (struct record){.operation = operation}, name, "", NULL, 0);
}

static void append_file(int log, enum operation operation, int fd, uint64_t length) {
  struct stat state;
  char resolved[PATH_MAX];
  const char *name = log < 0 ? NULL : name_of(fd, &state, resolved);
  if (!name) return;
  append(log, (struct record){.operation = operation, .file = state.st_ino, .length = length}, name,
         "", NULL, 0);
}

/* ---- Opening ---- */

static int open_at(int directory, const char *path, int flags, mode_t mode) {
  bool changes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
  if (!changes || !is_ours_at(directory, path))
    return NEXT(openat64)(directory, path, flags, mode);
  int log = begin(), error = injected();
  struct stat before;
  bool existed = fstatat(directory, path, &before, 0) == 0;
  bool creates = !existed && flags & O_CREAT;
  int fd;
  if (error && (creates || error == EROFS || (flags & O_TRUNC && fails_everything(error))))
    fd = fail(error);
  else
    fd = NEXT(openat64)(directory, path, flags, mode);
  if (fd >= 0 && creates) append_file(log, OP_CREATE, fd, 0);
  if (fd >= 0 && existed && flags & O_TRUNC && before.st_size)
    append_file(log, OP_TRUNCATE, fd, 0);
  end(log);
  return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
  return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(arguments, unsigned) : 0;
}

#define OPEN(directory)                            \
  {                                                \
    va_list arguments;                             \
    va_start(arguments, flags);                    \
    mode_t mode = mode_of(flags, arguments);       \
    va_end(arguments);                             \
    return open_at(directory, path, flags, mode);  \
  }

EXPORT int open(const char *path, int flags, ...) OPEN(AT_FDCWD)
EXPORT int open64(const char *path, int flags, ...) OPEN(AT_FDCWD)
EXPORT int openat(int directory, const char *path, int flags, ...) OPEN(directory)
EXPORT int openat64(int directory, const char *path, int flags, ...) OPEN(directory)

/* What -D_FORTIFY_SOURCE makes of calls without a mode. */
EXPORT int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __openat_2(int at, const char *path, int flags) { return open_at(at, path, flags, 0); }
EXPORT int __openat64_2(int at, const char *path, int flags) { return open_at(at, path, flags, 0); }

EXPORT int creat(const char *path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* ---- Writing ---- */

#define AT_POSITION (-1) /* write where the descriptor stands */

static ssize_t write_at(int fd, const struct iovec *data, int pieces, off64_t offset) {
  struct stat state;
  char resolved[PATH_MAX];
  faults();
  const char *name = name_of(fd, &state, resolved);
  int log = name ? begin() : -1, error = name ? injected() : 0;
  ssize_t written;
  if (error)
    written = fail(error);
  else if (offset == AT_POSITION)
    written = pieces == 1 ? NEXT(write)(fd, data->iov_base, data->iov_len)
                          : NEXT(writev)(fd, data, pieces);
  else
    written = pieces == 1 ? NEXT(pwrite64)(fd, data->iov_base, data->iov_len, offset)
                          : NEXT(pwritev64)(fd, data, pieces, offset);
  if (log >= 0 && written > 0) {
    if (offset == AT_POSITION) offset = lseek64(fd, 0, SEEK_CUR) - written;
    struct record record = {.operation = OP_WRITE,
                            .file = state.st_ino,
                            .offset = (uint64_t)offset,
                            .length = (uint64_t)written,
                            .data_bytes = (uint64_t)written};
    append(log, record, name, "", data, pieces);
  }
  end(log);
  return written;
}

EXPORT ssize_t write(int fd, const void *data, size_t size) {
  return write_at(fd, &(struct iovec){(void *)data, size}, 1, AT_POSITION);
}
EXPORT ssize_t writev(int fd, const struct iovec *data, int pieces) {
  return write_at(fd, data, pieces, AT_POSITION);
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  return write_at(fd, &(struct iovec){(void *)data, size}, 1, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  return write_at(fd, &(struct iovec){(void *)data, size}, 1, offset);
}
EXPORT ssize_t pwritev(int fd, const struct iovec *data, int pieces, off_t offset) {
  return write_at(fd, data, pieces, offset);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *data, int pieces, off64_t offset) {
  return write_at(fd, data, pieces, offset);
}
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *data, int pieces, off64_t offset,
                           int flags) {
  if (!is_ours(fd)) return NEXT(pwritev64v2)(fd, data, pieces, offset, flags);
  if (flags) return errno = EOPNOTSUPP, -1; /* as a file system that does not know the flag */
  return write_at(fd, data, pieces, offset);
}
EXPORT ssize_t pwritev2(int fd, const struct iovec *data, int pieces, off_t offset, int flags) {
  return pwritev64v2(fd, data, pieces, offset, flags);
}

/* ---- Sizes ---- */

static bool grows(int fd, off64_t size) {
  struct stat state;
  return fstat(fd, &state) == 0 && size > state.st_size;
}

EXPORT int ftruncate64(int fd, off64_t size) {
  if (!is_ours(fd)) return NEXT(ftruncate64)(fd, size);
  int log = begin(), error = injected();
  bool fails = error && (grows(fd, size) || fails_everything(error));
  int result = fails ? fail(error) : NEXT(ftruncate64)(fd, size);
  if (result == 0) append_file(log, OP_TRUNCATE, fd, (uint64_t)size);
  end(log);
  return result;
}
EXPORT int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

EXPORT int truncate64(const char *path, off64_t size) {
  if (!is_ours_at(AT_FDCWD, path)) return NEXT(truncate64)(path, size);
  int fd = open_at(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
  if (fd < 0) return -1;
  int result = ftruncate64(fd, size), error = errno;
  NEXT(close)(fd);
  return errno = error, result;
}
EXPORT int truncate(const char *path, off_t size) { return truncate64(path, size); }

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  if (!is_ours(fd)) return NEXT(fallocate64)(fd, mode, offset, size);
  int log = begin(), error = injected();
  bool growing = grows(fd, offset + size);
  int result = error ? fail(error) : NEXT(fallocate64)(fd, mode, offset, size);
  if (result == 0 && (mode || growing))
    append_file(log, mode ? OP_OTHER : OP_TRUNCATE, fd, (uint64_t)(offset + size));
  end(log);
  return result;
}
EXPORT int fallocate(int fd, int mode, off_t offset, off_t size) {
  return fallocate64(fd, mode, offset, size);
}
EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t size) {
  if (!is_ours(fd)) return NEXT(posix_fallocate64)(fd, offset, size);
  int log = begin(), error = injected();
  bool growing = grows(fd, offset + size);
  int result = error ? (fail(error), error) : NEXT(posix_fallocate64)(fd, offset, size);
  if (result == 0 && growing) append_file(log, OP_TRUNCATE, fd, (uint64_t)(offset + size));
  end(log);
  return result;
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t size) {
  return posix_fallocate64(fd, offset, size);
}

/* ---- Making it durable ---- */

static int sync_file(int fd, int (*next)(int)) {
  struct stat state;
  char resolved[PATH_MAX];
  faults();
  const char *name = name_of(fd, &state, resolved);
  if (!name) return next(fd);
  int log = begin(), error = injected();
  int result = error ? fail(error) : next(fd);
  if (result == 0 && S_ISDIR(state.st_mode))
    append_name(log, OP_SYNC_DIRECTORY, name);
  else if (result == 0)
    append_file(log, OP_SYNC, fd, 0);
  end(log);
  return result;
}

EXPORT int fsync(int fd) { return sync_file(fd, NEXT(fsync)); }
EXPORT int fdatasync(int fd) { return sync_file(fd, NEXT(fdatasync)); }

/* ---- Names ---- */

EXPORT int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  char from_resolved[PATH_MAX], to_resolved[PATH_MAX];
  faults();
  const char *name = name_at(from_at, from, from_resolved);
  const char *other = name_at(to_at, to, to_resolved);
  if (!name && !other) return NEXT(renameat2)(from_at, from, to_at, to, flags);
  int log = begin(), error = injected();
  int result = error ? fail(error) : NEXT(renameat2)(from_at, from, to_at, to, flags);
  if (result == 0) {
    bool known = name && other && !(flags & ~(unsigned)RENAME_NOREPLACE);
    append(log, (struct record){.operation = known ? OP_RENAME : OP_OTHER}, name ? name : "",
           other ? other : "", NULL, 0);
  }
  end(log);
  return result;
}
EXPORT int renameat(int from_at, const char *from, int to_at, const char *to) {
  return renameat2(from_at, from, to_at, to, 0);
}
EXPORT int rename(const char *from, const char *to) {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
  char from_resolved[PATH_MAX], to_resolved[PATH_MAX];
  faults();
  const char *other = name_at(to_at, to, to_resolved);
  if (!other) return NEXT(linkat)(from_at, from, to_at, to, flags);
  const char *name = name_at(from_at, from, from_resolved);
  int log = begin(), error = injected();
  int result = error ? fail(error) : NEXT(linkat)(from_at, from, to_at, to, flags);
  if (result == 0)
    append(log, (struct record){.operation = name ? OP_LINK : OP_OTHER}, name ? name : "", other,
           NULL, 0);
  end(log);
  return result;
}
EXPORT int link(const char *from, const char *to) {
  return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int unlinkat(int directory, const char *path, int flags) {
  char resolved[PATH_MAX];
  faults();
  const char *name = name_at(directory, path, resolved);
  if (!name) return NEXT(unlinkat)(directory, path, flags);
  int log = begin(), error = injected();
  int result = fails_everything(error) ? fail(error) : NEXT(unlinkat)(directory, path, flags);
  if (result == 0) append_name(log, flags & AT_REMOVEDIR ? OP_RMDIR : OP_UNLINK, name);
  end(log);
  return result;
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

EXPORT int mkdirat(int directory, const char *path, mode_t mode) {
  char resolved[PATH_MAX];
  faults();
  const char *name = name_at(directory, path, resolved);
  if (!name) return NEXT(mkdirat)(directory, path, mode);
  int log = begin(), error = injected();
  int result = error ? fail(error) : NEXT(mkdirat)(directory, path, mode);
  if (result == 0) append_name(log, OP_MKDIR, name);
  end(log);
  return result;
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- The wall clock ---- */

#define SECOND_NS 1000000000

static int64_t offset_ns(void) {
  return atomic_load_explicit(&faults()->realtime_offset_ns, memory_order_relaxed);
}

static bool is_wall_clock(clockid_t clock) {
  return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

static struct timespec moved(struct timespec at, int64_t by_ns) {
  int64_t nanoseconds = at.tv_nsec + by_ns % SECOND_NS;
  int64_t seconds = at.tv_sec + by_ns / SECOND_NS;
  if (nanoseconds < 0) nanoseconds += SECOND_NS, seconds--;
  if (nanoseconds >= SECOND_NS) nanoseconds -= SECOND_NS, seconds++;
  return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)nanoseconds};
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *at) {
  int result = NEXT(clock_gettime)(clock, at);
  if (result == 0 && is_wall_clock(clock)) *at = moved(*at, offset_ns());
  return result;
}

EXPORT int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  int result = NEXT(gettimeofday)(at, zone);
  if (result == 0) {
    struct timespec there = {.tv_sec = at->tv_sec, .tv_nsec = at->tv_usec * 1000};
    there = moved(there, offset_ns());
    *at = (struct timeval){.tv_sec = there.tv_sec, .tv_usec = there.tv_nsec / 1000};
  }
  return result;
}

EXPORT time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}

EXPORT int timespec_get(struct timespec *at, int base) {
  if (base != TIME_UTC) return NEXT(timespec_get)(at, base);
  return clock_gettime(CLOCK_REALTIME, at) == 0 ? base : 0;
}

/* Deadlines on the wall clock go back to the true one. */

EXPORT int clock_nanosleep(clockid_t clock, int flags, const struct timespec *at,
                           struct timespec *left) {
  struct timespec there = *at;
  if (flags & TIMER_ABSTIME && is_wall_clock(clock)) there = moved(there, -offset_ns());
  return NEXT(clock_nanosleep)(clock, flags, &there, left);
}

EXPORT int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict at) {
  struct timespec there = moved(*at, -offset_ns());
  return NEXT(sem_timedwait)(semaphore, &there);
}
