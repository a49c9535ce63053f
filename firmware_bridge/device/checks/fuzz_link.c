/* Any bytes, frames, power cuts and resets, against decoder, link and slots.
 *
 * An input is a list of steps: a byte that says which, and its arguments. What must hold is
 * checked by abort(): no rule of the flash is broken, and the active model is whole whenever the
 * device has started. For libFuzzer, and for many_link.c.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../host/host.h"
#include "../jm_sha256.h"
#include "../jm_slots.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The rest of the input. */
struct input {
    const uint8_t *at;
    const uint8_t *end;
};

/* What is uploaded. */
struct content {
    uint8_t bytes[JM_SLOT_BYTES];
    uint32_t size;
    uint8_t digest[32];
};

static uint8_t memory[JM_FLASH_BYTES * 2];
static uint8_t identity[16];
static struct content contents[2];
static uint8_t address; /* of the device */
static int has_decayed; /* a bit of flash: then a programmed unit can look like an erased one */

static uint8_t next(struct input *input)
{
    return input->at == input->end ? 0 : *input->at++;
}

static uint32_t next32(struct input *input)
{
    uint32_t value = next(input);

    value |= (uint32_t)next(input) << 8;
    value |= (uint32_t)next(input) << 16;
    return value | (uint32_t)next(input) << 24;
}

static void read_memory(uint32_t from, uint8_t *to, uint32_t count)
{
    memcpy(to, memory + from, count);
}

static const uint8_t *hashed;

static void read_hashed(uint32_t from, uint8_t *to, uint32_t count)
{
    memcpy(to, hashed + from, count);
}

/* Of a pattern with zeros and ones in it, behind a header that agrees with the size. */
static void make_content(struct content *content, uint8_t kind)
{
    uint32_t body = kind * 2U;

    content->size = 16 + body;
    for (uint32_t i = 0; i < content->size; i++) {
        content->bytes[i] = (uint8_t)(kind & 1 ? 0xFF - i / 32 : i * 7);
    }
    memset(content->bytes, 0, 16);
    content->bytes[0] = (uint8_t)(body & 0xF0);
    content->bytes[1] = (uint8_t)(body >> 8);
    content->bytes[4] = (uint8_t)(body & 0x0F);
    content->bytes[6] = 1; /* vectors of one input and no output */
    hashed = content->bytes;
    jm_sha256(content->digest, read_hashed, 0, content->size);
}

/* Send a request whose payload is `size` bytes. */
static void ask(struct host *host, uint8_t type, const uint8_t *payload, size_t size)
{
    uint8_t frame[JM_MAX_ENCODED + 1];

    (void)host_receive(host, frame, host_encode(type, address, 1, payload, size, frame), 0);
}

static void put32(uint8_t *to, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        to[i] = (uint8_t)(value >> 8 * i);
    }
}

static void ask_to_write(struct host *host, const struct content *content, uint32_t at,
                         uint32_t most)
{
    uint8_t payload[JM_LARGEST];
    uint32_t left = content->size - at;
    uint32_t count = left < most ? left : most;

    put32(payload, at);
    memcpy(payload + 4, content->bytes + at, count);
    ask(host, 0x45, payload, 4 + count);
}

/* A number and the SHA-256 of a content: BEGIN and ACTIVATE. */
static void ask_about(struct host *host, uint8_t type, uint32_t value,
                      const struct content *content)
{
    uint8_t payload[36];

    put32(payload, value);
    memcpy(payload + 4, content->digest, sizeof content->digest);
    ask(host, type, payload, sizeof payload);
}

/* One request of the right size, with arguments that make sense. */
static void ask_well(struct host *host, struct input *input)
{
    static const uint8_t sizes[] = {2, 8, 2, 0, 0, 0, 0, 0, 0, 32, 32, 4};
    const struct content *content = &contents[next(input) % 2];
    uint8_t payload[8] = {1, 1};
    uint8_t request = next(input) % sizeof sizes;
    uint8_t type = (uint8_t)(0x40 + request);

    switch (type) {
    case 0x42: /* POLL */
        payload[1] = next(input) % 4;
        ask(host, type, payload, 2);
        break;
    case 0x44: /* BEGIN */
        ask_about(host, type, content->size, content);
        break;
    case 0x45: /* WRITE */
        ask_to_write(host, content, next(input) * 32U % content->size,
                     (1U + next(input) % 15U) * 32U);
        break;
    case 0x48: /* ACTIVATE */
        ask_about(host, type, next(input), content);
        break;
    case 0x49: /* CONFIRM */
    case 0x4A: /* ROLLBACK */
        ask(host, type, content->digest, sizeof content->digest);
        break;
    case 0x4B: /* RESET */
        payload[1] = 0;
        ask(host, type, payload, 4);
        break;
    default:
        ask(host, type, payload, sizes[request]);
        break;
    }
}

