/* RP2040 with 2 MB of QSPI flash: the last 264 KiB are the library's, in sectors of 4 KiB. */
#ifndef JM_CONFIG_H
#define JM_CONFIG_H

#define JM_FLASH_UNIT 32
#define JM_SECTOR_BYTES 4096
#define JM_SLOT_BYTES (128U * 1024U)
#define JM_WINDOW 2 /* what RING_BYTES of port_rp2040.c holds */

#endif
