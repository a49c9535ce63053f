/* How the slots survive a reset at any moment.
 *
 * Flash erases sectors to ones and programs units of JM_FLASH_UNIT bytes from ones to zeros, each
 * once. A reset in the middle of either leaves anything. So:
 *
 * - What must last is in ONE record with a CRC-32 and a counter; a new record is a new copy in the
 *   next free place of two sectors that are filled in turn. The newest whole one holds. A sector
 *   is erased only when the newest record lies in the other one. A torn record has a wrong CRC,
 *   or is still empty; its place is passed over.
 * - The slot of the active model is never touched. Nor is the other one during a trial.
 * - Before a slot is erased, `dirty` is recorded, and taken back after it: an erase that a reset
 *   interrupted is done again from its beginning.
 * - Content is programmed in order. After a reset the last block that is not all ones is the only
 *   one that may be torn, so the upload goes on there: units that are right already are passed
 *   over, and one that is neither right nor empty costs the erase of its sector. A unit of ones
 *   is never programmed, and needs not be.
 */
#include "jm_slots.h"

#include <string.h>

#include "jm_bytes.h"
#include "jm_frame.h"
#include "jm_sha256.h"

#define CLEAN 0xFFFFFFFFU
#define RECORD_STEP 128U /* one place for a record; a power of two that divides JM_META_BYTES */
#define META_BYTES (2U * JM_META_BYTES)

/* Sizes that the code relies on; an array of negative size is the C99 way to say so. */
typedef char record_fits[sizeof(struct jm_record) <= RECORD_STEP ? 1 : -1];
typedef char unit_is_known[JM_WRITE_MULTIPLE % JM_FLASH_UNIT == 0 ? 1 : -1];
typedef char sectors_are_powers_of_two[(JM_META_BYTES & (JM_META_BYTES - 1)) == 0 &&
                                               (JM_SECTOR_BYTES & (JM_SECTOR_BYTES - 1)) == 0 &&
                                               JM_META_BYTES >= 2 * RECORD_STEP &&
                                               JM_SLOT_BYTES % JM_SECTOR_BYTES == 0
                                           ? 1
                                           : -1];

static int is_ones(const uint8_t *unit)
{
    for (unsigned i = 0; i < JM_FLASH_UNIT; i++) {
        if (unit[i] != 0xFF) {
            return 0;
        }
    }
    return 1;
}

/* Whether `count` bytes of flash, a multiple of the unit, are as an erase leaves them. */
static int is_blank(uint32_t address, uint32_t count)
{
    uint8_t unit[JM_FLASH_UNIT];

    for (; count != 0; count -= JM_FLASH_UNIT) {
        jm_port_flash_read(address, unit, JM_FLASH_UNIT);
        if (!is_ones(unit)) {
            return 0;
        }
        address += JM_FLASH_UNIT;
    }
    return 1;
}

/* Program what is not there yet. Stops with JM_ORDER at a unit that must be erased first, whose
 * address is then *address, and with JM_FLASH where reading back gives something else. */
static unsigned program(uint32_t *address, const uint8_t *bytes, uint32_t count)
{
    uint64_t aligned[(JM_FLASH_UNIT + 7) / 8];
    uint8_t *unit = (uint8_t *)aligned;
    uint8_t found[JM_FLASH_UNIT];

    while (count != 0) {
        uint32_t part = count < JM_FLASH_UNIT ? count : JM_FLASH_UNIT;
        unsigned status = JM_ORDER;

        memset(unit, 0xFF, JM_FLASH_UNIT);
        memcpy(unit, bytes, part);
        for (;;) {
            jm_port_flash_read(*address, found, JM_FLASH_UNIT);
            if (memcmp(unit, found, JM_FLASH_UNIT) == 0) {
                break;
            }
            if (status == JM_FLASH || !is_ones(found)) {
                return status;
            }
            jm_port_flash_write(*address, unit);
            status = JM_FLASH;
        }
        *address += JM_FLASH_UNIT;
        bytes += part;
        count -= part;
    }
    return JM_OK;
}

