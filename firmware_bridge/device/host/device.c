/* jm_host_device: a device on this machine, in real time.
 *
 *     jm_host_device [options]
 *       --pty            speak on a new pseudo terminal, whose path is the first line printed
 *                        (without it: standard input and output)
 *       --flash FILE     keep the flash there (without it: in memory, empty)
 *       --address N      0: alone on its line (default); 1 to 126: RS-485, speaks when polled
 *       --id HEX         16 bytes in hexadecimal
 *       --sensor HZ      send a stream 0 of three i16 channels at this rate
 *       --drift PPM      the device's clock is that much fast
 *       --cut-at N       cut the power in the Nth operation (flash or frame sent), then exit 75
 *       --cut-mean N     cut it again and again, on average every N operations, and start anew
 *       --seed N         of the cuts
 *
 * SIGUSR1 resets the device. It ends with status 0 when its line is closed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "host.h"

#define EXIT_CUT 75
#define VALUES 3U

struct options {
    int pty;
    const char *flash;
    uint8_t address;
    uint8_t id[16];
    uint32_t sensor_hz;
    int32_t drift_ppm;
    uint32_t cut_at;
    uint32_t cut_mean;
    uint32_t seed;
};

static volatile sig_atomic_t reset_asked;

static void on_signal(int signal_number)
{
    (void)signal_number;
    reset_asked = 1;
}

static void fail(const char *what)
{
    fprintf(stderr, "jm_host_device: %s: %s\n", what, errno != 0 ? strerror(errno) : "not valid");
    exit(2);
}

static uint32_t parse_number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*end != 0 || value > UINT32_MAX) {
        errno = 0;
        fail(text);
    }
    return (uint32_t)value;
}

static void parse_id(uint8_t id[16], const char *text)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned value;

        if (sscanf(text + 2 * i, "%2x", &value) != 1) {
            errno = 0;
            fail(text);
        }
        id[i] = (uint8_t)value;
    }
}

static void parse(struct options *options, int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        const char *value = i + 1 < count ? arguments[i + 1] : NULL;

        if (strcmp(name, "--pty") == 0) {
            options->pty = 1;
            continue;
        }
        if (value == NULL) {
            errno = 0;
            fail(name);
        }
        i++;
        if (strcmp(name, "--flash") == 0) {
            options->flash = value;
        } else if (strcmp(name, "--address") == 0) {
            options->address = (uint8_t)parse_number(value);
        } else if (strcmp(name, "--id") == 0 && strlen(value) == 32) {
            parse_id(options->id, value);
        } else if (strcmp(name, "--sensor") == 0) {
            options->sensor_hz = parse_number(value);
        } else if (strcmp(name, "--drift") == 0) {
            options->drift_ppm = atoi(value);
        } else if (strcmp(name, "--cut-at") == 0) {
            options->cut_at = parse_number(value);
        } else if (strcmp(name, "--cut-mean") == 0) {
            options->cut_mean = parse_number(value);
        } else if (strcmp(name, "--seed") == 0) {
            options->seed = parse_number(value);
        } else {
            errno = 0;
            fail(name);
        }
    }
}

static uint64_t clock_us(int32_t drift_ppm)
{
    struct timespec now;
    int64_t us;

    clock_gettime(CLOCK_MONOTONIC, &now);
    us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    return (uint64_t)(us + us / 1000000 * drift_ppm + us % 1000000 * drift_ppm / 1000000);
}

static uint8_t *map_flash(const char *path)
{
    size_t bytes = host_memory_bytes();
    uint8_t *memory;
    struct stat status;
    int file;

    if (path == NULL) {
        memory = malloc(bytes);
        if (memory == NULL) {
            fail("memory");
        }
        host_erase_memory(memory);
        return memory;
    }
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || fstat(file, &status) != 0 || ftruncate(file, (off_t)bytes) != 0) {
        fail(path);
    }
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        fail(path);
    }
    if ((size_t)status.st_size != bytes) {
        host_erase_memory(memory);
    }
    return memory;
}

/* Return the descriptor of the device's end of a pseudo terminal. */
static int open_line(void)
{
    struct termios raw;
    char name[128];
    int device;
    int gateway;

    memset(&raw, 0, sizeof raw);
    cfmakeraw(&raw);
    if (openpty(&device, &gateway, name, &raw, NULL) != 0) {
        fail("openpty");
    }
    /* `gateway` stays open, so that the line lives on while nobody has it open. */
    printf("%s\n", name);
    fflush(stdout);
    return device;
}

