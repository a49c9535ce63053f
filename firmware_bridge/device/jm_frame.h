/* Frames: where a message begins and ends, and whether it arrived whole (FRAMING.md). */
#ifndef JM_FRAME_H
#define JM_FRAME_H

#include "journeyman.h"

#define JM_FRAMING_VERSION 1

/* CRC-32 of IEEE 802.3 and zlib. */
uint32_t jm_crc32(const uint8_t *bytes, size_t count);

/* What jm_decode() found: JM_PENDING, JM_FRAME, or JM_FAILED + an enum jm_error. */
enum { JM_PENDING, JM_FRAME, JM_FAILED };

/* Take one byte of the line. After JM_FRAME the frame is in `body`, header first, until the next
 * call. All zeros is a decoder at rest. */
unsigned jm_decode(struct jm_decoder *decoder, uint8_t byte);

/* Where in `frame` (JM_MAX_ENCODED + 1 bytes) the payload of a frame to be sent belongs. */
#define JM_PAYLOAD_AT (JM_COBS_BYTES + JM_HEADER_BYTES)

/* Put header, CRC and COBS around the payload that lies at JM_PAYLOAD_AT; return the bytes to
 * send, which begin at frame[0] and end with the delimiter. */
size_t jm_encode(uint8_t *frame, uint8_t type, uint8_t address, uint16_t sequence, size_t count);

#endif
