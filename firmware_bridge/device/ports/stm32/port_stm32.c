/* The port layer for STM32 with the HAL, written for an STM32L476: USART2 with DMA, TIM2 counting
 * microseconds, the second flash bank. CubeMX generates everything that is not here; huart2 has
 * its receive DMA set to circular, htim2 a period of 2^32 - 1 at 1 MHz.
 *
 * Other families: pages have other sizes, and units other widths (jm_config.h); on an H7 a double
 * ECC error is a bus fault instead of an NMI, to be masked by BFHFNMIGN during the copy.
 */
#include <string.h>

#include "jm_content.h"
#include "journeyman.h"
#include "stm32l4xx_hal.h"

#define FLASH_AT 0x08080000U /* the second bank */
#define JM_RING_BYTES 4096U
#define ARENA_BYTES 16384U
#define SEND_TIMEOUT_MS 1000U

extern UART_HandleTypeDef huart2;
extern TIM_HandleTypeDef htim2;

static struct jm_device device;
static uint8_t ring[JM_RING_BYTES];
static int8_t arena[ARENA_BYTES];
static volatile int ecc_failed;

uint64_t jm_port_time_us(void)
{
    static uint32_t high;
    static uint32_t last;
    uint32_t low = __HAL_TIM_GET_COUNTER(&htim2);

    /* The main loop comes by more often than every 71 minutes. */
    if (low < last) {
        high++;
    }
    last = low;
    return (uint64_t)high << 32 | low;
}

void jm_port_send(const uint8_t *bytes, size_t count)
{
    /* On RS-485 the USART drives DE itself (HAL_RS485Ex_Init). */
    (void)HAL_UART_Transmit(&huart2, bytes, (uint16_t)count, SEND_TIMEOUT_MS);
}

void jm_port_reset(void)
{
    NVIC_SystemReset(); /* HAL_UART_Transmit has waited for the last byte */
}

void jm_port_application(uint8_t type, const uint8_t *payload, size_t count)
{
    (void)type;
    (void)payload;
    (void)count;
}

void jm_port_flash_erase(uint32_t address)
{
    FLASH_EraseInitTypeDef erase = {
        .TypeErase = FLASH_TYPEERASE_PAGES,
        .Banks = FLASH_BANK_2,
        .Page = address / JM_SECTOR_BYTES,
        .NbPages = 1,
    };
    uint32_t failed_page;

    HAL_FLASH_Unlock();
    __HAL_FLASH_CLEAR_FLAG(FLASH_FLAG_ALL_ERRORS);
    (void)HAL_FLASHEx_Erase(&erase, &failed_page);
    HAL_FLASH_Lock();
}

void jm_port_flash_write(uint32_t address, const uint8_t *unit)
{
    uint64_t word;

    memcpy(&word, unit, sizeof word);
    HAL_FLASH_Unlock();
    __HAL_FLASH_CLEAR_FLAG(FLASH_FLAG_ALL_ERRORS);
    (void)HAL_FLASH_Program(FLASH_TYPEPROGRAM_DOUBLEWORD, FLASH_AT + address, word);
    HAL_FLASH_Lock();
}

/* A double word that a reset tore has two wrong bits or more: reading it ends here. */
void NMI_Handler(void)
{
    if (__HAL_FLASH_GET_FLAG(FLASH_FLAG_ECCD)) {
        __HAL_FLASH_CLEAR_FLAG(FLASH_FLAG_ECCD);
        ecc_failed = 1;
    }
}

void jm_port_flash_read(uint32_t address, uint8_t *to, uint32_t count)
{
    ecc_failed = 0;
    memcpy(to, jm_port_flash_map(address), count);
    if (ecc_failed) {
        memset(to, 0, count);
    }
}

const uint8_t *jm_port_flash_map(uint32_t address)
{
    return (const uint8_t *)(uintptr_t)(FLASH_AT + address);
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

/* Call from main() when everything is initialized; never returns. */
void journeyman_main(void)
{
    static struct jm_identity identity = {
        .slot_bytes = JM_LE32(JM_SLOT_BYTES),
        .arena_bytes = JM_LE32(ARENA_BYTES),
        .operators = JM_LE32(JM_MODEL_OPERATIONS),
        .firmware = "press 1.4.0",
    };
    uint32_t uid[3] = {HAL_GetUIDw0(), HAL_GetUIDw1(), HAL_GetUIDw2()};
    size_t taken = 0;

    memcpy(identity.id, uid, sizeof uid);
    (void)HAL_UART_Receive_DMA(&huart2, ring, JM_RING_BYTES);
    jm_init(&device, &identity, ++RTC->BKP0R);
    for (;;) {
        size_t written = JM_RING_BYTES - __HAL_DMA_GET_COUNTER(huart2.hdmarx);
        size_t end = written < taken ? JM_RING_BYTES : written;

        if (end != taken) {
            jm_receive(&device, ring + taken, end - taken, jm_port_time_us());
            taken = end % JM_RING_BYTES;
        }
        jm_run(&device);
        /* jm_sensor(&device, &rows) when samples are there */
    }
}
