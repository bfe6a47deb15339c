/* disk_model.h: disks beside flat files that they must read as, for the tests of src/disk. What fails fails the test it
 * is called from. */
#ifndef TESTS_UNIT_DISK_MODEL_H
#define TESTS_UNIT_DISK_MODEL_H

#include "disk/disk.h"

#include <stdbool.h>
#include <stdint.h>

enum { BLOCKS = 300, BYTES = BLOCKS * DISK_BLOCK, BASE_BYTES = 200 * DISK_BLOCK + 1536, SECTOR = 512 };

/* Of everything that is random here. */
extern uint32_t seed;
uint32_t dice(uint32_t sides);

/* The base image, for a whole group of tests: base_check() finds it as it was made, for nobody wrote to it. */
int base_make(void **state);
int base_check(void **state);
int base_open(int flags);
uint8_t base_byte(uint32_t at);

int layer_new(void);
int duplicate_read_only(int fd);

/* A disk and what it should read as. */
struct pair {
    struct disk disk;
    uint8_t *flat;
    bool written[BLOCKS]; /* in this life */
};

struct pair *pair_new(void);
void pair_free(struct pair *p);
/* Saves and freezes, and gives the fork that a branch would have at this instant. */
struct pair *pair_fork(struct pair *p);
void disk_fork(struct disk *disk, struct disk *child);

void random_write(struct pair *p, uint32_t at, uint32_t len);
void random_request(struct pair *p);
void assert_reads_as(struct pair *p, uint32_t at, uint32_t len);
/* The whole of it, for a child of the test that cannot fail it. */
bool reads_well(struct pair *p);

/* Runs a body in a child: 0 passed, 77 cannot be done here. */
void assert_child_passes(int (*body)(void));
/* In such a child: a filesystem of a size ("size=64k") on a fresh directory, whose name is made from a template. */
bool small_filesystem(char *dir, const char *size);

#endif
