/* ESP32: a data partition named "journeyman" of at least JM_FLASH_BYTES (264 KiB), in sectors of
 * 4 KiB. Units of 32 bytes are right with flash encryption too. */
#ifndef JM_CONFIG_H
#define JM_CONFIG_H

#define JM_FLASH_UNIT 32
#define JM_SECTOR_BYTES 4096
#define JM_SLOT_BYTES (128U * 1024U)
#define JM_WINDOW 4 /* what RING_BYTES of port_esp32.c holds */

#endif
