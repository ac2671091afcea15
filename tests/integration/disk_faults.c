/* Preloaded into a test: makes the calls by which sqlite changes files fail, or kills at one.
 * Armed by the test itself through `faults_arm` (found with dlsym on the running process). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

static int error_code;  /* what the calls fail with; 0: the process is killed before the call */
static long from_call;  /* the first call that this happens to, counted from 1; 0: none */
static long calls;

void faults_arm(int code, long from) {
    error_code = code;
    from_call = from;
    calls = 0;
}

long faults_calls(void) { return calls; }

static int fails(void) {
    calls++;
    if (!from_call || calls < from_call) return 0;
    if (!error_code) kill(getpid(), SIGKILL);
    errno = error_code;
    return 1;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void *buffer, size_t size, off_t at) {
    return fails() ? -1 : REAL(pwrite)(fd, buffer, size, at);
}
ssize_t pwrite64(int fd, const void *buffer, size_t size, off64_t at) {
    return fails() ? -1 : REAL(pwrite64)(fd, buffer, size, at);
}
int fsync(int fd) { return fails() ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fails() ? -1 : REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { return fails() ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return fails() ? -1 : REAL(ftruncate64)(fd, size); }
int unlink(const char *path) { return fails() ? -1 : REAL(unlink)(path); }
