/* STM32L476: 1 MB of flash in two banks; the program in the first, this in the second, so that it
 * runs on while the second is erased. Pages of 2 KiB, double words of 8 bytes with ECC. */
#ifndef JM_CONFIG_H
#define JM_CONFIG_H

#define JM_FLASH_UNIT 8
#define JM_SECTOR_BYTES 2048
#define JM_SLOT_BYTES (128U * 1024U)
#define JM_WINDOW 4 /* what JM_RING_BYTES of port_stm32.c holds */

#endif
