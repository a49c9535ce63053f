#include "mps2_an385.h"

#define TRANSMITTER_FULL 1U
#define RECEIVER_FULL 2U
#define RECEIVER_OVERRUN 8U
#define ENABLE 3U
#define RECEIVE_INTERRUPT 8U
#define RECEIVED 2U

static uint8_t ring[UART_RING];
static volatile uint32_t filled; /* by the interrupt alone */
static volatile uint32_t emptied; /* by the main loop alone */
static volatile uint32_t overruns;
static volatile uint64_t arrived; /* ticks; written by the interrupt */

void uart_start(uint32_t baud)
{
    UART0->baud_divisor = CLOCK_HZ / baud;
    UART0->control = ENABLE | RECEIVE_INTERRUPT;
    *NVIC_ENABLE = 1U << UART0_RECEIVE_IRQ;
}

void uart_interrupt(void)
{
    UART0->interrupt = RECEIVED;
    if ((UART0->state & RECEIVER_OVERRUN) != 0) {
        UART0->state = RECEIVER_OVERRUN;
        overruns++;
    }
    while ((UART0->state & RECEIVER_FULL) != 0) {
        if (filled - emptied == UART_RING) {
            UART0->control = ENABLE; /* `uart_receive` turns the interrupt on again */
            return;
        }
        ring[filled % UART_RING] = (uint8_t)UART0->data;
        filled++;
        arrived = clock_ticks();
    }
}

size_t uart_receive(uint8_t *to, size_t most, uint64_t *arrived_us)
{
    size_t count = 0;
    uint64_t seen;
    while (count < most && emptied != filled) {
        to[count++] = ring[emptied % UART_RING];
        emptied++;
    }
    do {
        seen = arrived;
    } while (seen != arrived);
    *arrived_us = seen / (CLOCK_HZ / 1000000U);
    if ((UART0->control & RECEIVE_INTERRUPT) == 0 && filled - emptied < UART_RING) {
        /* A byte that waits already gives no interrupt: it is taken here, alone with the ring. */
        *NVIC_DISABLE = 1U << UART0_RECEIVE_IRQ;
        UART0->control = ENABLE | RECEIVE_INTERRUPT;
        uart_interrupt();
        *NVIC_ENABLE = 1U << UART0_RECEIVE_IRQ;
    }
    return count;
}

void uart_send(const uint8_t *from, size_t size)
{
    while (size > 0) {
        while ((UART0->state & TRANSMITTER_FULL) != 0) {
        }
        UART0->data = *from++;
        size--;
    }
}

void uart_flush(void)
{
    uint64_t start = clock_ticks();
    /* The state tells of the buffer, not of the shift register: two bytes' time, at least. */
    while ((UART0->state & TRANSMITTER_FULL) != 0) {
    }
    while (clock_ticks() - start < 40U * UART0->baud_divisor) {
    }
}

uint32_t uart_overruns(void)
{
    return overruns;
}
