/* A slot's content: an image and its golden vectors (FRAMING.md, 'Model slots').
 *
 * Responsible for the self-test before a model may run; a firmware's jm_port_self_test() and
 * jm_port_model() are one call each. Whatever the bytes are, nothing outside them is read. */
#ifndef JM_CONTENT_H
#define JM_CONTENT_H

#include "jm_model.h"
#include "journeyman.h"

/* Open the image in a slot's content; `arena_bytes` is what the firmware has. */
enum jm_reason jm_content_open(jm_model *model, const uint8_t *content, uint32_t size,
                               uint32_t arena_bytes);

/* Open it and run all golden vectors; JM_VECTOR_DIFFERS at the first output that is not right. */
enum jm_reason jm_content_test(const uint8_t *content, uint32_t size, int8_t *arena,
                               uint32_t arena_bytes);

#endif
