"""Why a disk does not take samples, in the words that counters, gaps and people get."""

import errno

FULL, READ_ONLY, FAILING = "disk full", "disk read-only", "disk failing"
_REASONS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: READ_ONLY,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
}
_ADVICE = {
    FULL: "make room",
    READ_ONLY: "check mount options, rights and the disk",
    FAILING: "check the kernel's log, replace the card",
}


def reason_of(error: OSError) -> tuple[str, str]:
    """The reason, and what to do about it."""
    reason = _REASONS.get(error.errno or 0, FAILING)
    return reason, _ADVICE[reason]
