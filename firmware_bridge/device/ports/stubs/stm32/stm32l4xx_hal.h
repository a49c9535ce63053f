/* As much of ST's header of this name as port_stm32.c uses, so that it can be checked without it.
 * Names, types and order of arguments follow ST's documentation (UM1884); values do not matter. */
#ifndef STM32L4XX_HAL_H
#define STM32L4XX_HAL_H

#include <stdint.h>

typedef enum { HAL_OK, HAL_ERROR, HAL_BUSY, HAL_TIMEOUT } HAL_StatusTypeDef;
typedef struct {
    uint32_t CNDTR;
} DMA_Channel_TypeDef;
typedef struct {
    DMA_Channel_TypeDef *Instance;
} DMA_HandleTypeDef;
typedef struct {
    DMA_HandleTypeDef *hdmarx;
} UART_HandleTypeDef;
typedef struct {
    volatile uint32_t CNT;
} TIM_TypeDef;
typedef struct {
    TIM_TypeDef *Instance;
} TIM_HandleTypeDef;
typedef struct {
    uint32_t TypeErase;
    uint32_t Banks;
    uint32_t Page;
    uint32_t NbPages;
} FLASH_EraseInitTypeDef;
typedef struct {
    volatile uint32_t BKP0R;
} RTC_TypeDef;

extern RTC_TypeDef *RTC;
extern volatile uint32_t FLASH_FLAGS;

#define FLASH_TYPEERASE_PAGES 0U
#define FLASH_TYPEPROGRAM_DOUBLEWORD 0U
#define FLASH_BANK_2 2U
#define FLASH_FLAG_ALL_ERRORS 0xC3FAU
#define FLASH_FLAG_ECCD 0x80000000U
#define __HAL_FLASH_CLEAR_FLAG(flag) (FLASH_FLAGS = (flag))
#define __HAL_FLASH_GET_FLAG(flag) ((FLASH_FLAGS & (flag)) != 0U)
#define __HAL_DMA_GET_COUNTER(handle) ((handle)->Instance->CNDTR)
#define __HAL_TIM_GET_COUNTER(handle) ((handle)->Instance->CNT)

HAL_StatusTypeDef HAL_FLASH_Unlock(void);
HAL_StatusTypeDef HAL_FLASH_Lock(void);
HAL_StatusTypeDef HAL_FLASH_Program(uint32_t type, uint32_t address, uint64_t data);
HAL_StatusTypeDef HAL_FLASHEx_Erase(FLASH_EraseInitTypeDef *erase, uint32_t *failed_page);
HAL_StatusTypeDef HAL_UART_Transmit(UART_HandleTypeDef *uart, const uint8_t *data, uint16_t size,
                                    uint32_t timeout_ms);
HAL_StatusTypeDef HAL_UART_Receive_DMA(UART_HandleTypeDef *uart, uint8_t *data, uint16_t size);
uint32_t HAL_GetUIDw0(void);
uint32_t HAL_GetUIDw1(void);
uint32_t HAL_GetUIDw2(void);
void NVIC_SystemReset(void);
void NMI_Handler(void);
void journeyman_main(void);

#endif
