"""Giving memory back after work that needed much of it."""

import ctypes
from contextlib import suppress


def give_memory_back() -> None:
    """Return what the C library holds of freed memory to the system, where it can (glibc).

    Its heap shrinks by itself only from the top, and after large arrays were freed not even that:
    the threshold from which memory is given back at once grows with them, up to 64 MB (mallopt(3),
    M_MMAP_THRESHOLD; malloc_trim(3)).  Takes about a millisecond.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