static uint32_t record_crc(const struct jm_record *record)
{
    return jm_crc32((const uint8_t *)record, offsetof(struct jm_record, crc));
}

/* Find the newest whole record; without one the device is new. */
static void load(struct jm_slots *slots)
{
    struct jm_record record;

    memset(&slots->record, 0, sizeof slots->record);
    slots->record.active = JM_NO_SLOT;
    slots->record.dirty = CLEAN;
    slots->position = META_BYTES - RECORD_STEP; /* the next place is the first */
    for (uint32_t at = 0; at < META_BYTES; at += RECORD_STEP) {
        jm_port_flash_read(at, (uint8_t *)&record, sizeof record);
        if (record.counter > slots->record.counter && record.crc == record_crc(&record)) {
            slots->record = record;
            slots->position = at;
        }
    }
}

static uint32_t size_of(const struct jm_content *content)
{
    return jm_get32(content->begun);
}

static int has_sha256(const struct jm_content *content, const uint8_t *sha256)
{
    return content != NULL && memcmp(content->begun + 4, sha256, 32) == 0;
}

static int is_on_trial(const struct jm_slots *slots)
{
    return slots->active != NULL && slots->active->state == JM_TRIAL;
}

/* Whether a slot's content has the SHA-256 that its record names. */
static int is_whole(const struct jm_content *content, uint32_t address)
{
    uint8_t digest[32];

    jm_sha256(digest, jm_port_flash_read, address, size_of(content));
    return has_sha256(content, digest);
}

/* Follow the record: which slot is which, and how much was received. */
static void settle(struct jm_slots *slots)
{
    unsigned active = slots->record.active;
    unsigned other = active == 0;
    uint32_t at;

    slots->active = active == JM_NO_SLOT ? NULL : &slots->record.content[active];
    slots->other = &slots->record.content[other];
    slots->other_address = JM_SLOT_ADDRESS(other);
    slots->progress = 0;
    at = size_of(slots->other);
    if (slots->other->state == JM_RECEIVING) {
        /* Back to the last block that is not all ones: it may be torn. */
        at = (at - 1) & ~(JM_WRITE_MULTIPLE - 1);
        while (at != 0 && is_blank(slots->other_address + at, JM_WRITE_MULTIPLE)) {
            at -= JM_WRITE_MULTIPLE;
        }
        if (at > slots->record.dirty) {
            at = slots->record.dirty;
        }
    }
    slots->received = at;
}

/* Write the record behind the newest one. */
static unsigned append(struct jm_slots *slots)
{
    uint32_t at = slots->position;
    unsigned erased = 0;

    slots->record.counter++;
    slots->record.crc = record_crc(&slots->record);
    for (;;) {
        uint32_t end;

        at = (at + RECORD_STEP) & (META_BYTES - 1);
        if ((at & (JM_META_BYTES - 1)) == 0) {
            if (erased++ != 0) { /* a round without success: never erase the newest record */
                return JM_FLASH;
            }
            jm_port_flash_erase(at);
        }
        end = at;
        if (is_blank(at, RECORD_STEP) &&
            program(&end, (const uint8_t *)&slots->record, sizeof slots->record) == JM_OK) {
            slots->position = at;
            return JM_OK;
        }
    }
}

/* Record what has been changed. On failure it goes on as after a reset: from what is recorded. */
static unsigned store(struct jm_slots *slots)
{
    unsigned status = append(slots);

    if (status != JM_OK) {
        jm_slots_init(slots);
    }
    return status;
}

/* Follow the record, on trial for so long (0: not), and tell the firmware what it runs now. */
static void follow(struct jm_slots *slots, uint32_t trial_s)
{
    settle(slots);
    slots->left_s = trial_s;
    slots->second_us = jm_port_time_us() + 1000000U;
    if (slots->active == NULL) {
        jm_port_model(NULL, 0);
    } else {
        jm_port_model(jm_port_flash_map(JM_SLOT_ADDRESS(slots->record.active)),
                      size_of(slots->active));
    }
}