static void send_all(struct host *host, int line)
{
    uint8_t bytes[4096];
    size_t count;

    while ((count = host_take(host, bytes, sizeof bytes)) != 0) {
        size_t done = 0;

        while (done < count) {
            ssize_t written = write(line, bytes + done, count - done);

            if (written < 0 && errno != EINTR && errno != EAGAIN) {
                exit(0);
            }
            done += written > 0 ? (size_t)written : 0;
        }
    }
}

/* Three ramps, that show order and loss. */
static void sample(struct host *host, uint64_t now_us, uint32_t counter, uint32_t hz)
{
    int16_t values[VALUES];
    struct jm_rows rows = {
        .format = JM_I16,
        .channels = VALUES,
        .count = 1,
        .time_us = now_us,
        .period_us = 1000000U / hz,
        .values = values,
    };

    for (uint32_t i = 0; i < VALUES; i++) {
        values[i] = (int16_t)(counter * (i + 1));
    }
    (void)host_sensor(host, &rows);
}

static void plan_cut(struct host *host, const struct options *options)
{
    if (options->cut_mean != 0) {
        host_cut_at(host, 1 + (uint32_t)rand() % (2 * options->cut_mean), (uint32_t)rand());
    }
}

/* Start the device until it runs; a cut can hit its start too. */
static void boot(struct host *host, const struct options *options, uint32_t *number)
{
    do {
        plan_cut(host, options);
    } while (host_boot(host, (*number)++) != HOST_RUNS && options->cut_mean != 0);
}

static void serve(struct host *host, const struct options *options, int in, int out)
{
    uint64_t started = clock_us(options->drift_ppm);
    uint64_t due = 0;
    uint32_t counter = 0;
    uint32_t number = (uint32_t)started;

    boot(host, options, &number);
    for (;;) {
        struct pollfd wanted = {.fd = in, .events = POLLIN, .revents = 0};
        uint8_t bytes[4096];
        int ready = poll(&wanted, 1, options->sensor_hz != 0 ? 1 : 100);
        uint64_t now = clock_us(options->drift_ppm) - started;
        enum host_end end;

        host_set_time(host, now);
        if (ready > 0) {
            ssize_t count = read(in, bytes, sizeof bytes);

            if (count == 0 || (count < 0 && errno != EINTR && errno != EIO)) {
                return;
            }
            if (count > 0) {
                (void)host_receive(host, bytes, (size_t)count, now);
            }
        }
        while (options->sensor_hz != 0 && now >= due) {
            due += 1000000U / options->sensor_hz;
            sample(host, now, counter++, options->sensor_hz);
        }
        end = reset_asked ? HOST_RESET : host_run(host);
        send_all(host, out);
        if (end == HOST_CUT && options->cut_mean == 0) {
            exit(EXIT_CUT);
        }
        if (end != HOST_RUNS) {
            reset_asked = 0;
            due = 0;
            started = clock_us(options->drift_ppm);
            host_set_time(host, 0);
            boot(host, options, &number);
            send_all(host, out);
        }
    }
}

int main(int count, char **arguments)
{
    struct options options = {.seed = 1};
    struct sigaction action;
    struct host *host;
    int in = STDIN_FILENO;
    int out = STDOUT_FILENO;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    parse(&options, count, arguments);
    srand(options.seed);
    if (sigaction(SIGUSR1, &action, NULL) != 0) {
        fail("sigaction");
    }
    host = host_new(map_flash(options.flash), options.address, options.id);
    if (host == NULL) {
        fail("memory");
    }
    host_cut_at(host, options.cut_at, options.seed);
    if (options.pty) {
        in = open_line();
        out = in;
    }
    serve(host, &options, in, out);
    host_free(host);
    return 0;
}
