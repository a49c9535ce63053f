"""What all programs do alike with a serial port: close it at once, say why it did not open."""

import contextlib
import errno
import fcntl
import termios

import serial


def close_line(line: serial.Serial) -> None:
    """Close it without waiting for output that the device does not take."""
    with contextlib.suppress(OSError, termios.error):
        termios.tcflush(line.fileno(), termios.TCOFLUSH)
    with contextlib.suppress(OSError):
        fcntl.ioctl(line.fileno(), termios.TIOCNXCL)
    with contextlib.suppress(OSError):
        line.close()


def opening_advice(path: str, error: Exception) -> str:
    """What is wrong with opening the port, and what to do."""
    number = getattr(error, "errno", None)
    words = {
        errno.ENOENT: "there is no such device; is it plugged in? `ls /dev/serial/by-id`",
        errno.ENXIO: "there is no device behind it",
        errno.EACCES: "permission denied; add this user to the group that owns it (dialout)",
        errno.EPERM: "permission denied; add this user to the group that owns it (dialout)",
        errno.EBUSY: "another program uses it; `fuser -v` shows which",
        errno.EAGAIN: "another program uses it; `fuser -v` shows which",
        errno.ENOTTY: "it is not a serial port",
    }
    return f"{path}: {words.get(number or 0, str(error))}"
