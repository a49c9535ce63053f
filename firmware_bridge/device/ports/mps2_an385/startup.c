/*
 * Reset and interrupts of a Cortex-M3 on ARM's MPS2 board with FPGA image AN385.
 *
 * ARMv7-M Architecture Reference Manual, B1.5 (exception model); the order of the board's
 * interrupts from Application Note AN385, "Interrupt map".
 */
#include <stdint.h>

#include "mps2_an385.h"

extern uint32_t link_stack_top[];
extern uint32_t link_data_start[];
extern uint32_t link_data_end[];
extern const uint32_t link_data_load[];
extern uint32_t link_bss_start[];
extern uint32_t link_bss_end[];

int main(void);
void reset_handler(void);

/* A fault has no way on but a reset; a model's trial then counts it. */
static void fault_handler(void)
{
    system_reset();
}

void reset_handler(void)
{
    const uint32_t *from = link_data_load;
    uint32_t *to;
    for (to = link_data_start; to < link_data_end; to++) {
        *to = *from++;
    }
    for (to = link_bss_start; to < link_bss_end; to++) {
        *to = 0;
    }
    (void)main();
    system_reset();
}

typedef void (*handler)(void);

/* Word 0 is the stack's end, then the handlers; the linker puts this at address 0. */
typedef struct {
    uint32_t *stack_top;
    handler exceptions[15];
    handler interrupts[2];
} vector_table;

extern const vector_table vectors;
const vector_table vectors __attribute__((section(".vectors"), used)) = {
    link_stack_top,
    {
        reset_handler,
        fault_handler, /* NMI */
        fault_handler, /* HardFault */
        fault_handler, /* MemManage */
        fault_handler, /* BusFault */
        fault_handler, /* UsageFault */
        0,
        0,
        0,
        0,
        fault_handler, /* SVCall */
        fault_handler, /* debug */
        0,
        fault_handler, /* PendSV */
        clock_interrupt,
    },
    {uart_interrupt, fault_handler},
};
