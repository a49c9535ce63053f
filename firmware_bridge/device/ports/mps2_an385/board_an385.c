/* The MPS2 board for the check programs: UART0, and instructions as QEMU counts them. */
#include "board.h"
#include "mps2_an385.h"

void board_start(void)
{
    TIMER0->reload = 0xFFFFFFFFU;
    TIMER0->value = 0xFFFFFFFFU;
    TIMER0->control = 1U;
    clock_start();
    uart_start(921600U);
}

void board_take(uint8_t *to, size_t size)
{
    while (size > 0) {
        uint64_t arrived_us;
        size_t came = uart_receive(to, size, &arrived_us);
        to += came;
        size -= came;
    }
}

void board_give(const uint8_t *from, size_t size)
{
    uart_send(from, size);
}

/* Under `-icount shift=6` an instruction takes 64 ns of virtual time and a tick 40 ns, so ticks
 * are 1.6 times the instructions. Elsewhere they are 25 MHz ticks and mean time. */
uint32_t board_instructions(void)
{
    return ~TIMER0->value;
}
