/* Consistent Overhead Byte Stuffing (Cheshire and Baker, IEEE/ACM ToN 7(2), 1999). */
#ifndef JM_COBS_H
#define JM_COBS_H

#include <stddef.h>
#include <stdint.h>

/* Encode `count` bytes without the byte 0; return the bytes written, at most count + 1 +
 * count / 254. `out` may be `in` minus that many bytes or more before it: encoding in place. */
size_t jm_cobs_encode(uint8_t *out, const uint8_t *in, size_t count);

#endif
