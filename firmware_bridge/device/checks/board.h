/* What the check programs need of a machine: bytes in and out, and a count of instructions. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

void board_start(void);

/* Takes exactly `size` bytes, waiting for them. */
void board_take(uint8_t *to, size_t size);
void board_give(const uint8_t *from, size_t size);

/* A running count of instructions, modulo 2^32; 0 where the machine has none. */
uint32_t board_instructions(void);

#endif
