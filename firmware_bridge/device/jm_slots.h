/* Two model slots in NOR flash, and the records that say which one runs (FRAMING.md). */
#ifndef JM_SLOTS_H
#define JM_SLOTS_H

#include "journeyman.h"

/* States of a slot (FRAMING.md, 'Model slots'). JM_EMPTY, JM_RECEIVING and those from JM_TRIAL on
 * are recorded in flash; the others are forgotten by a reset, and found out again. */
enum jm_state {
    JM_EMPTY,
    JM_RECEIVING,
    JM_RECEIVED,
    JM_VERIFIED,
    JM_TESTED,
    JM_TRIAL,
    JM_CONFIRMED,
    JM_REJECTED
};

/* Status of an answer (FRAMING.md, 'Requests'). */
enum jm_status {
    JM_OK,
    JM_UNKNOWN,
    JM_MALFORMED,
    JM_ORDER,
    JM_REFUSED,
    JM_BUSY,
    JM_FLASH,
    JM_NOT_CONNECTED
};

/* What a request came to: a status, with an enum jm_reason above it where it is JM_REFUSED. */
#define JM_REFUSE(reason) (JM_REFUSED | (unsigned)(reason) << 8)

/* A WRITE's offset and size are multiples of this, but for the size of the last one. */
#define JM_WRITE_MULTIPLE 32U

void jm_slots_init(struct jm_slots *slots);
void jm_slots_run(struct jm_slots *slots);

/* What SLOTS says of the slot that a content lies in. */
unsigned jm_slots_state(const struct jm_slots *slots, const struct jm_content *content);
uint32_t jm_slots_received(const struct jm_slots *slots, const struct jm_content *content);

/* Carry out a request, given its payload, whose size is right already but for WRITE; return what
 * it came to. After JM_OK the answer is in `slots`. */
typedef unsigned jm_slots_request(struct jm_slots *slots, const uint8_t *payload, uint32_t count);

jm_slots_request jm_slots_begin, jm_slots_write, jm_slots_verify, jm_slots_test;
jm_slots_request jm_slots_activate, jm_slots_confirm, jm_slots_rollback;

#endif
