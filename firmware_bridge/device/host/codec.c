/* The frame codec by itself, to be compared with the gateway's. */
#include <string.h>

#include "../jm_bytes.h"
#include "../jm_frame.h"
#include "host.h"

size_t host_decode(const uint8_t *bytes, size_t count, uint8_t *to, size_t room)
{
    static struct jm_decoder decoder;
    size_t used = 0;

    memset(&decoder, 0, sizeof decoder);
    for (size_t i = 0; i < count; i++) {
        unsigned event = jm_decode(&decoder, bytes[i]);
        size_t body = 0;

        if (event == JM_PENDING) {
            continue;
        }
        if (event == JM_FRAME) {
            body = (size_t)JM_HEADER_BYTES + jm_get16(decoder.body + 5);
        }
        if (1 + body > room - used) {
            break;
        }
        to[used++] = (uint8_t)event;
        memcpy(to + used, decoder.body, body);
        used += body;
    }
    return used;
}

size_t host_encode(uint8_t type, uint8_t address, uint16_t sequence, const uint8_t *payload,
                   size_t count, uint8_t *to)
{
    memcpy(to + JM_PAYLOAD_AT, payload, count);
    return jm_encode(to, type, address, sequence, count);
}