/* Record another choice of the active model, and follow it. */
static unsigned choose(struct jm_slots *slots, uint32_t trial_s)
{
    unsigned status = store(slots);

    if (status == JM_OK) {
        follow(slots, trial_s);
    }
    return status;
}

/* Leave the active model for good, for the confirmed one if that is whole, else for none; also if
 * that cannot be recorded any more. */
static unsigned leave(struct jm_slots *slots)
{
    struct jm_record *record = &slots->record;
    unsigned status;

    slots->active->state = JM_REJECTED;
    record->active = JM_NO_SLOT;
    if (slots->other->state == JM_CONFIRMED) {
        if (is_whole(slots->other, slots->other_address)) {
            record->active = (uint8_t)(slots->other - record->content);
        } else {
            slots->other->state = JM_REJECTED;
        }
    }
    status = append(slots);
    follow(slots, 0);
    return status;
}

void jm_slots_init(struct jm_slots *slots)
{
    int failed = 0;

    load(slots);
    settle(slots);
    slots->left_s = 0;
    if (is_on_trial(slots)) {
        slots->left_s = slots->record.trial_s;
        failed = ++slots->record.resets == 2;
    }
    if (slots->active != NULL &&
        (failed || !is_whole(slots->active, JM_SLOT_ADDRESS(slots->record.active)))) {
        (void)leave(slots);
        return;
    }
    if (slots->left_s != 0) {
        (void)append(slots);
    }
    follow(slots, slots->left_s);
}

void jm_slots_run(struct jm_slots *slots)
{
    while (slots->left_s != 0 && jm_port_time_us() >= slots->second_us) {
        slots->second_us += 1000000U;
        if (--slots->left_s == 0) {
            (void)leave(slots);
        }
    }
}

unsigned jm_slots_state(const struct jm_slots *slots, const struct jm_content *content)
{
    if (content == slots->other) {
        if (slots->progress != 0) {
            return slots->progress;
        }
        if (content->state == JM_RECEIVING && slots->received == size_of(content)) {
            return JM_RECEIVED;
        }
    }
    return content->state;
}

uint32_t jm_slots_received(const struct jm_slots *slots, const struct jm_content *content)
{
    return content == slots->other ? slots->received : size_of(content);
}

/* Erase what is recorded as dirty. */
static unsigned clean(struct jm_slots *slots)
{
    uint32_t at = slots->record.dirty;

    if (at == CLEAN) {
        return JM_OK;
    }
    for (; at < size_of(slots->other); at += JM_SECTOR_BYTES) {
        jm_port_flash_erase(slots->other_address + at);
        if (!is_blank(slots->other_address + at, JM_SECTOR_BYTES)) {
            return JM_FLASH;
        }
    }
    slots->record.dirty = CLEAN;
    return store(slots);
}

unsigned jm_slots_begin(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    struct jm_content *other = slots->other;
    unsigned state = jm_slots_state(slots, other);
    unsigned status = JM_OK;

    (void)count;
    if (has_sha256(slots->active, payload + 4)) {
        return JM_REFUSE(JM_ACTIVE_NOW);
    }
    if (is_on_trial(slots)) {
        return JM_REFUSE(JM_ON_TRIAL_NOW);
    }
    if (jm_get32(payload) - 1 >= JM_SLOT_BYTES) {
        return JM_REFUSE(JM_TOO_LARGE);
    }
    if (state == JM_EMPTY || state == JM_REJECTED ||
        memcmp(other->begun, payload, sizeof other->begun) != 0) {
        other->state = JM_RECEIVING;
        memcpy(other->begun, payload, sizeof other->begun);
        slots->record.dirty = 0;
        slots->received = 0;
        slots->progress = 0;
        status = store(slots);
    }
    return status == JM_OK ? clean(slots) : status;
}

