/* crc.h: CRC-32C (Castagnoli), as iSCSI, ext4 and SSE4.2's crc32 instruction have it. */
#ifndef FORKD_BASE_CRC_H
#define FORKD_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Of the bytes alone when `crc` is 0, else continued from a former call's value. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

#endif
