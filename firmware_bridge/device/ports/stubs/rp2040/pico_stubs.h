/* As much of the Pico SDK as port_rp2040.c uses, so that it can be checked without it. Names, types
 * and order of arguments follow the SDK's documentation; values do not matter. */
#ifndef PICO_STUBS_H
#define PICO_STUBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned int uint;
typedef struct uart_inst uart_inst_t;
typedef void (*irq_handler_t)(void);
typedef struct {
    uint8_t id[8];
} pico_unique_board_id_t;
enum gpio_function { GPIO_FUNC_UART = 2 };

extern uart_inst_t *const uart0;

#define PICO_FLASH_SIZE_BYTES (2 * 1024 * 1024)
#define FLASH_PAGE_SIZE (1U << 8)
#define XIP_BASE 0x10000000U
#define UART0_IRQ 20

uint uart_init(uart_inst_t *uart, uint baud);
void uart_write_blocking(uart_inst_t *uart, const uint8_t *bytes, size_t count);
void uart_tx_wait_blocking(uart_inst_t *uart);
bool uart_is_readable(uart_inst_t *uart);
char uart_getc(uart_inst_t *uart);
void uart_set_irq_enables(uart_inst_t *uart, bool rx_has_data, bool tx_needs_data);
void gpio_set_function(uint gpio, enum gpio_function function);
void irq_set_exclusive_handler(uint number, irq_handler_t handler);
void irq_set_enabled(uint number, bool enabled);
uint32_t save_and_disable_interrupts(void);
void restore_interrupts(uint32_t status);
void flash_range_erase(uint32_t offset, size_t count);
void flash_range_program(uint32_t offset, const uint8_t *bytes, size_t count);
void watchdog_reboot(uint32_t pc, uint32_t sp, uint32_t delay_ms);
uint64_t time_us_64(void);
uint32_t get_rand_32(void);
void pico_get_unique_board_id(pico_unique_board_id_t *id);

#endif