unsigned jm_slots_write(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    uint32_t left = size_of(slots->other) - slots->received;
    uint32_t address = slots->other_address + slots->received;
    unsigned status;

    count -= 4;
    if (slots->other->state != JM_RECEIVING) {
        return JM_REFUSE(JM_NOTHING_BEGUN);
    }
    /* A count below 4 was a WRITE too short; it is now more than any slot holds. */
    if (count - 1 >= JM_SLOT_BYTES) {
        return JM_MALFORMED;
    }
    if (jm_get32(payload) != slots->received) {
        return JM_ORDER;
    }
    if (count > left || (count != left && count % JM_WRITE_MULTIPLE != 0)) {
        return JM_MALFORMED;
    }
    status = clean(slots);
    if (status == JM_OK) {
        status = program(&address, payload + 4, count);
    }
    if (status == JM_OK) {
        slots->received += count;
    } else if (status == JM_ORDER) { /* torn: back to the beginning of its sector */
        slots->received = (address - slots->other_address) & ~(JM_SECTOR_BYTES - 1U);
        slots->record.dirty = slots->received;
        if (store(slots) != JM_OK) {
            status = JM_FLASH;
        }
    }
    return status;
}

unsigned jm_slots_verify(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    (void)payload;
    (void)count;
    if (slots->other->state == JM_EMPTY) {
        return JM_REFUSE(JM_NOTHING_BEGUN);
    }
    if (slots->received != size_of(slots->other)) {
        return JM_REFUSE(JM_NOT_ALL_RECEIVED);
    }
    slots->progress = JM_REJECTED;
    if (!is_whole(slots->other, slots->other_address)) {
        return JM_REFUSE(JM_HASH_DIFFERS);
    }
    slots->progress = JM_VERIFIED;
    return JM_OK;
}

unsigned jm_slots_test(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    unsigned status = jm_slots_verify(slots, payload, count);

    if (status == JM_OK) {
        enum jm_reason reason =
            jm_port_self_test(jm_port_flash_map(slots->other_address), size_of(slots->other));

        if (reason != JM_FINE) {
            return JM_REFUSE(reason);
        }
        slots->progress = JM_TESTED;
    }
    return status;
}

unsigned jm_slots_activate(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    (void)count;
    if (jm_get32(payload) == 0) {
        return JM_MALFORMED;
    }
    if (has_sha256(slots->active, payload + 4)) { /* asked again: the answer was lost */
        return JM_OK;
    }
    if (!has_sha256(slots->other, payload + 4)) {
        return JM_REFUSE(JM_OTHER_CONTENT);
    }
    if (slots->progress != JM_TESTED) {
        return JM_REFUSE(JM_NOT_TESTED);
    }
    slots->other->state = JM_TRIAL;
    slots->record.active = (uint8_t)(slots->other - slots->record.content);
    slots->record.resets = 0;
    slots->record.trial_s = jm_get32(payload);
    return choose(slots, jm_get32(payload));
}

unsigned jm_slots_confirm(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    (void)count;
    if (!has_sha256(slots->active, payload)) {
        return JM_REFUSE(JM_OTHER_CONTENT);
    }
    if (!is_on_trial(slots)) { /* asked again */
        return JM_OK;
    }
    slots->active->state = JM_CONFIRMED;
    return choose(slots, 0);
}

unsigned jm_slots_rollback(struct jm_slots *slots, const uint8_t *payload, uint32_t count)
{
    (void)count;
    if (!has_sha256(slots->active, payload)) {
        return slots->other->state == JM_REJECTED && has_sha256(slots->other, payload)
                   ? JM_OK /* asked again */
                   : JM_REFUSE(JM_OTHER_CONTENT);
    }
    if (!is_on_trial(slots) && slots->other->state != JM_CONFIRMED) {
        return JM_REFUSE(JM_NO_OTHER_MODEL);
    }
    return leave(slots);
}
