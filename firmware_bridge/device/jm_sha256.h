/* SHA-256 (FIPS 180-4) of bytes that a function reads, 64 at a time. */
#ifndef JM_SHA256_H
#define JM_SHA256_H

#include <stdint.h>

typedef void jm_reader(uint32_t address, uint8_t *to, uint32_t count);

/* Hash the `size` bytes that `read` gives from `address` on; `size` below 2^29. */
void jm_sha256(uint8_t digest[32], jm_reader *read, uint32_t address, uint32_t size);

#endif
