#include "machine.h"

#define DISTURBED_EVERY 4096U
#define DISTURBED_FOR 512U

/* A triangle between -1024 and 1024 with this period. */
static int32_t triangle(uint32_t number, uint32_t period)
{
    int32_t phase = (int32_t)(number % period * 4096U / period);
    return phase < 2048 ? phase - 1024 : 3072 - phase;
}

/* -128 to 127, from all bits of a number (Murmur3's finalizer, A. Appleby). */
static int32_t noise(uint32_t number)
{
    number ^= number >> 16;
    number *= 0x85EBCA6BU;
    number ^= number >> 13;
    number *= 0xC2B2AE35U;
    number ^= number >> 16;
    return (int32_t)(number & 255U) - 128;
}

void machine_sample(uint32_t number, int16_t *values)
{
    int32_t slow = triangle(number, 97U);
    int32_t fast = triangle(number, 13U);
    if (number % DISTURBED_EVERY >= DISTURBED_EVERY - DISTURBED_FOR) {
        fast *= 3;
    }
    values[0] = (int16_t)(slow + noise(3U * number));
    values[1] = (int16_t)(fast + noise(3U * number + 1U));
    values[2] = (int16_t)(slow * fast / 1024 + noise(3U * number + 2U));
}
