/*
 * Journeyman on the emulated board: samples go to the gateway, the active model judges them.
 *
 * Responsible for the main loop and what the library asks of a port (journeyman.h) beside the
 * flash. Every row of the newest samples, as many as the model takes, is judged when it is whole;
 * rows do not overlap. A score carries the time of its row's last sample.
 */
#include <string.h>

#include "jm_content.h"
#include "jm_model.h"
#include "journeyman.h"
#include "machine.h"
#include "mps2_an385.h"

#define STREAM 0U
#define ARENA_BYTES 32768U
#define ROW_NUMBERS 3072U
#define MOST_OUTPUTS 255U
#define SAMPLES_A_FRAME 10U
#define REAL_A_STEP (1.0F / 1024.0F)

#ifndef BAUD
#define BAUD 921600U
#endif

static const struct jm_identity identity = {
    .address = 0,
    .id = {'m', 'p', 's', '2', '-', 'a', 'n', '3', '8', '5', 0, 0, 0, 0, 0, 1},
    .slot_bytes = JM_LE32(JM_SLOT_BYTES),
    .arena_bytes = JM_LE32(ARENA_BYTES),
    .operators = JM_LE32(JM_MODEL_OPERATIONS),
    .firmware = "mps2-an385 1",
};

static struct jm_device device;
static jm_model model;
static int is_ready; /* there is a model, and `model` is it */
static int8_t arena[ARENA_BYTES];
static float row[ROW_NUMBERS];
static int8_t stored[ROW_NUMBERS];
static uint32_t filled; /* numbers in `row` */
static int16_t samples[SAMPLES_A_FRAME][MACHINE_CHANNELS];
static uint32_t taken; /* samples since the reset */

uint64_t jm_port_time_us(void)
{
    return clock_us();
}

void jm_port_send(const uint8_t *bytes, size_t count)
{
    uart_send(bytes, count);
}

void jm_port_reset(void)
{
    uart_flush();
    system_reset();
}

void jm_port_application(uint8_t type, const uint8_t *payload, size_t count)
{
    (void)type;
    (void)payload;
    (void)count;
}

/* Whether this firmware can make the model's rows, and send its outputs. */
static int fits(const jm_model *one)
{
    return one->input_bytes % MACHINE_CHANNELS == 0 && one->input_bytes <= ROW_NUMBERS &&
           one->output_bytes <= MOST_OUTPUTS;
}

enum jm_reason jm_port_self_test(const uint8_t *content, uint32_t size)
{
    jm_model tested;
    enum jm_reason found = jm_content_open(&tested, content, size, ARENA_BYTES);
    if (found == JM_FINE && !fits(&tested)) {
        return JM_IMAGE_NOT_VALID;
    }
    return found == JM_FINE ? jm_content_test(content, size, arena, ARENA_BYTES) : found;
}

void jm_port_model(const uint8_t *content, uint32_t size)
{
    filled = 0;
    is_ready = content != NULL && jm_content_open(&model, content, size, ARENA_BYTES) == JM_FINE;
}

static void judge(uint64_t time_us)
{
    struct jm_rows rows = {
        .stream = STREAM,
        .format = JM_I8,
        .count = 1,
        .time_us = time_us,
    };
    if (jm_model_quantize(&model, row, stored) != JM_MODEL_OK) {
        return;
    }
    rows.values = jm_model_run(&model, stored, arena, ARENA_BYTES);
    rows.channels = (uint8_t)model.output_bytes;
    if (rows.values != NULL) {
        (void)jm_score(&device, &rows);
    }
}

static void send_samples(void)
{
    struct jm_rows rows = {
        .stream = STREAM,
        .format = JM_I16,
        .channels = MACHINE_CHANNELS,
        .count = SAMPLES_A_FRAME,
        .time_us = (uint64_t)(taken - SAMPLES_A_FRAME) * MACHINE_PERIOD_US,
        .period_us = MACHINE_PERIOD_US,
        .values = samples,
    };
    (void)jm_sensor(&device, &rows);
}

/* Samples that are due; sample n is taken n periods after the reset. */
static void sample(void)
{
    while (clock_us() >= (uint64_t)taken * MACHINE_PERIOD_US) {
        uint64_t time_us = (uint64_t)taken * MACHINE_PERIOD_US;
        int16_t *values = samples[taken % SAMPLES_A_FRAME];
        uint32_t channel;
        machine_sample(taken, values);
        taken++;
        if (taken % SAMPLES_A_FRAME == 0) {
            send_samples();
        }
        for (channel = 0; is_ready && channel < MACHINE_CHANNELS; channel++) {
            row[filled++] = (float)values[channel] * REAL_A_STEP;
        }
        if (is_ready && filled == model.input_bytes) {
            filled = 0;
            judge(time_us);
        }
    }
}

int main(void)
{
    uint8_t bytes[UART_RING];
    clock_start();
    uart_start(BAUD);
    jm_init(&device, &identity, flash_start());
    for (;;) {
        uint64_t arrived_us;
        size_t count = uart_receive(bytes, sizeof bytes, &arrived_us);
        if (count > 0) {
            jm_receive(&device, bytes, count, arrived_us);
        }
        jm_run(&device);
        sample();
    }
}
