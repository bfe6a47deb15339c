/* fuzz_auth.c: a token file, and the Authorization field of a request, which is the first line of the input. What is
 * taken of a file must be taken again, and nobody has a right without a name. */
#include "base/own.h"
#include "controller/auth.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

static void check(int claim)
{
    if (!claim)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const uint8_t *end = memchr(data, '\n', len);
    size_t field_len = end ? (size_t)(end - data) : len, rest = end ? len - field_len - 1 : 0;
    own_free char *field = strndup((const char *)data, field_len);
    own_fd int fd = memfd_create("tokens", MFD_CLOEXEC);
    char path[64];
    struct auth *auth;
    struct auth_who who;
    struct err err;
    check(field && fd >= 0 && (!rest || write(fd, end + 1, rest) == (ssize_t)rest));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (auth_open(path, &auth, &err) < 0) {
        check(err.code && *err.text);
        return 0;
    }
    check(auth_check(auth, NULL, &who, &err) == -EACCES);
    int rc = auth_check(auth, field, &who, &err);
    check(rc == 0 ? *who.name && who.right >= RIGHT_READ : !*who.name && who.right == RIGHT_NONE);
    check(auth_reload(auth, &err) == 0 && auth_check(auth, field, &who, &err) == rc);
    auth_close(auth);
    return 0;
}
