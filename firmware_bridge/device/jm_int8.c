#include "jm_int8.h"

/* The shifts below keep the sign, as every compiler for the named targets has it; C99 leaves it
 * to the implementation (6.5.7), so it is asked here, at compile time. */
typedef char jm_shifts_keep_the_sign[(-1 >> 1) == -1 ? 1 : -1];

int32_t jm_read_i32(const uint8_t *at)
{
    uint32_t bits = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                    (uint32_t)at[3] << 24;
    return (int32_t)bits;
}

int32_t jm_rescale(int32_t x, int32_t multiplier, int shift)
{
    /* First rounding: the high half of twice the product, halves upwards. A factor of 1 or more
     * shifts before, modulo 2^32, so that no input is undefined. */
    int32_t left = (int32_t)((uint32_t)x << (shift > 0 ? shift : 0));
    int64_t product = (int64_t)left * multiplier;
    int32_t high = (int32_t)((product + ((int64_t)1 << 30)) >> 31);
    /* Second rounding: by a power of two, halves away from zero. */
    int right = shift > 0 ? 0 : -shift;
    int32_t mask = (int32_t)(((uint32_t)1 << right) - 1U);
    int32_t rest = high & mask;
    int32_t half = (mask >> 1) + (high < 0 ? 1 : 0);
    return (high >> right) + (rest > half ? 1 : 0);
}

static int8_t clamped(const jm_window *window, int32_t scaled)
{
    /* Compared before the zero point is added: hostile scales must not overflow. */
    if (scaled < window->low - window->out_zero) {
        return window->low;
    }
    if (scaled > window->high - window->out_zero) {
        return window->high;
    }
    return (int8_t)(scaled + window->out_zero);
}

static int8_t scaled_sum(const jm_window *window, const jm_weights *weights, int32_t channel,
                         int32_t sum)
{
    int32_t multiplier = jm_read_i32(weights->multiplier + 4 * channel);
    return clamped(window, jm_rescale(sum, multiplier, weights->shift[channel]));
}

/* Where inference spends its time: four products a turn, and one comparison. */
static int32_t dot(const int8_t *a, const int8_t *b, int32_t count)
{
    const int8_t *fours = a + (count & ~3);
    const int8_t *end = a + count;
    int32_t sum = 0;
    for (; a != fours; a += 4, b += 4) {
        sum += a[0] * b[0];
        sum += a[1] * b[1];
        sum += a[2] * b[2];
        sum += a[3] * b[3];
    }
    for (; a != end; a++, b++) {
        sum += *a * *b;
    }
    return sum;
}

static int32_t dot_above(const int8_t *a, int32_t zero, const int8_t *b, int32_t count)
{
    const int8_t *fours = a + (count & ~3);
    const int8_t *end = a + count;
    int32_t sum = 0;
    for (; a != fours; a += 4, b += 4) {
        sum += (a[0] - zero) * b[0];
        sum += (a[1] - zero) * b[1];
        sum += (a[2] - zero) * b[2];
        sum += (a[3] - zero) * b[3];
    }
    for (; a != end; a++, b++) {
        sum += (*a - zero) * *b;
    }
    return sum;
}

static int32_t total(const int8_t *numbers, int32_t count)
{
    int32_t sum = 0;
    while (count > 0) {
        sum += *numbers++;
        count--;
    }
    return sum;
}

/* The part of a window that lies on samples: taps first..end - 1. */
static void clip(const jm_window *window, int32_t start, int32_t *first, int32_t *end)
{
    int32_t left = window->in_length - start;
    *first = start < 0 ? -start : 0;
    *end = left < window->taps ? left : window->taps;
}

void jm_conv(const jm_window *window, const jm_weights *weights, const int8_t *in, int8_t *out)
{
    int32_t channels = window->in_channels;
    int32_t row = window->taps * channels;
    int32_t position;
    int32_t channel;
    for (position = 0; position < window->out_length; position++) {
        int32_t start = position * window->stride - window->before;
        int32_t first;
        int32_t end;
        const int8_t *filter = weights->weights;
        clip(window, start, &first, &end);
        for (channel = 0; channel < window->out_channels; channel++) {
            int32_t sum = jm_read_i32(weights->bias + 4 * channel);
            sum += dot(in + (start + first) * channels, filter + first * channels,
                       (end - first) * channels);
            if (end - first < window->taps) {
                /* Padding counts as zero, stored as in_zero, which the bias expects. */
                sum += window->in_zero * (total(filter, first * channels) +
                                          total(filter + end * channels,
                                                (window->taps - end) * channels));
            }
            *out++ = scaled_sum(window, weights, channel, sum);
            filter += row;
        }
    }
}

void jm_transposed_conv(const jm_window *window, const jm_weights *weights, const int8_t *in,
                        int8_t *out)
{
    int32_t channels = window->in_channels;
    int32_t row = window->taps * channels;
    int32_t position;
    int32_t channel;
    for (position = 0; position < window->out_length; position++) {
        /* Sample i reaches this position by the tap reach - i * stride. */
        int32_t reach = position + window->before;
        int32_t last = reach / window->stride;
        const int8_t *filter = weights->weights;
        if (last >= window->in_length) {
            last = window->in_length - 1;
        }
        for (channel = 0; channel < window->out_channels; channel++) {
            int32_t sum = jm_read_i32(weights->bias + 4 * channel);
            int32_t sample = last;
            int32_t tap = reach - last * window->stride;
            while (sample >= 0 && tap < window->taps) {
                sum += dot_above(in + sample * channels, window->in_zero, filter + tap * channels,
                                 channels);
                sample--;
                tap += window->stride;
            }
            *out++ = scaled_sum(window, weights, channel, sum);
            filter += row;
        }
    }
}

void jm_max_pool(const jm_window *window, const int8_t *in, int8_t *out)
{
    int32_t channels = window->in_channels;
    int32_t position;
    int32_t channel;
    for (position = 0; position < window->out_length; position++) {
        int32_t start = position * window->stride - window->before;
        int32_t first;
        int32_t end;
        clip(window, start, &first, &end);
        for (channel = 0; channel < channels; channel++) {
            int32_t largest = window->low;
            int32_t tap;
            for (tap = first; tap < end; tap++) {
                int32_t value = in[(start + tap) * channels + channel];
                largest = value > largest ? value : largest;
            }
            *out++ = (int8_t)(largest < window->high ? largest : window->high);
        }
    }
}

void jm_average_pool(const jm_window *window, const int8_t *in, int8_t *out)
{
    int32_t channels = window->in_channels;
    int32_t position;
    int32_t channel;
    for (position = 0; position < window->out_length; position++) {
        int32_t start = position * window->stride - window->before;
        int32_t first;
        int32_t end;
        int32_t count;
        clip(window, start, &first, &end);
        count = end - first;
        for (channel = 0; channel < channels; channel++) {
            int32_t sum = 0;
            int32_t tap;
            for (tap = first; tap < end; tap++) {
                sum += in[(start + tap) * channels + channel];
            }
            /* Halves away from zero; padding does not count. */
            sum = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
            sum = sum > window->low ? sum : window->low;
            *out++ = (int8_t)(sum < window->high ? sum : window->high);
        }
    }
}

void jm_rescale_all(const jm_window *window, int32_t multiplier, int shift, const int8_t *in,
                    int8_t *out)
{
    int32_t count = window->in_length * window->in_channels;
    while (count > 0) {
        *out++ = clamped(window, jm_rescale(*in++ - window->in_zero, multiplier, shift));
        count--;
    }
}
