/*
 * Integer kernels of int8 models: dense layers, 1-D convolutions, pools.
 *
 * Responsible for the arithmetic alone; sizes and positions are checked by jm_model.c before a
 * kernel sees them. Invariant: every output equals, bit for bit, what the reference kernels of
 * TensorFlow Lite Micro give (MODEL_IMAGE.md, "Arithmetic"). C99, no allocation, no libm, no
 * operating system; no state.
 *
 * Activations are int8, (length, channels), the channels of one sample side by side.
 */
#ifndef JM_INT8_H
#define JM_INT8_H

#include <stdint.h>

/* How a window slides over the samples. */
typedef struct {
    int32_t in_length;
    int32_t in_channels;
    int32_t out_length;
    int32_t out_channels;
    int32_t taps;
    int32_t stride;
    int32_t before; /* padding in front of the first sample; cut off, for transposed convolutions */
    int8_t in_zero;
    int8_t out_zero;
    int8_t low; /* outputs are kept within low..high, which is how a ReLU is applied */
    int8_t high;
} jm_window;

/* Per output channel, little endian, as the image holds them; no alignment is needed. */
typedef struct {
    const uint8_t *bias;       /* int32 each */
    const uint8_t *multiplier; /* int32 each, 0 or 2^30 .. 2^31 - 1 */
    const int8_t *shift;       /* -31 .. 30 */
    const int8_t *weights;     /* (out channels, taps, in channels) */
} jm_weights;

/* Returns x * multiplier * 2^(shift - 31), rounded twice, as gemmlowp does. */
int32_t jm_rescale(int32_t x, int32_t multiplier, int shift);

/* A dense layer is a convolution of length 1 with one tap. The bias holds
 * bias - in_zero * (sum of the channel's weights). */
void jm_conv(const jm_window *window, const jm_weights *weights, const int8_t *in, int8_t *out);

/* The bias is the plain one. */
void jm_transposed_conv(const jm_window *window, const jm_weights *weights, const int8_t *in,
                        int8_t *out);

void jm_max_pool(const jm_window *window, const int8_t *in, int8_t *out);
void jm_average_pool(const jm_window *window, const int8_t *in, int8_t *out);

/* Changes the scale of in_length * in_channels numbers; `in` may be `out`. */
void jm_rescale_all(const jm_window *window, int32_t multiplier, int shift, const int8_t *in,
                    int8_t *out);

/* The four bytes at `at` as a little-endian number, wherever they lie. */
int32_t jm_read_i32(const uint8_t *at);

#endif