/* Upload, test, activate and, one time in two, confirm; what is in the way is answered. */
static void install(struct host *host, struct input *input)
{
    static const uint8_t connect[] = {1, 1};
    uint8_t how = next(input);
    const struct content *content = &contents[how % 2];

    ask(host, 0x40, connect, sizeof connect);
    ask_about(host, 0x44, content->size, content);
    for (uint32_t at = 0; at < content->size; at += 96) {
        ask_to_write(host, content, at, 96);
    }
    ask(host, 0x47, connect, 0);
    ask_about(host, 0x48, 1U + how, content);
    if ((how & 4) != 0) {
        ask(host, 0x49, content->digest, sizeof content->digest);
    }
}

/* Any request with any payload. */
static void ask_anything(struct host *host, struct input *input)
{
    uint8_t payload[256];
    uint8_t type = next(input);
    size_t size = next(input);

    for (size_t i = 0; i < size; i++) {
        payload[i] = next(input);
    }
    ask(host, type, payload, size);
}

static void send_bytes(struct host *host, struct input *input)
{
    size_t left = (size_t)(input->end - input->at);
    size_t size = next(input);

    left = left == 0 ? 0 : left - 1;
    size = size < left ? size : left;
    (void)host_receive(host, input->at, size, 0);
    input->at += size;
}

static void send_samples(struct host *host, struct input *input)
{
    static const uint8_t values[2 * 255 * 255];
    struct jm_rows rows = {0, JM_I16, 1, 1, 0, 1, values};

    rows.channels = next(input);
    rows.count = next(input);
    (void)host_sensor(host, &rows);
    (void)host_score(host, &rows);
    (void)host_log(host, "text");
}

/* The model that the firmware was told to run is one that was uploaded, and whole. */
static void check_model(const struct host *host)
{
    uint8_t found[32];
    uint32_t size;
    uint32_t at = host_model(host, &size);

    if (at == ~0U) {
        return;
    }
    if (size > JM_SLOT_BYTES) {
        abort();
    }
    jm_sha256(found, read_memory, at, size);
    if (memcmp(found, contents[0].digest, sizeof found) != 0 &&
        memcmp(found, contents[1].digest, sizeof found) != 0) {
        abort();
    }
}

/* A bit of flash decays; the device finds out at its next start. */
static void decay(struct host *host, struct input *input)
{
    uint32_t at = next32(input) % JM_FLASH_BYTES;

    has_decayed = 1;
    memory[at] ^= (uint8_t)(1U << next(input) % 8);
    (void)host_boot(host, 2);
}

static void step(struct host *host, struct input *input, uint64_t *now_us)
{
    enum host_end end;

    switch (next(input) % 12) {
    case 0:
        send_bytes(host, input);
        break;
    case 1:
        ask_anything(host, input);
        break;
    case 2:
        host_cut_at(host, 1 + next32(input) % 300, next(input));
        break;
    case 3:
        *now_us += next32(input) % 300000000U;
        host_set_time(host, *now_us);
        break;
    case 4:
        send_samples(host, input);
        break;
    case 5:
    case 6:
        install(host, input);
        break;
    case 7:
        (void)host_boot(host, next(input));
        break;
    case 8:
        decay(host, input);
        break;
    case 9:
        host_set_self_test(host, next(input) % 8 == 0 ? JM_VECTOR_DIFFERS : JM_FINE);
        host_wear_out(host, next32(input) % JM_FLASH_BYTES, next(input) % 8 == 0 ? 600 : 0);
        break;
    default:
        ask_well(host, input);
        break;
    }
    end = host_run(host);
    for (unsigned i = 0; end != HOST_RUNS && i < 3; i++) {
        end = host_boot(host, i);
    }
    if (end == HOST_RUNS) {
        check_model(host);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct host *host;
    static uint8_t sent[JM_HOST_LINE_BYTES];
    struct input input = {data, data + size};
    uint64_t now_us = 0;

    make_content(&contents[0], next(&input));
    make_content(&contents[1], next(&input));
    address = next(&input) % 4 == 1 ? 9 : 0;
    if (host_memory_bytes() > sizeof memory) {
        abort();
    }
    has_decayed = 0;
    host_erase_memory(memory);
    host_free(host);
    host = host_new(memory, address, identity);
    if (host == NULL) {
        abort();
    }
    (void)host_boot(host, 1);
    while (input.at != input.end) {
        step(host, &input, &now_us);
        (void)host_take(host, sent, sizeof sent);
    }
    if (!has_decayed && host_violations(host) != 0) {
        abort();
    }
    return 0;
}
