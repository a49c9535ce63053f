#include "host.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "../jm_content.h"

#define UNITS (JM_FLASH_BYTES / JM_FLASH_UNIT)
#define ARENA_BYTES 16384U
#define SPOILED 0x00 /* what is read of a unit that a cut left half programmed, with ECC */

/* State of a unit of flash: the second half of the memory. */
enum { BLANK, PROGRAMMED, TORN };

struct host {
    struct jm_device device;
    struct jm_identity identity;
    uint8_t *flash;
    uint8_t *units;
    uint64_t now_us;
    jmp_buf leave;
    enum host_end end;
    uint32_t operations;
    uint32_t cut_at; /* counted down; 0: never */
    uint32_t noise;
    uint32_t violations;
    uint32_t worn_at;
    uint32_t worn_bytes;
    int self_test;
    const uint8_t *model;
    uint32_t model_bytes;
    size_t sent;
    int8_t arena[ARENA_BYTES];
    uint8_t line[JM_HOST_LINE_BYTES];
};

/* The functions of a port have no argument for the device, because a chip has one. */
static struct host *current;

static uint32_t noise(void)
{
    uint32_t x = current->noise; /* xorshift, Marsaglia 2003 */

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    current->noise = x;
    return x;
}

/* Whether the power goes in the middle of the operation that begins now. */
static int is_cut(void)
{
    current->operations++;
    return current->cut_at != 0 && --current->cut_at == 0;
}

static void stop(enum host_end end)
{
    current->end = end;
    longjmp(current->leave, 1);
}

static int is_worn(uint32_t address)
{
    return address - current->worn_at < current->worn_bytes;
}

uint64_t jm_port_time_us(void)
{
    return current->now_us;
}

void jm_port_send(const uint8_t *bytes, size_t count)
{
    int cut = is_cut();
    size_t room = JM_HOST_LINE_BYTES - current->sent;

    if (cut) {
        count = noise() % count;
    }
    count = count < room ? count : room;
    memcpy(current->line + current->sent, bytes, count);
    current->sent += count;
    if (cut) {
        stop(HOST_CUT);
    }
}

void jm_port_reset(void)
{
    stop(HOST_RESET);
}

void jm_port_application(uint8_t type, const uint8_t *payload, size_t count)
{
    (void)type;
    (void)payload;
    (void)count;
}

/* What an interrupted erase leaves: any mixture of the old bytes, ones, and bits between. */
static void tear_erase(uint8_t *sector, uint32_t count)
{
    uint32_t kind = noise() % 4;

    for (uint32_t i = 0; i < count; i++) {
        if (kind == 0 || (kind == 1 && i < count / 2)) {
            sector[i] = 0xFF;
        } else if (kind != 1) {
            sector[i] = (uint8_t)(sector[i] | noise());
        }
    }
}

void jm_port_flash_erase(uint32_t address)
{
    uint32_t count = address < JM_SLOT_ADDRESS(0) ? JM_META_BYTES : JM_SECTOR_BYTES;
    uint8_t *units = current->units + address / JM_FLASH_UNIT;

    if (address >= JM_FLASH_BYTES || address % count != 0) {
        current->violations++;
        return;
    }
    if (is_cut()) {
        tear_erase(current->flash + address, count);
        memset(units, TORN, count / JM_FLASH_UNIT);
        stop(HOST_CUT);
    }
    if (is_worn(address)) {
        return;
    }
    memset(current->flash + address, 0xFF, count);
    memset(units, BLANK, count / JM_FLASH_UNIT);
}

/* What an interrupted programming leaves: nothing, some first bytes, or some of the bits. */
static void tear_write(uint8_t *to, const uint8_t *unit)
{
    uint32_t kind = noise() % 4;
    uint32_t first = noise() % (JM_FLASH_UNIT + 1);

    for (uint32_t i = 0; kind != 0 && i < JM_FLASH_UNIT; i++) {
        if (i < first) {
            to[i] &= unit[i];
        } else if (kind == 1) {
            to[i] &= (uint8_t)(unit[i] | noise());
        }
    }
}

static int is_ones(const uint8_t *bytes)
{
    for (uint32_t i = 0; i < JM_FLASH_UNIT; i++) {
        if (bytes[i] != 0xFF) {
            return 0;
        }
    }
    return 1;
}

void jm_port_flash_write(uint32_t address, const uint8_t *unit)
{
    uint8_t *to = current->flash + address;
    uint8_t *state = current->units + address / JM_FLASH_UNIT;

    if (address >= JM_FLASH_BYTES || address % JM_FLASH_UNIT != 0 || *state == PROGRAMMED ||
        !is_ones(to)) {
        current->violations++;
        return;
    }
    if (is_cut()) {
        tear_write(to, unit);
        *state = is_ones(to) ? BLANK : memcmp(to, unit, JM_FLASH_UNIT) == 0 ? PROGRAMMED : TORN;
        stop(HOST_CUT);
    }
    if (!is_worn(address)) {
        memcpy(to, unit, JM_FLASH_UNIT);
        *state = PROGRAMMED;
    }
}

