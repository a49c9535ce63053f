#include "jm_cobs.h"

#define FULL_BLOCK 255 /* 254 bytes follow, and no zero after them */

size_t jm_cobs_encode(uint8_t *out, const uint8_t *in, size_t count)
{
    uint8_t *const start = out;
    uint8_t *code_at = out++;
    uint8_t code = 1;

    while (count-- != 0) {
        uint8_t byte = *in++;

        if (byte != 0) {
            *out++ = byte;
            code++;
        }
        /* A full last block needs no empty block behind it. */
        if (byte == 0 || (code == FULL_BLOCK && count != 0)) {
            *code_at = code;
            code_at = out++;
            code = 1;
        }
    }
    *code_at = code;
    return (size_t)(out - start);
}
