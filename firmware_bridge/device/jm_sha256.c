#include "jm_sha256.h"

#include <string.h>

#define ROUNDS 64U

/* FIPS 180-4, 4.2.2: the first 32 bits of the fractional parts of cube roots of primes. */
static const uint32_t round_constants[ROUNDS] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* FIPS 180-4, 5.3.3. */
static const uint32_t initial_hash[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static uint32_t turn(uint32_t word, unsigned bits)
{
    return word >> bits | word << (32 - bits);
}

static uint32_t get_big_endian(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void put_big_endian(uint8_t *to, uint32_t word)
{
    to[0] = (uint8_t)(word >> 24);
    to[1] = (uint8_t)(word >> 16);
    to[2] = (uint8_t)(word >> 8);
    to[3] = (uint8_t)word;
}

/* FIPS 180-4, 6.2.2. `v` are the eight variables a to h; instead of moving them on in each round,
 * the array grows downwards. */
static void compress(uint32_t hash[8], const uint8_t *block)
{
    uint32_t words[ROUNDS];
    uint32_t variables[ROUNDS + 8];
    uint32_t *v = variables + ROUNDS;

    memcpy(v, hash, 8 * sizeof *v);
    for (unsigned t = 0; t < ROUNDS; t++) {
        uint32_t *w = words + t;
        uint32_t sum;

        if (t < 16) {
            *w = get_big_endian(block + 4 * t);
        } else {
            uint32_t w15 = w[-15];
            uint32_t w2 = w[-2];

            *w = w[-16] + w[-7] + (turn(w15, 7) ^ turn(w15, 18) ^ w15 >> 3) +
                 (turn(w2, 17) ^ turn(w2, 19) ^ w2 >> 10);
        }
        v--;
        sum = v[8] + (turn(v[5], 6) ^ turn(v[5], 11) ^ turn(v[5], 25)) +
              (v[7] ^ (v[5] & (v[6] ^ v[7]))) + round_constants[t] + *w;
        v[4] += sum;
        v[0] = sum + (turn(v[1], 2) ^ turn(v[1], 13) ^ turn(v[1], 22)) +
               ((v[1] & v[2]) | (v[3] & (v[1] | v[2])));
    }
    for (unsigned i = 0; i < 8; i++) {
        hash[i] += v[i];
    }
}

void jm_sha256(uint8_t digest[32], jm_reader *read, uint32_t address, uint32_t size)
{
    uint32_t hash[8];
    uint8_t block[64];
    uint32_t at = 0;

    memcpy(hash, initial_hash, sizeof hash);
    /* The message, the byte 0x80, zeros, and its size in bits in the last 8 bytes of a block. */
    for (; at <= size + 8; at += (uint32_t)sizeof block) {
        uint32_t count = at < size ? size - at : 0;

        memset(block, 0, sizeof block);
        if (count >= sizeof block) {
            count = sizeof block;
        } else {
            if (at <= size) {
                block[count] = 0x80;
            }
            if (at + sizeof block > size + 8) {
                put_big_endian(block + 60, size << 3); /* the upper half is 0 */
            }
        }
        read(address + at, block, count);
        compress(hash, block);
    }
    for (unsigned i = 0; i < 8; i++) {
        put_big_endian(digest + 4 * i, hash[i]);
    }
}