void jm_port_flash_read(uint32_t address, uint8_t *to, uint32_t count)
{
    if (address > JM_FLASH_BYTES || count > JM_FLASH_BYTES - address) {
        current->violations++;
        memset(to, 0, count);
        return;
    }
    memcpy(to, current->flash + address, count);
#ifdef JM_HOST_ECC /* as an STM32L4 or H7: a torn unit cannot be read */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = address + i;

        if (current->units[at / JM_FLASH_UNIT] == TORN &&
            !is_ones(current->flash + at / JM_FLASH_UNIT * JM_FLASH_UNIT)) {
            to[i] = SPOILED;
        }
    }
#endif
}

const uint8_t *jm_port_flash_map(uint32_t address)
{
    return current->flash + address;
}

static uint32_t number(const uint8_t *from, unsigned bytes)
{
    uint32_t value = 0;

    while (bytes-- != 0) {
        value = value << 8 | from[bytes];
    }
    return value;
}

enum jm_reason jm_port_self_test(const uint8_t *content, uint32_t size)
{
    uint64_t bytes;

    if (current->self_test >= 0) {
        return (enum jm_reason)current->self_test;
    }
    if (current->self_test == HOST_INFER) {
        return jm_content_test(content, size, current->arena, ARENA_BYTES);
    }
    if (size < 16) {
        return JM_IMAGE_NOT_VALID;
    }
    bytes = 16 + ((uint64_t)number(content, 4) + 15) / 16 * 16;
    bytes += (uint64_t)number(content + 4, 2) * (number(content + 6, 2) + number(content + 8, 2));
    return bytes == size ? JM_FINE : JM_IMAGE_NOT_VALID;
}

void jm_port_model(const uint8_t *content, uint32_t size)
{
    current->model = content;
    current->model_bytes = size;
}

size_t host_memory_bytes(void)
{
    return JM_FLASH_BYTES + UNITS;
}

void host_erase_memory(uint8_t *memory)
{
    memset(memory, 0xFF, JM_FLASH_BYTES);
    memset(memory + JM_FLASH_BYTES, BLANK, UNITS);
}

static void put_number(uint8_t to[4], uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        to[i] = (uint8_t)(value >> 8 * i);
    }
}

struct host *host_new(uint8_t *memory, uint8_t address, const uint8_t id[16])
{
    struct host *host = calloc(1, sizeof *host);

    if (host != NULL) {
        host->flash = memory;
        host->units = memory + JM_FLASH_BYTES;
        host->identity.address = address;
        memcpy(host->identity.id, id, sizeof host->identity.id);
        put_number(host->identity.slot_bytes, JM_SLOT_BYTES);
        put_number(host->identity.arena_bytes, ARENA_BYTES);
        put_number(host->identity.operators, JM_MODEL_OPERATIONS);
        memcpy(host->identity.firmware, "host 1", 7);
        host->noise = 1;
        host->end = HOST_CUT;
        host->self_test = HOST_LOOK;
    }
    return host;
}

void host_free(struct host *host)
{
    free(host);
}

void host_set_time(struct host *host, uint64_t now_us)
{
    host->now_us = now_us;
}

/* Each call into the library: `statement` runs until it returns or the device stops. */
#define ENTER(statement)                                                                          \
    do {                                                                                          \
        current = host;                                                                           \
        if (host->end == HOST_RUNS && setjmp(host->leave) == 0) {                                 \
            statement;                                                                            \
        }                                                                                         \
        return host->end;                                                                         \
    } while (0)

enum host_end host_boot(struct host *host, uint32_t boot)
{
    host->end = HOST_RUNS;
    host->model = NULL;
    host->model_bytes = 0;
    ENTER(jm_init(&host->device, &host->identity, boot));
}

enum host_end host_receive(struct host *host, const uint8_t *bytes, size_t count,
                           uint64_t arrived_us)
{
    ENTER(jm_receive(&host->device, bytes, count, arrived_us));
}

enum host_end host_run(struct host *host)
{
    ENTER(jm_run(&host->device));
}

enum host_end host_sensor(struct host *host, const struct jm_rows *rows)
{
    ENTER((void)jm_sensor(&host->device, rows));
}

enum host_end host_score(struct host *host, const struct jm_rows *rows)
{
    ENTER((void)jm_score(&host->device, rows));
}

enum host_end host_log(struct host *host, const char *text)
{
    ENTER(jm_log(&host->device, text));
}

size_t host_take(struct host *host, uint8_t *to, size_t room)
{
    size_t count = host->sent < room ? host->sent : room;

    memcpy(to, host->line, count);
    host->sent -= count;
    memmove(host->line, host->line + count, host->sent);
    return count;
}

void host_cut_at(struct host *host, uint32_t operations, uint32_t seed)
{
    host->cut_at = operations;
    host->noise = seed != 0 ? seed : 1;
}

uint32_t host_operations(const struct host *host)
{
    return host->operations;
}

uint32_t host_violations(const struct host *host)
{
    return host->violations;
}

void host_wear_out(struct host *host, uint32_t address, uint32_t count)
{
    host->worn_at = address;
    host->worn_bytes = count;
}

void host_set_self_test(struct host *host, int reason)
{
    host->self_test = reason;
}

uint32_t host_model(const struct host *host, uint32_t *size)
{
    *size = host->model_bytes;
    return host->model == NULL ? ~0U : (uint32_t)(host->model - host->flash);
}
