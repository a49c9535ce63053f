"""Errors of everything that crosses between processes.

    WireError                  what was received or read can not be used
    ├── MalformedError         bytes that are not what the protocol says (bad encoding, type, range)
    ├── TooLargeError          over a cap; raised before the bytes are decoded
    ├── SignatureError         not signed by whom the charter says, or altered afterwards
    ├── ReplayError            a counter that did not grow
    └── BundleError            a model bundle whose parts do not agree with each other
    SettingsError              a configuration file, with file, line and key (local misuse)
    LinkDownError              the connection to the broker ended (transient)
    PacketTooLargeError        more bytes in one message than the broker said it takes

What disks do is in `wire/database.py`: DiskError (full, read-only, failing), DamagedError.

Remote misbehavior is `WireError`; what the reader of a log can do about it is in the message.
"""

LONGEST_REASON = 500
"""Characters: reasons quote what strangers sent, and each is a line of a log."""


def one_line(text: str) -> str:
    """Cut a text and escape what is not printable: it may hold anybody's bytes."""
    cut = text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in cut
    )


class WireError(Exception):
    """Received or stored bytes that can not be used; the message says what and from whom."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


class MalformedError(WireError):
    """The bytes are not a value of the protocol."""


class TooLargeError(WireError):
    """The bytes exceed the cap of their kind."""


class SignatureError(WireError):
    """The signature does not verify under the key that the charter names."""


class ReplayError(WireError):
    """A counted message whose counter is not above the last accepted one."""


class BundleError(WireError):
    """A model bundle that contradicts itself."""


class SettingsError(Exception):
    """A configuration problem.

    Attributes:
      file: path as the user gave it.
      line: 1-based line number, or None when the whole file is meant.
      key: dotted path of the key, or None.
      reason: what is wrong and what would be right.
    """

    def __init__(self, file: str, line: int | None, key: str | None, reason: str) -> None:
        self.file, self.line, self.key, self.reason = file, line, key, reason
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {key}: {reason}" if key else f"{where}: {reason}")


class LinkDownError(Exception):
    """The MQTT connection ended; everything in flight has to be offered again."""


class PacketTooLargeError(Exception):
    """A payload that the broker would not take.

    Attributes:
      payload_bytes: its size.
      limit_bytes: the largest payload that fits a packet of this broker.
    """

    def __init__(self, payload_bytes: int, limit_bytes: int) -> None:
        self.payload_bytes, self.limit_bytes = payload_bytes, limit_bytes
        super().__init__(
            f"a message of {payload_bytes} bytes; the broker takes at most {limit_bytes}"
        )
