/* replay.c: replay-NAME DIRECTORY: gives a fuzz target every file of a directory, once. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* In memory of its own, that its end is the end of what may be read. */
static int replay(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) < 0)
        return -1;
    long len = ftell(file);
    rewind(file);
    uint8_t *data = len >= 0 ? malloc((size_t)len + !len) : NULL;
    int rc = data && fread(data, 1, (size_t)len, file) == (size_t)len ? 0 : -1;
    if (rc == 0)
        LLVMFuzzerTestOneInput(data, (size_t)len);
    free(data);
    fclose(file);
    return rc;
}

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    unsigned count = 0;
    char path[4096];
    if (!dir) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    for (const struct dirent *e; (e = readdir(dir));) {
        if (*e->d_name == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        if (replay(path) < 0) {
            perror(path);
            return 1;
        }
        count++;
    }
    closedir(dir);
    printf("%u inputs\n", count);
    return count ? 0 : 1;
}
