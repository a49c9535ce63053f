/* See esp_stubs.h. */
#include "../esp_stubs.h"
