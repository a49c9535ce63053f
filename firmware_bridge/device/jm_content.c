#include "jm_content.h"

#include <string.h>

#include "jm_bytes.h"

#define HEADER_BYTES 16U

static uint32_t vectors_at(const uint8_t *content)
{
    return (HEADER_BYTES + jm_get32(content) + 15U) & ~(uint32_t)15U;
}

enum jm_reason jm_content_open(jm_model *model, const uint8_t *content, uint32_t size,
                               uint32_t arena_bytes)
{
    uint32_t image_bytes;
    uint32_t vectors;
    int found;
    if (size < HEADER_BYTES) {
        return JM_IMAGE_NOT_VALID;
    }
    image_bytes = jm_get32(content);
    vectors = jm_get16(content + 4);
    if (image_bytes > size - HEADER_BYTES || vectors == 0 || jm_get16(content + 10) != 0 ||
        jm_get32(content + 12) != 0) {
        return JM_IMAGE_NOT_VALID;
    }
    found = jm_model_open(model, content + HEADER_BYTES, image_bytes);
    if (found != JM_MODEL_OK) {
        return found == JM_MODEL_OP ? JM_OPERATOR_MISSING : JM_IMAGE_NOT_VALID;
    }
    if (model->input_bytes != jm_get16(content + 6) ||
        model->output_bytes != jm_get16(content + 8) || vectors_at(content) > size ||
        (size - vectors_at(content)) / vectors != model->input_bytes + model->output_bytes ||
        (size - vectors_at(content)) % vectors != 0) {
        return JM_IMAGE_NOT_VALID;
    }
    return model->arena_bytes > arena_bytes ? JM_ARENA_TOO_SMALL : JM_FINE;
}

enum jm_reason jm_content_test(const uint8_t *content, uint32_t size, int8_t *arena,
                               uint32_t arena_bytes)
{
    jm_model model;
    uint32_t left;
    const uint8_t *vector;
    enum jm_reason found = jm_content_open(&model, content, size, arena_bytes);
    if (found != JM_FINE) {
        return found;
    }
    vector = content + vectors_at(content);
    for (left = jm_get16(content + 4); left > 0; left--) {
        const int8_t *output =
            jm_model_run(&model, (const int8_t *)vector, arena, arena_bytes);
        vector += model.input_bytes;
        if (output == NULL || memcmp(output, vector, model.output_bytes) != 0) {
            return JM_VECTOR_DIFFERS;
        }
        vector += model.output_bytes;
    }
    return JM_FINE;
}
