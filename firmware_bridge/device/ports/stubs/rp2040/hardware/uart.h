/* See pico_stubs.h. */
#include "../pico_stubs.h"
