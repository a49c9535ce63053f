/* The machine that the emulated board is wired to, in place of converters and sensors. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdint.h>

#define MACHINE_CHANNELS 3U
#define MACHINE_PERIOD_US 10000U

/* One sample of all channels; the real value is 1/1024 of the number. Sample n is always the
 * same: two slow oscillations with noise, and their product, with a disturbance now and then. */
void machine_sample(uint32_t number, int16_t *values);

#endif
