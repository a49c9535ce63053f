/* Little-endian numbers in byte buffers, at any alignment and on any machine. */
#ifndef JM_BYTES_H
#define JM_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t jm_get16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

static inline uint32_t jm_get32(const uint8_t *from)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint32_t value;

    memcpy(&value, from, sizeof value); /* one load, where the processor can */
    return value;
#else
    return jm_get16(from) | (uint32_t)jm_get16(from + 2) << 16;
#endif
}

/* Write the low `count` bytes of a number; return where they end. */
uint8_t *jm_put(uint8_t *to, uint32_t value, unsigned count);

#endif
