/* many_link COUNT SEED: that many random inputs through fuzz_link.c. Where libFuzzer looks for new
 * ways, this goes the known ones often, and needs no clang. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGEST_INPUT 64U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;

static uint32_t random32(void)
{
    state ^= state << 13; /* xorshift64, Marsaglia 2003 */
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

int main(int count, char **arguments)
{
    unsigned long inputs;

    if (count != 3) {
        fprintf(stderr, "usage: many_link COUNT SEED\n");
        return 2;
    }
    inputs = strtoul(arguments[1], NULL, 10);
    state = 0x9E3779B97F4A7C15U ^ strtoul(arguments[2], NULL, 10);
    for (unsigned long i = 0; i < inputs; i++) {
        uint8_t input[LARGEST_INPUT];
        size_t size = 1 + random32() % LARGEST_INPUT;

        for (size_t j = 0; j < size; j++) {
            input[j] = (uint8_t)random32();
        }
        (void)LLVMFuzzerTestOneInput(input, size);
    }
    printf("%lu inputs\n", inputs);
    return 0;
}
