/* The port layer for ESP-IDF 5: UART 1, a flash partition, one task.
 *
 * The UART driver's ring buffer takes what comes while flash is erased. All calls into the library
 * come from journeyman_task(); other tasks hand it their samples through a queue.
 */
#include <stdlib.h>
#include <string.h>

#include "driver/uart.h"
#include "esp_mac.h"
#include "esp_partition.h"
#include "esp_random.h"
#include "esp_system.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "jm_content.h"
#include "journeyman.h"

#define PORT UART_NUM_1
#define BAUD 921600
#define RING_BYTES 4096
#define ARENA_BYTES 32768U

static struct jm_device device;
static const esp_partition_t *partition;
static const void *mapped;
static int8_t arena[ARENA_BYTES];

void journeyman_task(void *unused);

uint64_t jm_port_time_us(void)
{
    return (uint64_t)esp_timer_get_time();
}

void jm_port_send(const uint8_t *bytes, size_t count)
{
    /* On RS-485: uart_set_mode(PORT, UART_MODE_RS485_HALF_DUPLEX) drives the bus. */
    (void)uart_write_bytes(PORT, bytes, count);
}

void jm_port_reset(void)
{
    (void)uart_wait_tx_done(PORT, portMAX_DELAY);
    esp_restart();
}

void jm_port_application(uint8_t type, const uint8_t *payload, size_t count)
{
    (void)type;
    (void)payload;
    (void)count;
}

void jm_port_flash_erase(uint32_t address)
{
    (void)esp_partition_erase_range(partition, address, JM_SECTOR_BYTES);
}

void jm_port_flash_write(uint32_t address, const uint8_t *unit)
{
    (void)esp_partition_write(partition, address, unit, JM_FLASH_UNIT);
}

void jm_port_flash_read(uint32_t address, uint8_t *to, uint32_t count)
{
    if (esp_partition_read(partition, address, to, count) != ESP_OK) {
        memset(to, 0, count);
    }
}

const uint8_t *jm_port_flash_map(uint32_t address)
{
    return (const uint8_t *)mapped + address;
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

static void start_line(void)
{
    const uart_config_t config = {
        .baud_rate = BAUD,
        .data_bits = UART_DATA_8_BITS,
        .parity = UART_PARITY_DISABLE,
        .stop_bits = UART_STOP_BITS_1,
    };

    ESP_ERROR_CHECK(uart_driver_install(PORT, RING_BYTES, 0, 0, NULL, 0));
    ESP_ERROR_CHECK(uart_param_config(PORT, &config));
    ESP_ERROR_CHECK(uart_set_pin(PORT, 17, 16, UART_PIN_NO_CHANGE, UART_PIN_NO_CHANGE));
}

static void start_flash(void)
{
    static esp_partition_mmap_handle_t handle;

    partition = esp_partition_find_first(ESP_PARTITION_TYPE_DATA, ESP_PARTITION_SUBTYPE_ANY,
                                         "journeyman");
    if (partition == NULL || partition->size < JM_FLASH_BYTES) {
        abort(); /* partitions.csv has no such partition */
    }
    ESP_ERROR_CHECK(esp_partition_mmap(partition, 0, JM_FLASH_BYTES, ESP_PARTITION_MMAP_DATA,
                                       &mapped, &handle));
}

/* xTaskCreate(journeyman_task, "journeyman", 8192, NULL, 5, NULL); */
void journeyman_task(void *unused)
{
    static struct jm_identity identity = {
        .slot_bytes = JM_LE32(JM_SLOT_BYTES),
        .arena_bytes = JM_LE32(ARENA_BYTES),
        .operators = JM_LE32(JM_MODEL_OPERATIONS),
        .firmware = "pump 2.0.1",
    };
    uint8_t bytes[256];

    (void)unused;
    start_line();
    start_flash();
    ESP_ERROR_CHECK(esp_read_mac(identity.id, ESP_MAC_BASE));
    jm_init(&device, &identity, esp_random());
    for (;;) {
        int count = uart_read_bytes(PORT, bytes, sizeof bytes, 1); /* one tick at most */

        if (count > 0) {
            jm_receive(&device, bytes, (size_t)count, jm_port_time_us());
        }
        jm_run(&device);
        /* jm_sensor(&device, &rows) when samples are there */
    }
}
