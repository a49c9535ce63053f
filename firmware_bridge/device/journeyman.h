/* Journeyman on a microcontroller: all that a firmware needs to include.
 *
 * The library speaks the protocol of FRAMING.md over any serial line, and keeps two model slots
 * in NOR flash. It allocates nothing, waits for nothing, knows no operating system, and uses no
 * more of the C library than <string.h> and <stdint.h>.
 *
 * A firmware gives it the functions jm_port_*() below, and calls from ONE thread (its main loop):
 *
 *     jm_init(&device, &identity, boot);
 *     for (;;) {
 *         jm_receive(&device, bytes, count, arrived_us);   whatever the line gave
 *         jm_run(&device);                                 at least once a second
 *         jm_sensor(&device, ...);                         when samples are there
 *     }
 *
 * Nothing here may be called from an interrupt; interrupts fill the buffer that the main loop
 * hands to jm_receive(). Invariant: at any moment, a reset in the middle of a flash operation
 * included, the active model is one whose SHA-256 was right when the device last started or
 * changed it, or there is none.
 */
#ifndef JOURNEYMAN_H
#define JOURNEYMAN_H

#include <stddef.h>
#include <stdint.h>

/* Settings: macros, given by -D or in a header named by -DJM_CONFIG='"my_config.h"'. */
#ifdef JM_CONFIG
#include JM_CONFIG
#endif

#ifndef JM_LARGEST /* longest payload that is taken or sent: 96 to 512 bytes */
#define JM_LARGEST 512
#endif
#ifndef JM_WINDOW /* requests that the port can hold while one is carried out: 1 to 16 */
#define JM_WINDOW 4
#endif
#ifndef JM_QUEUE_BYTES /* frames that an addressed device keeps until it is polled, as on the line */
#define JM_QUEUE_BYTES 1024
#endif
#ifndef JM_SLOTS /* 0: no model slots, and no jm_port_flash_*() needed */
#define JM_SLOTS 1
#endif
#ifndef JM_FLASH_UNIT /* bytes that the flash programs at once, each once per erase: 4, 8, 16, 32 */
#define JM_FLASH_UNIT 8
#endif
#ifndef JM_SECTOR_BYTES /* what one erase clears in the slots; a power of two */
#define JM_SECTOR_BYTES 2048
#endif
#ifndef JM_META_BYTES /* the same in the two sectors of the records; a power of two, 256 or more */
#define JM_META_BYTES JM_SECTOR_BYTES
#endif
#ifndef JM_SLOT_BYTES /* of one slot; a multiple of JM_SECTOR_BYTES */
#define JM_SLOT_BYTES 65536
#endif

/* Flash addresses, as the port is given them: records, slot A, slot B, without a hole. */
#define JM_META_ADDRESS 0U
#define JM_SLOT_ADDRESS(slot) (2U * JM_META_BYTES + (uint32_t)(slot) * JM_SLOT_BYTES)
#define JM_FLASH_BYTES JM_SLOT_ADDRESS(2)

#define JM_HEADER_BYTES 7
#define JM_CRC_BYTES 4
#define JM_BODY_BYTES (JM_HEADER_BYTES + JM_LARGEST + JM_CRC_BYTES)
#define JM_COBS_BYTES ((JM_BODY_BYTES + 253) / 254)
#define JM_MAX_ENCODED (JM_BODY_BYTES + JM_COBS_BYTES) /* before the delimiter; 526 */

#define JM_NO_SLOT 0xFFU

/* Formats of values (FRAMING.md, 'Messages'). Values are little endian, also on other machines. */
enum jm_format { JM_I16 = 1, JM_I32 = 2, JM_F32 = 3, JM_I8 = 4 };

/* Why a model is not taken (FRAMING.md, 'Model slots'); 0 where there is nothing against it. */
enum jm_reason {
    JM_FINE = 0,
    JM_TOO_LARGE = 1,
    JM_NOTHING_BEGUN = 2,
    JM_NOT_ALL_RECEIVED = 3,
    JM_HASH_DIFFERS = 4,
    JM_IMAGE_NOT_VALID = 5,
    JM_ARENA_TOO_SMALL = 6,
    JM_OPERATOR_MISSING = 7,
    JM_VECTOR_DIFFERS = 8,
    JM_NOT_TESTED = 9,
    JM_OTHER_CONTENT = 10,
    JM_NO_OTHER_MODEL = 11,
    JM_NO_VERSION = 12,
    JM_ON_TRIAL_NOW = 13,
    JM_ACTIVE_NOW = 14
};

/* A number as it goes on the line, for the initializer of struct jm_identity. */
#define JM_LE32(value)                                                                             \
    {                                                                                              \
        (uint8_t)(value), (uint8_t)((value) >> 8), (uint8_t)((value) >> 16),                       \
            (uint8_t)((value) >> 24)                                                               \
    }

/* What a device says of itself, as it goes on the line; constant, it may lie in flash. */
struct jm_identity {
    uint8_t address;        /* 0: alone on its line; 1 to 126: on RS-485, speaks only when polled */
    uint8_t id[16];         /* never changes: the chip's serial number */
    uint8_t slot_bytes[4];  /* JM_LE32(JM_SLOT_BYTES); 0 without slots */
    uint8_t arena_bytes[4]; /* JM_LE32(...): RAM for the activations of a model; 0 without slots */
    uint8_t operators[4];   /* JM_LE32(...): bit n: operator n of MODEL_IMAGE.md */
    char firmware[32];      /* version of the firmware, UTF-8, ended by a zero */
};

