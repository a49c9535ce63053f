#include "mps2_an385.h"

#define TICKS_PER_TURN 0x1000000U /* SysTick has 24 bits */

static volatile uint32_t turns;

void system_reset(void)
{
    /* VECTKEY and SYSRESETREQ, B3.2.6 */
    *RESET_CONTROL = 0x05FA0004U;
    for (;;) {
    }
}

void clock_start(void)
{
    SYSTICK->reload = TICKS_PER_TURN - 1U;
    SYSTICK->value = 0;
    SYSTICK->control = 7U;
}

void clock_interrupt(void)
{
    turns++;
}

uint64_t clock_ticks(void)
{
    uint32_t seen;
    uint32_t ticks;
    do {
        seen = turns;
        ticks = TICKS_PER_TURN - 1U - SYSTICK->value;
        /* The counter may have turned while its interrupt waits. */
        if ((*INTERRUPT_CONTROL & (1U << 26)) != 0) {
            ticks = TICKS_PER_TURN + (TICKS_PER_TURN - 1U - SYSTICK->value);
        }
    } while (seen != turns);
    return (uint64_t)seen * TICKS_PER_TURN + ticks;
}

uint64_t clock_us(void)
{
    return clock_ticks() / (CLOCK_HZ / 1000000U);
}
