/*
 * Model slots in the board's 16 MiB of PSRAM at 0x21000000, which QEMU keeps over a reset, and
 * over its own end where it is given a file for it (README.md). Behaves like NOR flash: an erase
 * sets a sector to ones, writing only clears bits. A board with flash replaces this file.
 */
#include <string.h>

#include "journeyman.h"
#include "mps2_an385.h"

#define FLASH ((uint8_t *)0x21000000U)
#define FORMATTED ((volatile uint32_t *)0x21FFFFF0U)
#define RESETS ((volatile uint32_t *)0x21FFFFF4U)
#define MARK 0x4A4D4631U

uint32_t flash_start(void)
{
    if (*FORMATTED != MARK) {
        memset(FLASH, 0xFF, JM_FLASH_BYTES);
        *RESETS = 0;
        *FORMATTED = MARK;
    }
    *RESETS = *RESETS + 1U;
    return *RESETS;
}

void jm_port_flash_erase(uint32_t address)
{
    memset(FLASH + address, 0xFF,
           address < JM_SLOT_ADDRESS(0) ? JM_META_BYTES : JM_SECTOR_BYTES);
}

void jm_port_flash_write(uint32_t address, const uint8_t *unit)
{
    uint32_t place;
    for (place = 0; place < JM_FLASH_UNIT; place++) {
        FLASH[address + place] &= unit[place];
    }
}

void jm_port_flash_read(uint32_t address, uint8_t *to, uint32_t count)
{
    memcpy(to, FLASH + address, count);
}

const uint8_t *jm_port_flash_map(uint32_t address)
{
    return FLASH + address;
}
