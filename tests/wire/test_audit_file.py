"""Files of the audit: any bytes give a value or a `WireError`, and nothing is read past its cap."""

import io
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.audit_entries import MAX_ENTRY_BYTES, HeadNoted, decode_entry, encode_entry
from wire.audit_file import (
    HEADS_LINE,
    LOG_LINE,
    HeadsOpening,
    LogOpening,
    LogReader,
    LogWriter,
    read_heads,
    write_heads,
)
from wire.errors import TooLargeError, WireError
from wire.merkle import Frontier, leaf_hash
from wire.messages import TreeHead
from wire.signing import PrivateKey

KEY = PrivateKey(bytes([7] * 32))
ENTRIES = [encode_entry(HeadNoted(0, number, bytes(32))) for number in range(1, 4)]


def log(entries: list[bytes], heads: list[bytes]) -> bytes:
    stream, tree = io.BytesIO(), Frontier()
    writer = LogWriter(stream, LogOpening("mills", bytes(32), len(entries), len(heads)))
    for entry in entries:
        tree = tree.add(leaf_hash(entry))
    for frame in (*entries, *heads):
        writer.frame(frame)
    writer.finish(TreeHead(size=tree.size, root=tree.root), KEY)
    return stream.getvalue()


def read_log(data: bytes) -> None:
    reader = LogReader(io.BytesIO(data))
    for entry in reader.entries():
        decode_entry(entry)
    list(reader.heads())
    reader.end()


def test_what_is_written_is_read_again() -> None:
    reader = LogReader(io.BytesIO(log(ENTRIES, [b"head"])))
    assert reader.opening == LogOpening("mills", bytes(32), 3, 1)
    assert list(reader.entries()) == ENTRIES
    assert list(reader.heads()) == [b"head"]
    tree = Frontier()
    for entry in ENTRIES:
        tree = tree.add(leaf_hash(entry))
    reader.end().verify("mills", TreeHead(size=tree.size, root=tree.root), KEY.public)
    stream = io.BytesIO()
    write_heads(stream, HeadsOpening("mills", "press-1", 2), [b"one", b"two"])
    stream.seek(0)
    assert read_heads(stream) == (HeadsOpening("mills", "press-1", 2), [b"one", b"two"])


@given(st.binary(max_size=200))
def test_any_bytes_after_the_line_are_a_value_or_a_wire_error(data: bytes) -> None:
    for line, read in (
        (LOG_LINE, read_log),
        (HEADS_LINE, lambda all_: read_heads(io.BytesIO(all_))),
    ):
        for given_bytes in (line + data, line + len(data).to_bytes(4, "big") + data, data):
            with suppress(WireError):  # whatever else it raises fails the test
                read(given_bytes)


@given(st.binary(max_size=100), st.sampled_from(ENTRIES), st.data())
def test_any_bytes_are_an_entry_that_encodes_to_them_or_a_wire_error(
    noise: bytes, entry: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(entry)))
    for given_bytes in (noise, entry[:at] + noise, noise + entry, b"\x91" * 2000):
        try:
            decoded = decode_entry(given_bytes)
        except WireError:
            continue
        assert encode_entry(decoded) == given_bytes


def test_a_frame_over_its_cap_is_refused_before_it_is_read() -> None:
    class Watched(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, size or 0)
            return super().read(size)

    opening = msgspec.msgpack.encode(LogOpening("mills", bytes(32), 1, 0))
    head = LOG_LINE + len(opening).to_bytes(4, "big") + opening
    stream = Watched(head + b"\xff\xff\xff\xff" + bytes(100))
    with pytest.raises(TooLargeError, match=f"at most {MAX_ENTRY_BYTES}"):
        list(LogReader(stream).entries())
    assert stream.most < 1024


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin with 'journeyman audit log 1'"),
        (LOG_LINE, "the file ends in the opening"),
        (log(ENTRIES, [])[:-1], "the file ends in the signature"),
        (log(ENTRIES, []) + b"\0", "bytes after the end"),
        (log(ENTRIES, [])[:-68] + b"\0\0\0\1x", "a signature of 1 bytes"),
        (log([b"\xc0"], []), "not an entry of an audit log"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        read_log(data)
