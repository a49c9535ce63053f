/*
 * Registers and drivers of ARM's MPS2 board with FPGA image AN385, as QEMU's machine
 * `mps2-an385` has them: one Cortex-M3 at 25 MHz.
 *
 * Sources: Application Note AN385 (memory map, interrupt map); Cortex-M System Design Kit
 * Technical Reference Manual, "APB UART" and "APB timer"; ARMv7-M Architecture Reference Manual,
 * B3.2 (system control), B3.3 (SysTick), B3.4 (NVIC).
 */
#ifndef MPS2_AN385_H
#define MPS2_AN385_H

#include <stddef.h>
#include <stdint.h>

#define CLOCK_HZ 25000000U

typedef volatile uint32_t reg;

typedef struct {
    reg data;
    reg state; /* bit 0: transmitter full; bit 1: receiver full; bits 2, 3: overrun */
    reg control; /* bits 0, 1: enable transmitter, receiver; bits 2, 3: their interrupts */
    reg interrupt; /* bits 0, 1: transmitter, receiver; 1 clears */
    reg baud_divisor;
} uart_registers;

typedef struct {
    reg control; /* bit 0: count; bit 3: interrupt */
    reg value;   /* counts down with CLOCK_HZ, then starts at `reload` */
    reg reload;
    reg interrupt;
} timer_registers;

typedef struct {
    reg control; /* bit 0: count; bit 1: interrupt; bit 2: the processor's clock */
    reg reload;  /* 24 bits */
    reg value;
    reg calibration;
} systick_registers;

#define UART0 ((uart_registers *)0x40004000U)
#define TIMER0 ((timer_registers *)0x40000000U)
#define SYSTICK ((systick_registers *)0xE000E010U)
#define NVIC_ENABLE ((reg *)0xE000E100U)
#define NVIC_DISABLE ((reg *)0xE000E180U)
#define INTERRUPT_CONTROL ((reg *)0xE000ED04U)
#define RESET_CONTROL ((reg *)0xE000ED0CU)

#define UART0_RECEIVE_IRQ 0U

/* Does not return. */
void system_reset(void);

/* SysTick as a clock of microseconds that never steps and never wraps. */
void clock_start(void);
uint64_t clock_ticks(void); /* of CLOCK_HZ, since clock_start() */
uint64_t clock_us(void);
void clock_interrupt(void);

/* UART0, 8N1. Received bytes wait in a ring; while it is full, the receiver is left alone, so
 * that an emulator waits and a real line overruns, which is counted. */
#define UART_RING 1024U /* a power of two */

void uart_start(uint32_t baud);

/* What there is, without waiting; where it is all there is, `arrived_us` is when the last byte
 * came. */
size_t uart_receive(uint8_t *to, size_t most, uint64_t *arrived_us);
void uart_send(const uint8_t *from, size_t size); /* returns when the last byte is in the UART */
void uart_flush(void); /* returns when it has left, too */
uint32_t uart_overruns(void);
void uart_interrupt(void);

/* Prepares the memory that stands for flash; returns how many resets it has seen. */
uint32_t flash_start(void);

#endif
