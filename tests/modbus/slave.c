/* A Modbus slave on libmodbus: another author's words for what the agent reads.
 *
 *   slave rtu PATH BAUD UNIT     answers as UNIT, even parity off, 8N1
 *   slave tcp PORT               answers every unit but 9, which is silent; unit 11 is behind a
 *                                gateway that says that it does not respond; unit 12 is busy
 *
 * Prints READY and libmodbus' version when it can be asked.
 *
 * Holding registers 0 to 299 hold three times their address, but for:
 *   100, 102, 104, 106   123.456 by libmodbus' own float functions: abcd, dcba, badc, cdab
 *   110                  -123456789 as int32, 114 1234567890123456789 as int64, words big
 *   120                  0x8000, a sensor that failed
 *   130                  how many requests came
 *   150 to 159           do not exist: exception 2 when a read touches one
 * Input registers hold 1000 plus their address; coils are on where their address is a multiple of
 * three, discrete inputs where it is a multiple of five.
 */
#include <errno.h>
#include <modbus.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

enum { REGISTERS = 300, BITS = 2400, HOLE_FIRST = 150, HOLE_LAST = 159 };
enum { SILENT_UNIT = 9, UNREACHABLE_UNIT = 11, BUSY_UNIT = 12 };

static modbus_mapping_t *measured(void) {
    modbus_mapping_t *map = modbus_mapping_new(BITS, BITS, REGISTERS, REGISTERS);
    if (map == NULL) {
        return NULL;
    }
    for (int at = 0; at < REGISTERS; at++) {
        map->tab_registers[at] = (uint16_t)(3 * at);
        map->tab_input_registers[at] = (uint16_t)(1000 + at);
    }
    for (int at = 0; at < BITS; at++) {
        map->tab_bits[at] = at % 3 == 0;
        map->tab_input_bits[at] = at % 5 == 0;
    }
    modbus_set_float_abcd(123.456f, map->tab_registers + 100);
    modbus_set_float_dcba(123.456f, map->tab_registers + 102);
    modbus_set_float_badc(123.456f, map->tab_registers + 104);
    modbus_set_float_cdab(123.456f, map->tab_registers + 106);
    int32_t small = -123456789;
    int64_t large = INT64_C(1234567890123456789);
    MODBUS_SET_INT32_TO_INT16(map->tab_registers, 110, small);
    MODBUS_SET_INT64_TO_INT16(map->tab_registers, 114, large);
    map->tab_registers[120] = 0x8000;
    return map;
}

/* Answer one request; `header` is where its function code stands. */
static void answer(modbus_t *line, const uint8_t *request, int length, int header,
                   modbus_mapping_t *map, int is_tcp) {
    int unit = request[header - 1];
    int function = request[header];
    int address = request[header + 1] << 8 | request[header + 2];
    int count = request[header + 3] << 8 | request[header + 4];
    map->tab_registers[130]++;
    if (is_tcp && unit == SILENT_UNIT) {
        return;
    }
    if (is_tcp && unit == UNREACHABLE_UNIT) {
        modbus_reply_exception(line, request, MODBUS_EXCEPTION_GATEWAY_TARGET);
    } else if (is_tcp && unit == BUSY_UNIT) {
        modbus_reply_exception(line, request, MODBUS_EXCEPTION_SLAVE_OR_SERVER_BUSY);
    } else if (function == 3 && address <= HOLE_LAST && address + count > HOLE_FIRST) {
        modbus_reply_exception(line, request, MODBUS_EXCEPTION_ILLEGAL_DATA_ADDRESS);
    } else {
        modbus_reply(line, request, length, map);
    }
}

static int serve_rtu(modbus_t *line, modbus_mapping_t *map) {
    uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];
    if (modbus_connect(line)) {
        perror("modbus_connect");
        return 1;
    }
    /* After a request to another unit libmodbus takes what comes within its response timeout for
     * that unit's answer, and drops it.  At its default, 0.5 s, it would lose the next request to
     * this unit whenever the other one is absent. */
    modbus_set_response_timeout(line, 0, 100000);
    modbus_set_byte_timeout(line, 0, 20000);
    printf("READY %s\n", LIBMODBUS_VERSION_STRING);
    fflush(stdout);
    for (;;) {
        int length = modbus_receive(line, request);
        if (length > 0) {
            answer(line, request, length, modbus_get_header_length(line), map, 0);
        } else if (length < 0 && errno == EIO) {
            return 0; /* the port is gone */
        }
    }
}

static int serve_tcp(modbus_t *line, modbus_mapping_t *map) {
    uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
    fd_set all;
    int listener = modbus_tcp_listen(line, 4);
    int highest = listener;
    if (listener < 0) {
        perror("modbus_tcp_listen");
        return 1;
    }
    FD_ZERO(&all);
    FD_SET(listener, &all);
    printf("READY %s\n", LIBMODBUS_VERSION_STRING);
    fflush(stdout);
    for (;;) {
        fd_set ready = all;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0) {
            return 1;
        }
        for (int fd = 0; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready)) {
                continue;
            }
            if (fd == listener) {
                int client = listener;
                int connected = modbus_tcp_accept(line, &client);
                if (connected >= 0) {
                    FD_SET(connected, &all);
                    highest = connected > highest ? connected : highest;
                }
                continue;
            }
            modbus_set_socket(line, fd);
            int length = modbus_receive(line, request);
            if (length > 0) {
                answer(line, request, length, modbus_get_header_length(line), map, 1);
            } else if (length < 0) {
                close(fd);
                FD_CLR(fd, &all);
            }
        }
    }
}

int main(int count, char **words) {
    modbus_mapping_t *map = measured();
    if (map != NULL && count == 5 && strcmp(words[1], "rtu") == 0) {
        modbus_t *line = modbus_new_rtu(words[2], atoi(words[3]), 'N', 8, 1);
        if (line == NULL || modbus_set_slave(line, atoi(words[4]))) {
            return 1;
        }
        return serve_rtu(line, map);
    }
    if (map != NULL && count == 3 && strcmp(words[1], "tcp") == 0) {
        modbus_t *line = modbus_new_tcp("127.0.0.1", atoi(words[2]));
        return line == NULL ? 1 : serve_tcp(line, map);
    }
    fprintf(stderr, "usage: slave rtu PATH BAUD UNIT | slave tcp PORT\n");
    return 2;
}
