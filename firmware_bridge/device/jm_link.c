/* The device's side of the requests of FRAMING.md: each frame that comes is answered or ignored,
 * and nothing about it is remembered, so that every request can be repeated. */

#include "journeyman.h"

#include <string.h>

#include "jm_bytes.h"
#include "jm_frame.h"
#include "jm_slots.h"

#define FROM_DEVICE 0x80U
#define BROADCAST 0x7FU

#define HELLO 0x01U
#define SENSOR 0x02U
#define LOG 0x03U
#define SCORE 0x04U
#define FIRST_REQUEST 0x40U
#define FIRST_ANSWER 0x60U
#define ANSWER 0x20U /* added to the type of the request */
#define FIRST_APPLICATION 0xC0U

#define FLAG_SLOTS 1U
#define FLAG_POLLED 2U

enum request {
    CONNECT,
    TIME,
    POLL,
    SLOTS,
    BEGIN,
    WRITE,
    VERIFY,
    TEST,
    ACTIVATE,
    CONFIRM,
    ROLLBACK,
    RESET,
    REQUESTS
};

#define ANY_SIZE 0xFF

static const uint8_t request_bytes[REQUESTS] = {2, 8, 2, 0, 36, ANY_SIZE, 0, 0, 36, 32, 32, 4};

static void begin(struct jm_device *device)
{
    device->end = device->frame + JM_PAYLOAD_AT;
}

/* Append to the payload that is being built. */
static void add(struct jm_device *device, uint32_t value, unsigned count)
{
    device->end = jm_put(device->end, value, count);
}

static void add64(struct jm_device *device, uint64_t value)
{
    add(device, (uint32_t)value, 4);
    add(device, (uint32_t)(value >> 32), 4);
}

static void add_bytes(struct jm_device *device, const void *bytes, size_t count)
{
    memcpy(device->end, bytes, count);
    device->end += count;
}

/* Make a frame of the payload that was built; return its size on the line. */
static size_t encode(struct jm_device *device, unsigned type, uint16_t sequence)
{
    return jm_encode(device->frame, (uint8_t)type,
                     (uint8_t)(device->identity->address | FROM_DEVICE), sequence,
                     (size_t)(device->end - device->frame) - JM_PAYLOAD_AT);
}

/* Number the payload that was built; send it, or keep it until the gateway polls. */
static void emit(struct jm_device *device, unsigned type)
{
    size_t count = encode(device, type, device->sequence++);

    if (device->identity->address == 0) {
        jm_port_send(device->frame, count);
    } else if (count > JM_QUEUE_BYTES - (size_t)device->queue_used) {
        device->dropped++;
    } else {
        memcpy(device->queue + device->queue_used, device->frame, count);
        device->queue_used = (uint16_t)(device->queue_used + count);
    }
}

static unsigned on_connect(struct jm_device *device, const uint8_t *request)
{
    const struct jm_identity *identity = device->identity;

    if (request[0] > JM_FRAMING_VERSION || request[1] < JM_FRAMING_VERSION) {
        return JM_REFUSE(JM_NO_VERSION);
    }
    device->connected = 1;
    add(device, JM_FRAMING_VERSION | JM_WINDOW << 8 | (uint32_t)JM_LARGEST << 16, 4);
    add(device, device->boot, 4);
    add(device, (identity->address != 0 ? FLAG_POLLED : 0) | (JM_SLOTS ? FLAG_SLOTS : 0), 1);
    add_bytes(device, identity->id,
              offsetof(struct jm_identity, firmware) - offsetof(struct jm_identity, id) +
                  strlen(identity->firmware));
    return JM_OK;
}

/* Send the frames of the queue that are together at most `count` bytes long. */
static void on_poll(struct jm_device *device, unsigned count)
{
    if (count > device->queue_used) {
        count = device->queue_used;
    }
    while (count != 0 && device->queue[count - 1] != 0) { /* whole frames only */
        count--;
    }
    if (count != 0) {
        jm_port_send(device->queue, count);
        device->queue_used = (uint16_t)(device->queue_used - count);
        memmove(device->queue, device->queue + count, device->queue_used);
    }
    add(device, device->queue_used, 2);
    add(device, device->dropped, 4);
}

#if JM_SLOTS
static jm_slots_request *const slots_requests[] = {
    jm_slots_begin,    jm_slots_write,   jm_slots_verify,   jm_slots_test,
    jm_slots_activate, jm_slots_confirm, jm_slots_rollback,
};

static void on_slots(struct jm_device *device)
{
    const struct jm_slots *slots = &device->slots;
    const struct jm_content *content = slots->record.content;

    add(device, slots->record.active, 1);
    add(device, slots->left_s, 4);
    for (unsigned i = 0; i < 2; i++, content++) {
        add(device, jm_slots_state(slots, content), 1);
        add_bytes(device, content->begun, 4);
        add(device, jm_slots_received(slots, content), 4);
        add_bytes(device, content->begun + 4, 32);
    }
}

/* BEGIN to ROLLBACK. */
static unsigned on_model(struct jm_device *device, unsigned request, const uint8_t *payload,
                         uint32_t count)
{
    struct jm_slots *slots = &device->slots;
    unsigned status = slots_requests[request - BEGIN](slots, payload, count);
    unsigned slot = slots->record.active;

    if (request <= TEST) {
        slot = slot == 0; /* the other one */
    }
    if (request != WRITE) {
        add(device, slot, 1);
    }
    if (request <= WRITE) {
        add(device, slots->received, 4);
    } else if (request == TEST) { /* the number of golden vectors */
        add_bytes(device, jm_port_flash_map(slots->other_address) + 4, 2);
    }
    return status;
}
#endif

