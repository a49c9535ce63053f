#include "jm_frame.h"

#include "jm_bytes.h"
#include "jm_cobs.h"

/* An array of negative size is the C99 way to say no. The longest answer has 88 bytes. */
typedef char largest_is_known[JM_LARGEST >= 96 && JM_LARGEST <= 512 ? 1 : -1];

uint32_t jm_crc32(const uint8_t *bytes, size_t count)
{
    uint32_t crc = 0xFFFFFFFFU;

    while (count-- != 0) {
        crc ^= *bytes++;
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (0xEDB88320U & (0U - (crc & 1U)));
        }
    }
    return ~crc;
}

/* Undo COBS and look at the frame in `body`; JM_ERRORS: it is one. */
static unsigned check(uint8_t *body, size_t count)
{
    const uint8_t *in = body;
    const uint8_t *end = body + count;
    uint8_t *out = body;

    while (in != end) {
        unsigned code = *in++;
        unsigned bytes = code - 1;

        if (bytes > (size_t)(end - in)) {
            return JM_COBS;
        }
        while (bytes-- != 0) {
            *out++ = *in++;
        }
        if (code != 0xFF && in != end) {
            *out++ = 0;
        }
    }
    count = (size_t)(out - body);
    if (count < JM_HEADER_BYTES + JM_CRC_BYTES) {
        return JM_SHORT;
    }
    count -= JM_CRC_BYTES;
    if (jm_crc32(body, count) != jm_get32(body + count)) {
        return JM_CRC;
    }
    if (body[0] != JM_FRAMING_VERSION) {
        return JM_VERSION;
    }
    count -= JM_HEADER_BYTES;
    if (count > JM_LARGEST || count != jm_get16(body + 5)) {
        return JM_LENGTH;
    }
    return JM_ERRORS;
}

unsigned jm_decode(struct jm_decoder *decoder, uint8_t byte)
{
    size_t count = decoder->count;
    unsigned error = JM_OVERSIZE;

    if (byte == 0) {
        decoder->count = 0;
        /* Delimiters in a row are idle fill, or end what was discarded. */
        if (count == 0 || count > JM_MAX_ENCODED) {
            return JM_PENDING;
        }
        error = check(decoder->body, count);
        if (error == JM_ERRORS) {
            return JM_FRAME;
        }
    } else {
        if (count > JM_MAX_ENCODED) {
            return JM_PENDING;
        }
        decoder->count++;
        if (count < JM_MAX_ENCODED) {
            decoder->body[count] = byte;
            return JM_PENDING;
        }
    }
    decoder->errors[error]++;
    return JM_FAILED + error;
}

size_t jm_encode(uint8_t *frame, uint8_t type, uint8_t address, uint16_t sequence, size_t count)
{
    uint8_t *body = frame + JM_COBS_BYTES;
    uint8_t *end = body;

    end = jm_put(end, JM_FRAMING_VERSION, 1);
    end = jm_put(end, type, 1);
    end = jm_put(end, address, 1);
    end = jm_put(end, sequence, 2);
    end = jm_put(end, (uint32_t)count, 2) + count;
    end = jm_put(end, jm_crc32(body, (size_t)(end - body)), 4);
    count = jm_cobs_encode(frame, body, (size_t)(end - body));
    frame[count] = 0;
    return count + 1;
}
