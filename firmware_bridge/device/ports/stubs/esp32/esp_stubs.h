/* As much of ESP-IDF 5 as port_esp32.c uses, so that it can be checked without it. Names, types and
 * order of arguments follow Espressif's API reference; values do not matter. */
#ifndef ESP_STUBS_H
#define ESP_STUBS_H

#include <stddef.h>
#include <stdint.h>

typedef int esp_err_t;
typedef uint32_t TickType_t;
typedef int uart_port_t;
typedef uint32_t esp_partition_mmap_handle_t;
typedef struct {
    uint32_t address;
    uint32_t size;
} esp_partition_t;
typedef enum { ESP_PARTITION_TYPE_DATA = 1 } esp_partition_type_t;
typedef enum { ESP_PARTITION_SUBTYPE_ANY = 0xff } esp_partition_subtype_t;
typedef enum { ESP_PARTITION_MMAP_DATA } esp_partition_mmap_memory_t;
typedef enum { UART_DATA_8_BITS = 3 } uart_word_length_t;
typedef enum { UART_PARITY_DISABLE } uart_parity_t;
typedef enum { UART_STOP_BITS_1 = 1 } uart_stop_bits_t;
typedef enum { ESP_MAC_BASE = 4 } esp_mac_type_t;
typedef struct {
    int baud_rate;
    uart_word_length_t data_bits;
    uart_parity_t parity;
    uart_stop_bits_t stop_bits;
} uart_config_t;
typedef void *QueueHandle_t;

#define ESP_OK 0
#define UART_NUM_1 1
#define UART_PIN_NO_CHANGE (-1)
#define portMAX_DELAY 0xFFFFFFFFU
#define ESP_ERROR_CHECK(x)                                                                         \
    do {                                                                                           \
        if ((x) != ESP_OK) {                                                                       \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

esp_err_t uart_driver_install(uart_port_t port, int rx_bytes, int tx_bytes, int queue_size,
                              QueueHandle_t *queue, int intr_alloc_flags);
esp_err_t uart_param_config(uart_port_t port, const uart_config_t *config);
esp_err_t uart_set_pin(uart_port_t port, int tx, int rx, int rts, int cts);
esp_err_t uart_wait_tx_done(uart_port_t port, TickType_t ticks);
int uart_write_bytes(uart_port_t port, const void *bytes, size_t count);
int uart_read_bytes(uart_port_t port, void *bytes, uint32_t count, TickType_t ticks);
const esp_partition_t *esp_partition_find_first(esp_partition_type_t type,
                                                esp_partition_subtype_t subtype,
                                                const char *label);
esp_err_t esp_partition_read(const esp_partition_t *partition, size_t offset, void *to,
                             size_t count);
esp_err_t esp_partition_write(const esp_partition_t *partition, size_t offset, const void *from,
                              size_t count);
esp_err_t esp_partition_erase_range(const esp_partition_t *partition, size_t offset, size_t count);
esp_err_t esp_partition_mmap(const esp_partition_t *partition, size_t offset, size_t count,
                             esp_partition_mmap_memory_t memory, const void **out,
                             esp_partition_mmap_handle_t *handle);
esp_err_t esp_read_mac(uint8_t *mac, esp_mac_type_t type);
int64_t esp_timer_get_time(void);
uint32_t esp_random(void);
void esp_restart(void);

#endif
