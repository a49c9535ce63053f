/* The port layer for the Pico SDK: UART 0 with an interrupt, the end of the QSPI flash.
 *
 * The program runs from the same flash: while it is erased (45 ms a sector, typically) or
 * programmed (0.4 ms), no code of it may run, interrupts included. Bytes that come then are lost;
 * the gateway sends them again. If the second core runs, wrap both in multicore_lockout_start_
 * blocking() and multicore_lockout_end_blocking().
 */
#include <string.h>

#include "hardware/flash.h"
#include "hardware/irq.h"
#include "hardware/sync.h"
#include "hardware/uart.h"
#include "hardware/watchdog.h"
#include "jm_content.h"
#include "journeyman.h"
#include "pico/rand.h"
#include "pico/stdlib.h"
#include "pico/unique_id.h"

#define FLASH_AT ((uint32_t)PICO_FLASH_SIZE_BYTES - JM_FLASH_BYTES)
#define BAUD 921600
#define RING_BYTES 2048U /* a power of two */
#define ARENA_BYTES 32768U

static struct jm_device device;
static uint8_t ring[RING_BYTES];
static volatile uint32_t ring_head;
static volatile uint64_t arrived_us;
static int8_t arena[ARENA_BYTES];

uint64_t jm_port_time_us(void)
{
    return time_us_64();
}

void jm_port_send(const uint8_t *bytes, size_t count)
{
    /* On RS-485: raise DE here, and lower it after uart_tx_wait_blocking(). */
    uart_write_blocking(uart0, bytes, count);
}

void jm_port_reset(void)
{
    uart_tx_wait_blocking(uart0);
    watchdog_reboot(0, 0, 0);
    for (;;) {
    }
}

void jm_port_application(uint8_t type, const uint8_t *payload, size_t count)
{
    (void)type;
    (void)payload;
    (void)count;
}

void jm_port_flash_erase(uint32_t address)
{
    uint32_t interrupts = save_and_disable_interrupts();

    flash_range_erase(FLASH_AT + address, JM_SECTOR_BYTES);
    restore_interrupts(interrupts);
}

/* The chip programs pages of 256 bytes; ones leave the rest of the page as it is. */
void jm_port_flash_write(uint32_t address, const uint8_t *unit)
{
    static uint8_t page[FLASH_PAGE_SIZE];
    uint32_t at = address % FLASH_PAGE_SIZE;
    uint32_t interrupts;

    memset(page, 0xFF, sizeof page);
    memcpy(page + at, unit, JM_FLASH_UNIT);
    interrupts = save_and_disable_interrupts();
    flash_range_program(FLASH_AT + address - at, page, sizeof page);
    restore_interrupts(interrupts);
}

void jm_port_flash_read(uint32_t address, uint8_t *to, uint32_t count)
{
    memcpy(to, jm_port_flash_map(address), count);
}

const uint8_t *jm_port_flash_map(uint32_t address)
{
    return (const uint8_t *)(uintptr_t)(XIP_BASE + FLASH_AT + address);
}

enum jm_reason jm_port_self_test(const uint8_t *content, uint32_t size)
{
    return jm_content_test(content, size, arena, ARENA_BYTES);
}

void jm_port_model(const uint8_t *content, uint32_t size)
{
    (void)content; /* jm_content_open() here, jm_model_run() where rows are ready */
    (void)size;
}

static void on_uart(void)
{
    while (uart_is_readable(uart0)) {
        ring[ring_head % RING_BYTES] = (uint8_t)uart_getc(uart0);
        ring_head++;
    }
    arrived_us = time_us_64();
}

static void start_line(void)
{
    (void)uart_init(uart0, BAUD);
    gpio_set_function(0, GPIO_FUNC_UART);
    gpio_set_function(1, GPIO_FUNC_UART);
    irq_set_exclusive_handler(UART0_IRQ, on_uart);
    irq_set_enabled(UART0_IRQ, true);
    uart_set_irq_enables(uart0, true, false);
}

int main(void)
{
    static struct jm_identity identity = {
        .slot_bytes = JM_LE32(JM_SLOT_BYTES),
        .arena_bytes = JM_LE32(ARENA_BYTES),
        .operators = JM_LE32(JM_MODEL_OPERATIONS),
        .firmware = "fan 0.9",
    };
    pico_unique_board_id_t board;
    uint32_t taken = 0;

    pico_get_unique_board_id(&board);
    memcpy(identity.id, board.id, sizeof board.id);
    start_line();
    jm_init(&device, &identity, get_rand_32());
    for (;;) {
        uint32_t interrupts = save_and_disable_interrupts();
        uint32_t head = ring_head;
        uint64_t time_us = arrived_us;

        restore_interrupts(interrupts);
        for (; taken != head; taken++) {
            jm_receive(&device, &ring[taken % RING_BYTES], 1, time_us);
        }
        jm_run(&device);
        /* jm_sensor(&device, &rows) when samples are there */
    }
}
