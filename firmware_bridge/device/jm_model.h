/*
 * Model images ("JMM1", MODEL_IMAGE.md): checked once, then run as often as wanted.
 *
 * Responsible for believing nothing of an image before it is checked: `jm_model_open` looks at
 * every record and size, and at every bias, multiplier and shift. Invariant: whatever the bytes
 * are, no call reads outside the image or writes outside the arena, and no arithmetic is
 * undefined. Whether the image is the one that was sent is the slots' matter
 * (SHA-256), not this file's. C99, no allocation, no operating system; weights are read where
 * they lie, in flash.
 */
#ifndef JM_MODEL_H
#define JM_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    JM_MODEL_OK = 0,
    JM_MODEL_SHORT = 1,   /* fewer bytes than its header and records take */
    JM_MODEL_MAGIC = 2,   /* no model image, or of another version */
    JM_MODEL_SIZE = 3,    /* not as long as it says, or bytes left over or missing */
    JM_MODEL_HEADER = 4,  /* a header field out of range */
    JM_MODEL_OP = 5,      /* an operation that is not known here */
    JM_MODEL_SHAPE = 6,   /* sizes that do not fit each other, or above the limits */
    JM_MODEL_NUMBER = 7,  /* a bias, multiplier, shift or bound out of range */
    JM_MODEL_NOT_FINITE = 8 /* a NaN was given to jm_model_quantize */
};

/* Bit n: operation n of MODEL_IMAGE.md is known here. */
#define JM_MODEL_OPERATIONS 0x3EU
#define JM_MODEL_MAX_ACTIVATION 1048576 /* numbers in one layer's output */
#define JM_MODEL_MAX_PRODUCTS 32768     /* taps * in channels: products in one sum */
#define JM_MODEL_MAX_BIAS 1073741823    /* of an int32 sum, half is left to the products */

/* An opened image; valid while the image's bytes stay where they are. */
typedef struct {
    const uint8_t *image;
    uint32_t image_bytes;
    uint32_t arena_bytes;  /* what jm_model_run needs */
    uint32_t input_bytes;  /* int8 numbers that go in */
    uint32_t output_bytes; /* int8 numbers that come out */
    uint64_t products;     /* multiply-accumulates of one inference, padding included */
    uint16_t layers;
    int8_t input_zero;
    int8_t output_zero;
    float input_scale; /* real = (stored - zero) * scale */
    float output_scale;
} jm_model;

/* Checks an image and fills `model`; returns JM_MODEL_OK, or the first thing that is wrong, and
 * then `model` must not be used. Takes time in proportion to layers and channels, not weights. */
int jm_model_open(jm_model *model, const uint8_t *image, size_t image_bytes);

/* Runs an opened model on input_bytes numbers and returns where in the arena the output_bytes
 * numbers lie; they stay until the arena is used again. The arena has arena_bytes, needs no
 * alignment, and may not overlap the input. NULL: the arena is too small, nothing was done. */
const int8_t *jm_model_run(const jm_model *model, const int8_t *input, int8_t *arena,
                           size_t arena_bytes);

/* Makes input_bytes stored numbers of real ones: divided by the scale, rounded, halves to even,
 * kept within int8. Returns JM_MODEL_OK or JM_MODEL_NOT_FINITE. */
int jm_model_quantize(const jm_model *model, const float *real, int8_t *stored);

/* Makes output_bytes real numbers of stored ones. */
void jm_model_dequantize(const jm_model *model, const int8_t *stored, float *real);

#endif
