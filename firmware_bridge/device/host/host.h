/* A whole device on a PC: the library over a model of NOR flash that can be cut off in the middle
 * of any operation. For tests, benchmarks and the fuzzer; built as a shared library (ctypes) or
 * linked into `jm_host_device`, which speaks on a pseudo terminal.
 *
 * Time is what the caller says it is. Nothing here is thread safe.
 */
#ifndef JM_HOST_H
#define JM_HOST_H

#include "../journeyman.h"

struct host;

/* How a call ended: it returned, the power was cut in it, or the device reset itself. After the
 * last two nothing but host_boot() does anything. */
enum host_end { HOST_RUNS, HOST_CUT, HOST_RESET };

/* Bytes that host_new() wants: the flash, then one byte for each unit of it. */
size_t host_memory_bytes(void);
void host_erase_memory(uint8_t *memory);

/* `memory` stays the caller's (a file can be mapped there). NULL if there is no memory left. */
struct host *host_new(uint8_t *memory, uint8_t address, const uint8_t id[16]);
void host_free(struct host *host);

void host_set_time(struct host *host, uint64_t now_us);
enum host_end host_boot(struct host *host, uint32_t boot);
enum host_end host_receive(struct host *host, const uint8_t *bytes, size_t count,
                           uint64_t arrived_us);
enum host_end host_run(struct host *host);
enum host_end host_sensor(struct host *host, const struct jm_rows *rows);
enum host_end host_score(struct host *host, const struct jm_rows *rows);
enum host_end host_log(struct host *host, const char *text);

/* Move up to `room` of the bytes that the device sent to `to`; return how many. */
size_t host_take(struct host *host, uint8_t *to, size_t room);

/* Cut the power in the middle of the `operations`th operation from now, 1 or more: an erase, a
 * unit programmed, or a frame sent. `seed` says what it leaves behind. 0: never. */
void host_cut_at(struct host *host, uint32_t operations, uint32_t seed);
uint32_t host_operations(const struct host *host); /* since host_new() */

/* Rules of the flash that were broken: a unit programmed twice, a misaligned address. */
uint32_t host_violations(const struct host *host);

/* From now on these bytes of flash neither erase nor program; 0 bytes: all do. */
void host_wear_out(struct host *host, uint32_t address, uint32_t count);

/* What the self-test answers from now on: an enum jm_reason; or HOST_LOOK (at the beginning): it
 * is fine if the header of the content agrees with its size; or HOST_INFER: the golden vectors
 * must come out, as on a chip. */
enum { HOST_LOOK = -1, HOST_INFER = -2 };
void host_set_self_test(struct host *host, int reason);

/* Flash address of the active model, its size and state; ~0U: there is none. */
uint32_t host_model(const struct host *host, uint32_t *size);

/* Decode bytes of a line with one new decoder. For each event its number (JM_FRAME, or JM_FAILED +
 * an enum jm_error), and for a frame its bytes from version to payload behind it, are written to
 * `to`; return the bytes written. `room` for 12 times `count` is enough. */
size_t host_decode(const uint8_t *bytes, size_t count, uint8_t *to, size_t room);

/* Encode a frame of at most JM_LARGEST bytes of payload; `to` has room for 527. */
size_t host_encode(uint8_t type, uint8_t address, uint16_t sequence, const uint8_t *payload,
                   size_t count, uint8_t *to);

#ifndef JM_HOST_LINE_BYTES /* what is kept of the sent bytes until they are taken */
#define JM_HOST_LINE_BYTES (1U << 18)
#endif

#endif
