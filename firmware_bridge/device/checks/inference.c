/*
 * Check program: takes images and inputs, answers with what jm_model makes of them.
 *
 * Runs as firmware and on the host, over a line that loses nothing (a pipe, an emulator's serial
 * port); a real link speaks FRAMING.md instead. All numbers are little endian, 32 bits.
 *
 *   'L' size image      ->  code, input_bytes, output_bytes, arena_bytes, products, memory in use
 *   'R' input           ->  instructions, output     (of the image opened last; it must be open)
 *   'Q' reals (floats)  ->  code, stored             (jm_model_quantize)
 *   'D' stored          ->  reals                    (jm_model_dequantize)
 *   'E'                 ->  ends, on the host
 */
#include <string.h>

#include "board.h"
#include "jm_model.h"

#define IMAGE_ROOM 1048576U
#define NUMBERS_ROOM 65536U
#define ARENA_ROOM 131072U
#define TOO_LARGE 99

static uint8_t image[IMAGE_ROOM];
static int8_t stored[NUMBERS_ROOM];
static float real[NUMBERS_ROOM];
static int8_t arena[ARENA_ROOM];
static jm_model model;

static uint32_t take_number(void)
{
    uint8_t bytes[4];
    board_take(bytes, sizeof bytes);
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static void give_number(uint32_t value)
{
    uint8_t bytes[4];
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
    bytes[2] = (uint8_t)(value >> 16);
    bytes[3] = (uint8_t)(value >> 24);
    board_give(bytes, sizeof bytes);
}

static void give_reals(uint32_t count)
{
    uint32_t place;
    for (place = 0; place < count; place++) {
        uint32_t bits;
        memcpy(&bits, &real[place], sizeof bits);
        give_number(bits);
    }
}

static void take_reals(uint32_t count)
{
    uint32_t place;
    for (place = 0; place < count; place++) {
        uint32_t bits = take_number();
        memcpy(&real[place], &bits, sizeof bits);
    }
}

/* Images that do not fit are read over and answered with JM_MODEL_SIZE; models that do not fit open, and
 * are answered with TOO_LARGE. */
static void load(void)
{
    uint32_t size = take_number();
    uint32_t left = size;
    int code;
    while (left > 0) {
        uint32_t part = left < IMAGE_ROOM ? left : IMAGE_ROOM;
        board_take(image, part);
        left -= part;
    }
    memset(&model, 0, sizeof model);
    code = size > IMAGE_ROOM ? JM_MODEL_SIZE : jm_model_open(&model, image, size);
    if (code == JM_MODEL_OK &&
        (model.input_bytes > NUMBERS_ROOM || model.arena_bytes > ARENA_ROOM ||
         model.output_bytes > NUMBERS_ROOM)) {
        code = TOO_LARGE;
    }
    give_number((uint32_t)code);
    give_number(model.input_bytes);
    give_number(model.output_bytes);
    give_number(model.arena_bytes);
    give_number((uint32_t)model.products);
    give_number((uint32_t)sizeof model);
    if (code != JM_MODEL_OK) {
        memset(&model, 0, sizeof model); /* later commands find nothing to run */
    }
}

static void run(void)
{
    const int8_t *output;
    uint32_t before;
    uint32_t after;
    board_take((uint8_t *)stored, model.input_bytes);
    before = board_instructions();
    output = jm_model_run(&model, stored, arena, model.arena_bytes);
    after = board_instructions();
    if (output == NULL) {
        return;
    }
    give_number(after - before);
    board_give((const uint8_t *)output, model.output_bytes);
}

static void quantize(void)
{
    take_reals(model.input_bytes);
    memset(stored, 0, model.input_bytes);
    give_number((uint32_t)jm_model_quantize(&model, real, stored));
    board_give((const uint8_t *)stored, model.input_bytes);
}

static void dequantize(void)
{
    board_take((uint8_t *)stored, model.output_bytes);
    jm_model_dequantize(&model, stored, real);
    give_reals(model.output_bytes);
}

int main(void)
{
    board_start();
    for (;;) {
        uint8_t command;
        board_take(&command, 1);
        switch (command) {
        case 'L':
            load();
            break;
        case 'R':
            run();
            break;
        case 'Q':
            quantize();
            break;
        case 'D':
            dequantize();
            break;
        case 'E':
            return 0;
        default:
            break;
        }
    }
}