/* Why bytes between two delimiters were no frame, in the order in which it is found out. */
enum jm_error { JM_OVERSIZE, JM_COBS, JM_SHORT, JM_CRC, JM_VERSION, JM_LENGTH, JM_ERRORS };

struct jm_decoder {
    uint16_t count; /* bytes since the delimiter; more than JM_MAX_ENCODED: discarding */
    uint16_t errors[JM_ERRORS];
    uint8_t body[JM_MAX_ENCODED];
};

struct jm_content {
    uint8_t begun[36]; /* size u32 and SHA-256, as BEGIN brought them */
    uint8_t state;
    uint8_t reserved[3];
};

/* What must outlive a reset; written as a whole, with a CRC, so that it is there or is not. */
struct jm_record {
    uint32_t counter; /* the highest is the one that holds */
    uint32_t trial_s;
    uint32_t dirty; /* the slot that is filled must be erased from here on; all ones: it is */
    uint8_t active; /* 0, 1 or JM_NO_SLOT */
    uint8_t resets; /* during the trial */
    uint8_t reserved[2];
    struct jm_content content[2];
    uint32_t crc;
};

struct jm_slots {
    struct jm_record record;
    struct jm_content *active; /* NULL: none */
    struct jm_content *other;  /* of the slot that is filled */
    uint32_t other_address;
    uint32_t received; /* bytes in that slot */
    uint32_t position; /* flash address of the newest record */
    uint32_t left_s;   /* of the trial; 0: none */
    uint64_t second_us; /* device time at which left_s is counted down next */
    uint8_t progress;  /* of the other slot, as far as a reset may forget it: an enum jm_state */
};

/* Everything that one device remembers; the firmware owns it, and touches nothing in it. */
struct jm_device {
    const struct jm_identity *identity;
    uint32_t boot;
    uint64_t arrived_us;
    uint8_t *end; /* of the payload being built in `frame` */
    uint32_t dropped;
    uint16_t sequence;
    uint16_t queue_used;
    uint8_t connected;
#if JM_SLOTS
    struct jm_slots slots;
#endif
    struct jm_decoder decoder;
    uint8_t frame[JM_MAX_ENCODED + 1];
    uint8_t queue[JM_QUEUE_BYTES];
};

/* ---- What a firmware calls ---------------------------------------------------------------- */

/* Start after a reset: read the flash, choose the model, greet the gateway. `boot` differs from
 * the last reset's: a counter in a backup register or flash, or a random number. */
void jm_init(struct jm_device *device, const struct jm_identity *identity, uint32_t boot);

/* Take what the line gave; requests in it are carried out and answered before this returns.
 * `arrived_us`: device time at which the last of the bytes came (the clock fit needs it). */
void jm_receive(struct jm_device *device, const uint8_t *bytes, size_t count, uint64_t arrived_us);

/* Count down the trial of a model. Call it in every turn of the main loop. */
void jm_run(struct jm_device *device);

/* Rows of values: `count` rows of `channels` values, of device times time_us, time_us + period_us
 * and so on. `values` lie row by row, little endian. */
struct jm_rows {
    uint8_t stream;
    uint8_t format; /* enum jm_format */
    uint8_t channels;
    uint8_t count;
    uint64_t time_us;
    uint32_t period_us;
    const void *values;
};

/* Send samples. Returns 0 if they do not fit into a frame, else 1. */
int jm_sensor(struct jm_device *device, const struct jm_rows *rows);

/* Send what the active model said of the row of `stream` at `time_us`: its outputs are the
 * channels, of one row. Returns 0 if they do not fit or there is no model, else 1. */
int jm_score(struct jm_device *device, const struct jm_rows *rows);

/* Send text for people, UTF-8; what is over JM_LARGEST bytes is cut off. */
void jm_log(struct jm_device *device, const char *text);

/* ---- What a port gives --------------------------------------------------------------------
 *
 * These are called by the library in the middle of its work: they must not call it. */

/* Microseconds since the reset. Never steps; 64 bits, so that it never wraps. */
uint64_t jm_port_time_us(void);

/* Send bytes; return when `bytes` may be overwritten. On RS-485: drive the bus while they leave. */
void jm_port_send(const uint8_t *bytes, size_t count);

/* Reset the chip, when everything sent has left. May return on a host that only pretends. */
void jm_port_reset(void);

/* A frame of the application (type 0xC0 or more) came; do nothing if there are none. */
void jm_port_application(uint8_t type, const uint8_t *payload, size_t count);

#if JM_SLOTS
/* Clear to 0xFF the sector that begins at `address`. The library reads back what it did. */
void jm_port_flash_erase(uint32_t address);

/* Program JM_FLASH_UNIT bytes at `address`, a multiple of it. They were 0xFF, and were not
 * programmed since the erase. `unit` is aligned like a uint64_t. */
void jm_port_flash_write(uint32_t address, const uint8_t *unit);

/* Copy `count` bytes. Where the flash has error correction and says that a unit is damaged (by a
 * reset while it was programmed), this must return, with anything but the 0xFF of erased flash. */
void jm_port_flash_read(uint32_t address, uint8_t *to, uint32_t count);

/* Where the processor sees the flash byte at `address`; 16-byte aligned for aligned addresses. */
const uint8_t *jm_port_flash_map(uint32_t address);

/* Run the golden vectors of a slot's content; JM_FINE or why not. Its SHA-256 has been checked. */
enum jm_reason jm_port_self_test(const uint8_t *content, uint32_t size);

/* The active model is now this; NULL: there is none. Called by jm_init(), at every change, and
 * when a model is confirmed. */
void jm_port_model(const uint8_t *content, uint32_t size);
#endif

#endif
