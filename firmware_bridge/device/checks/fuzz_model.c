/*
 * Fuzz target: any bytes as an image and as a slot's content, run where they open. libFuzzer,
 * with both sanitizers.
 *
 * Start it from real images (tests write some): changed numbers in a whole image get furthest.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "jm_content.h"
#include "jm_model.h"

#define MOST_PRODUCTS 20000U
#define MOST_NUMBERS 65536U

static void run(const jm_model *model, const uint8_t *numbers, size_t count)
{
    int8_t *input = malloc(model->input_bytes);
    int8_t *arena = malloc(model->arena_bytes);
    float *real = malloc(model->output_bytes * sizeof *real);
    const int8_t *output;
    uint32_t place;
    if (input == NULL || arena == NULL || real == NULL) {
        abort();
    }
    for (place = 0; place < model->input_bytes; place++) {
        input[place] = count > 0 ? (int8_t)numbers[place % count] : -128;
    }
    output = jm_model_run(model, input, arena, model->arena_bytes);
    if (output < arena || output + model->output_bytes > arena + model->arena_bytes) {
        abort();
    }
    jm_model_dequantize(model, output, real);
    if (jm_model_run(model, input, arena, model->arena_bytes - 1U) != NULL) {
        abort();
    }
    free(real);
    free(arena);
    free(input);
}

static void quantize(const jm_model *model, const uint8_t *bytes, size_t count)
{
    float *real = calloc(model->input_bytes, sizeof *real);
    int8_t *stored = malloc(model->input_bytes);
    if (real == NULL || stored == NULL) {
        abort();
    }
    memcpy(real, bytes, count < model->input_bytes * sizeof *real
                            ? count
                            : model->input_bytes * sizeof *real);
    (void)jm_model_quantize(model, real, stored);
    free(stored);
    free(real);
}

static int8_t content_arena[MOST_NUMBERS];

/* All golden vectors of a slot's content. */
static void test_content(const uint8_t *data, size_t size)
{
    jm_model model;
    uint8_t *content = malloc(size > 0 ? size : 1);
    if (content == NULL) {
        abort();
    }
    memcpy(content, data, size);
    if (jm_content_open(&model, content, (uint32_t)size, MOST_NUMBERS) == JM_FINE &&
        model.products <= MOST_PRODUCTS) {
        enum jm_reason found =
            jm_content_test(content, (uint32_t)size, content_arena, MOST_NUMBERS);
        if (found != JM_FINE && found != JM_VECTOR_DIFFERS) {
            abort();
        }
    }
    free(content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The image's own size field tells where it ends; the rest are numbers to run it on. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    jm_model model;
    size_t image_bytes = size;
    uint8_t *image;
    if (size >= 12) {
        uint32_t said = (uint32_t)data[8] | (uint32_t)data[9] << 8 | (uint32_t)data[10] << 16 |
                        (uint32_t)data[11] << 24;
        image_bytes = said < size ? said : size;
    }
    image = malloc(image_bytes > 0 ? image_bytes : 1); /* of its own, so that overreads are seen */
    if (image == NULL) {
        abort();
    }
    memcpy(image, data, image_bytes);
    if (jm_model_open(&model, image, image_bytes) == JM_MODEL_OK &&
        model.products <= MOST_PRODUCTS && model.arena_bytes <= MOST_NUMBERS &&
        model.input_bytes <= MOST_NUMBERS) {
        run(&model, data + image_bytes, size - image_bytes);
        quantize(&model, data, size);
    }
    free(image);
    test_content(data, size);
    return 0;
}
