#include "jm_model.h"

#include <string.h>

#include "jm_int8.h"

#define HEADER_BYTES 24U
#define RECORD_BYTES 32U
#define VERSION 1U

enum { CONV = 1, TRANSPOSED_CONV = 2, MAX_POOL = 3, AVERAGE_POOL = 4, RESCALE = 5 };

/* A record, read but not yet checked, and where its parameters lie. */
typedef struct {
    jm_window window;
    jm_weights weights;
    uint32_t offset;       /* of its parameters, from the image's first byte */
    uint32_t bytes;        /* of its parameters */
    uint32_t out_bytes;
    uint32_t op;
    uint32_t reserved;
} layer;

static uint16_t read_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t read_u32(const uint8_t *at)
{
    return (uint32_t)jm_read_i32(at);
}

static float read_float(const uint8_t *at)
{
    uint32_t bits = read_u32(at);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Positive, finite and normal: neither zero, NaN, infinity nor of reduced precision. */
static int is_scale(const uint8_t *at)
{
    uint32_t bits = read_u32(at);
    return bits >= 0x00800000U && bits < 0x7F800000U;
}

static uint32_t rounded_up(uint32_t bytes)
{
    return (bytes + 3U) & ~(uint32_t)3U;
}

static int has_weights(const layer *one)
{
    return one->op == CONV || one->op == TRANSPOSED_CONV;
}

static void read_record(const uint8_t *image, uint32_t number, layer *one)
{
    const uint8_t *at = image + HEADER_BYTES + number * RECORD_BYTES;
    one->op = at[0];
    one->reserved = read_u32(at) >> 8 | read_u16(at + 22);
    one->window.in_zero = (int8_t)at[4];
    one->window.out_zero = (int8_t)at[5];
    one->window.low = (int8_t)at[6];
    one->window.high = (int8_t)at[7];
    one->window.in_length = read_u16(at + 8);
    one->window.in_channels = read_u16(at + 10);
    one->window.out_length = read_u16(at + 12);
    one->window.out_channels = read_u16(at + 14);
    one->window.taps = read_u16(at + 16);
    one->window.stride = read_u16(at + 18);
    one->window.before = read_u16(at + 20);
    one->offset = read_u32(at + 24);
    one->bytes = read_u32(at + 28);
    one->out_bytes = (uint32_t)one->window.out_length * (uint32_t)one->window.out_channels;
}

/* Points at the parameters, which the caller has found to lie inside the image. */
static void find_weights(const uint8_t *image, layer *one)
{
    uint32_t channels = (uint32_t)one->window.out_channels;
    const uint8_t *at = image + one->offset;
    one->weights.bias = at;
    one->weights.multiplier = at + 4U * channels;
    one->weights.shift = (const int8_t *)(at + 8U * channels);
    one->weights.weights = (const int8_t *)(at + 8U * channels + rounded_up(channels));
}

static int is_multiplier(int32_t multiplier, int32_t shift)
{
    return (multiplier == 0 || multiplier >= 0x40000000) && shift >= -31 && shift <= 30;
}

static int check_sizes(const layer *one)
{
    const jm_window *window = &one->window;
    uint32_t in_bytes = (uint32_t)window->in_length * (uint32_t)window->in_channels;
    if (window->in_length == 0 || window->in_channels == 0 || one->out_bytes == 0 ||
        window->taps == 0 || window->stride == 0 || in_bytes > JM_MODEL_MAX_ACTIVATION ||
        one->out_bytes > JM_MODEL_MAX_ACTIVATION) {
        return JM_MODEL_SHAPE;
    }
    if (one->op == RESCALE) {
        return in_bytes == one->out_bytes && window->taps == 1 && window->stride == 1 &&
                       window->before == 0
                   ? JM_MODEL_OK
                   : JM_MODEL_SHAPE;
    }
    if (one->op != TRANSPOSED_CONV) {
        /* Every window covers a sample: the first, the last, and so all between. */
        uint32_t last = (uint32_t)(window->out_length - 1) * (uint32_t)window->stride;
        if (window->before >= window->taps ||
            last >= (uint32_t)window->in_length + (uint32_t)window->before) {
            return JM_MODEL_SHAPE;
        }
    }
    if (!has_weights(one)) {
        return window->in_channels == window->out_channels ? JM_MODEL_OK : JM_MODEL_SHAPE;
    }
    return (uint32_t)window->taps * (uint32_t)window->in_channels <= JM_MODEL_MAX_PRODUCTS
               ? JM_MODEL_OK
               : JM_MODEL_SHAPE;
}

/* The bytes that a layer of these sizes must have as parameters; sizes are checked. */
static uint32_t wanted_bytes(const layer *one)
{
    uint32_t channels = (uint32_t)one->window.out_channels;
    uint32_t row = (uint32_t)one->window.taps * (uint32_t)one->window.in_channels;
    if (one->op == RESCALE) {
        return 8U;
    }
    if (!has_weights(one)) {
        return 0U;
    }
    return 8U * channels + rounded_up(channels) + rounded_up(channels * row);
}

/* Looks at the numbers of a layer whose parameters lie inside the image. */
static int check_numbers(const uint8_t *image, layer *one)
{
    int32_t channel;
    if (one->window.low > one->window.high) {
        return JM_MODEL_NUMBER;
    }
    if (one->op == RESCALE) {
        const uint8_t *at = image + one->offset;
        return is_multiplier(jm_read_i32(at), jm_read_i32(at + 4)) ? JM_MODEL_OK : JM_MODEL_NUMBER;
    }
    if (!has_weights(one)) {
        return one->window.in_zero == one->window.out_zero ? JM_MODEL_OK : JM_MODEL_NUMBER;
    }
    find_weights(image, one);
    for (channel = 0; channel < one->window.out_channels; channel++) {
        int32_t bias = jm_read_i32(one->weights.bias + 4 * channel);
        int32_t multiplier = jm_read_i32(one->weights.multiplier + 4 * channel);
        if (bias > JM_MODEL_MAX_BIAS || bias < -JM_MODEL_MAX_BIAS ||
            !is_multiplier(multiplier, one->weights.shift[channel])) {
            return JM_MODEL_NUMBER;
        }
    }
    return JM_MODEL_OK;
}

static int check_layer(const uint8_t *image, uint32_t left, uint32_t offset, layer *one)
{
    int found;
    if (one->op < CONV || one->op > RESCALE || one->reserved != 0) {
        return JM_MODEL_OP;
    }
    found = check_sizes(one);
    if (found != JM_MODEL_OK) {
        return found;
    }
    if (one->offset != offset || one->bytes != wanted_bytes(one) || one->bytes > left) {
        return JM_MODEL_SIZE;
    }
    return check_numbers(image, one);
}

/* Fills what the header says; the layers come later. */
static int open_header(jm_model *model, const uint8_t *image, size_t image_bytes)
{
    if (image_bytes < HEADER_BYTES) {
        return JM_MODEL_SHORT;
    }
    if (memcmp(image, "JMM1", 4) != 0 || read_u16(image + 4) != VERSION) {
        return JM_MODEL_MAGIC;
    }
    model->image = image;
    model->image_bytes = read_u32(image + 8);
    model->layers = read_u16(image + 6);
    if (model->image_bytes != image_bytes) {
        return JM_MODEL_SIZE;
    }
    if (model->layers == 0 || !is_scale(image + 12) || !is_scale(image + 16) ||
        read_u32(image + 20) != 0) {
        return JM_MODEL_HEADER;
    }
    model->input_scale = read_float(image + 12);
    model->output_scale = read_float(image + 16);
    if (model->image_bytes - HEADER_BYTES < model->layers * RECORD_BYTES) {
        return JM_MODEL_SHORT;
    }
    return JM_MODEL_OK;
}

/* The input is the caller's; everything else is in the arena, two neighbours at a time, at its
 * two ends. A rescaling works in place. */
static uint32_t arena_for(const layer *one, uint32_t number)
{
    uint32_t taken = (uint32_t)one->window.in_length * (uint32_t)one->window.in_channels;
    if (number == 0) {
        return one->out_bytes;
    }
    return one->op == RESCALE ? taken : taken + one->out_bytes;
}

/* An upper bound: taps that lie on padding are counted. */
static uint64_t products_of(const layer *one)
{
    const jm_window *window = &one->window;
    int32_t samples = one->op == CONV ? window->out_length : window->in_length;
    uint32_t row = (uint32_t)window->taps * (uint32_t)window->in_channels;
    if (!has_weights(one)) {
        return 0;
    }
    return (uint64_t)samples * (uint64_t)window->out_channels * row;
}

/* Takes layer `number` into the model's totals. Until the last layer, output_bytes and
 * output_zero are those of the layer before. */
static int open_layer(jm_model *model, uint32_t number, uint32_t *offset)
{
    layer one;
    uint32_t in_bytes;
    uint32_t arena;
    int found;
    read_record(model->image, number, &one);
    found = check_layer(model->image, model->image_bytes - *offset, *offset, &one);
    if (found != JM_MODEL_OK) {
        return found;
    }
    in_bytes = (uint32_t)one.window.in_length * (uint32_t)one.window.in_channels;
    if (number == 0) {
        model->input_zero = one.window.in_zero;
        model->input_bytes = in_bytes;
    } else if (in_bytes != model->output_bytes) {
        return JM_MODEL_SHAPE;
    } else if (one.window.in_zero != model->output_zero) {
        return JM_MODEL_NUMBER;
    }
    model->output_zero = one.window.out_zero;
    arena = arena_for(&one, number);
    model->arena_bytes = arena > model->arena_bytes ? arena : model->arena_bytes;
    model->products += products_of(&one);
    *offset += one.bytes;
    model->output_bytes = one.out_bytes;
    return JM_MODEL_OK;
}

int jm_model_open(jm_model *model, const uint8_t *image, size_t image_bytes)
{
    uint32_t number;
    uint32_t offset;
    int found = open_header(model, image, image_bytes);
    if (found != JM_MODEL_OK) {
        return found;
    }
    offset = HEADER_BYTES + model->layers * RECORD_BYTES;
    model->arena_bytes = 0;
    model->products = 0;
    for (number = 0; number < model->layers; number++) {
        found = open_layer(model, number, &offset);
        if (found != JM_MODEL_OK) {
            return found;
        }
    }
    return offset == model->image_bytes ? JM_MODEL_OK : JM_MODEL_SIZE;
}

static void run_layer(const uint8_t *image, layer *one, const int8_t *in, int8_t *out)
{
    switch (one->op) {
    case CONV:
        find_weights(image, one);
        jm_conv(&one->window, &one->weights, in, out);
        break;
    case TRANSPOSED_CONV:
        find_weights(image, one);
        jm_transposed_conv(&one->window, &one->weights, in, out);
        break;
    case MAX_POOL:
        jm_max_pool(&one->window, in, out);
        break;
    case AVERAGE_POOL:
        jm_average_pool(&one->window, in, out);
        break;
    default:
        jm_rescale_all(&one->window, jm_read_i32(image + one->offset),
                       jm_read_i32(image + one->offset + 4), in, out);
        break;
    }
}

const int8_t *jm_model_run(const jm_model *model, const int8_t *input, int8_t *arena,
                           size_t arena_bytes)
{
    int8_t *held = NULL; /* where in the arena the last layer's output is */
    uint32_t number;
    if (arena_bytes < model->arena_bytes) {
        return NULL;
    }
    for (number = 0; number < model->layers; number++) {
        layer one;
        int8_t *out = arena;
        read_record(model->image, number, &one);
        if (held != NULL && one.op == RESCALE) {
            out = held;
        } else if (held == arena) {
            out = arena + (model->arena_bytes - one.out_bytes);
        }
        run_layer(model->image, &one, held == NULL ? input : held, out);
        held = out;
    }
    return held;
}

/* To the nearest whole number, halves to even; within -512 .. 512. */
static int32_t rounded(float value)
{
    int32_t whole = (int32_t)value;
    float rest = value - (float)whole;
    if (rest > 0.5F || (rest == 0.5F && (whole & 1) != 0)) {
        return whole + 1;
    }
    if (rest < -0.5F || (rest == -0.5F && (whole & 1) != 0)) {
        return whole - 1;
    }
    return whole;
}

int jm_model_quantize(const jm_model *model, const float *real, int8_t *stored)
{
    uint32_t place;
    for (place = 0; place < model->input_bytes; place++) {
        float steps = real[place] / model->input_scale;
        int32_t value;
        if (!(steps <= 0.0F || steps > 0.0F)) {
            return JM_MODEL_NOT_FINITE;
        }
        steps = steps > 512.0F ? 512.0F : steps;
        steps = steps < -512.0F ? -512.0F : steps;
        value = rounded(steps) + model->input_zero;
        value = value > 127 ? 127 : value;
        stored[place] = (int8_t)(value < -128 ? -128 : value);
    }
    return JM_MODEL_OK;
}

void jm_model_dequantize(const jm_model *model, const int8_t *stored, float *real)
{
    uint32_t place;
    for (place = 0; place < model->output_bytes; place++) {
        real[place] = (float)(stored[place] - model->output_zero) * model->output_scale;
    }
}
