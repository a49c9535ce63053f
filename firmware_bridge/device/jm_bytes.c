#include "jm_bytes.h"

uint8_t *jm_put(uint8_t *to, uint32_t value, unsigned count)
{
    while (count-- != 0) {
        *to++ = (uint8_t)value;
        value >>= 8;
    }
    return to;
}