/* Carry out a request, and append what follows an `ok`. */
static unsigned carry_out(struct jm_device *device, unsigned request, const uint8_t *payload,
                          uint32_t count)
{
    if (request != CONNECT && !device->connected) {
        return JM_NOT_CONNECTED;
    }
    if (request >= REQUESTS || (!JM_SLOTS && request >= SLOTS && request < RESET)) {
        return JM_UNKNOWN;
    }
    if (request_bytes[request] != ANY_SIZE && request_bytes[request] != count) {
        return JM_MALFORMED;
    }
    switch (request) {
    case CONNECT:
        return on_connect(device, payload);
    case TIME:
        add_bytes(device, payload, 8);
        add64(device, device->arrived_us);
        add64(device, jm_port_time_us());
        break;
    case POLL:
        on_poll(device, jm_get16(payload));
        break;
    case RESET:
        add(device, device->boot, 4);
        break;
#if JM_SLOTS
    case SLOTS:
        on_slots(device);
        break;
    default:
        return on_model(device, request, payload, count);
#endif
    }
    return JM_OK;
}

static void answer(struct jm_device *device, unsigned type, uint16_t sequence,
                   const uint8_t *payload, uint32_t count)
{
    unsigned request = type - FIRST_REQUEST;
    uint8_t *start = device->frame + JM_PAYLOAD_AT;
    unsigned status;

    device->end = start + 1; /* behind the status */
    status = carry_out(device, request, payload, count);
    start[0] = (uint8_t)status;
    if (start[0] != JM_OK && start[0] != JM_ORDER) {
        device->end = start + 1;
        if (start[0] == JM_REFUSED) {
            add(device, status >> 8, 1);
        }
    }
    jm_port_send(device->frame, encode(device, type + ANSWER, sequence));
    if (status == JM_OK && request == RESET && jm_get32(payload) == device->boot) {
        jm_port_reset();
    }
}

/* A frame came; it is in the decoder. */
static void handle(struct jm_device *device)
{
    const uint8_t *body = device->decoder.body;
    const uint8_t *payload = body + JM_HEADER_BYTES;
    unsigned type = body[1];
    unsigned address = body[2];
    uint16_t count = jm_get16(body + 5);
    int for_me = address == device->identity->address;

    /* What devices say has bit 7 set: neighbors on the bus, or the echo of this one. */
    if (for_me && type >= FIRST_REQUEST && type < FIRST_ANSWER) {
        answer(device, type, jm_get16(body + 3), payload, count);
    } else if ((for_me || address == BROADCAST) && type >= FIRST_APPLICATION) {
        jm_port_application((uint8_t)type, payload, count);
    }
}

void jm_init(struct jm_device *device, const struct jm_identity *identity, uint32_t boot)
{
    memset(device, 0, sizeof *device);
    device->identity = identity;
    device->boot = boot;
#if JM_SLOTS
    jm_slots_init(&device->slots);
#endif
    begin(device);
    add(device, JM_FRAMING_VERSION | JM_FRAMING_VERSION << 8, 2);
    add(device, boot, 4);
    emit(device, HELLO);
}

void jm_receive(struct jm_device *device, const uint8_t *bytes, size_t count, uint64_t arrived_us)
{
    device->arrived_us = arrived_us;
    while (count-- != 0) {
        if (jm_decode(&device->decoder, *bytes++) == JM_FRAME) {
            handle(device);
        }
    }
}

void jm_run(struct jm_device *device)
{
#if JM_SLOTS
    jm_slots_run(&device->slots);
#else
    (void)device;
#endif
}

/* Append rows to the payload that is being built, if they fit, and send it. */
static int send_rows(struct jm_device *device, const struct jm_rows *rows, unsigned type)
{
    static const uint8_t value_bytes[] = {0, 2, 4, 4, 1};
    size_t count = (size_t)value_bytes[rows->format] * rows->channels;

    add_bytes(device, rows, 3); /* stream, format, channels */
#if JM_SLOTS
    if (type == SCORE) {
        add(device, device->slots.left_s != 0, 1);
        add64(device, rows->time_us);
    } else
#endif
    {
        count *= rows->count;
        add(device, rows->count, 1);
        add64(device, rows->time_us);
        add(device, rows->period_us, 4);
    }
    if (count > (size_t)(device->frame + JM_PAYLOAD_AT + JM_LARGEST - device->end)) {
        return 0;
    }
    add_bytes(device, rows->values, count);
    emit(device, type);
    return 1;
}

int jm_sensor(struct jm_device *device, const struct jm_rows *rows)
{
    begin(device);
    return send_rows(device, rows, SENSOR);
}

#if JM_SLOTS
int jm_score(struct jm_device *device, const struct jm_rows *rows)
{
    const struct jm_content *model = device->slots.active;

    if (model == NULL) {
        return 0;
    }
    begin(device);
    add_bytes(device, model->begun + 4, 8);
    return send_rows(device, rows, SCORE);
}
#endif

void jm_log(struct jm_device *device, const char *text)
{
    size_t count = strlen(text);

    begin(device);
    add_bytes(device, text, count < JM_LARGEST ? count : JM_LARGEST);
    emit(device, LOG);
}
