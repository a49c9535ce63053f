"""Consistent Overhead Byte Stuffing: any bytes, rewritten without the byte 0x00.

Stuart Cheshire and Mary Baker, 'Consistent Overhead Byte Stuffing', IEEE/ACM Transactions on
Networking 7(2), 1999. The data is cut at its zeros; each piece is preceded by its length plus
one, so that the zeros themselves need not be sent. A piece of 254 bytes or more is sent in
blocks with the code 0xFF, which stands for 254 bytes and no zero.

Invariant: `decode(encode(data)) == data`, `0 not in encode(data)`, and the output is at most
`encoded_bound(len(data))` bytes long.
"""

_BLOCK_BYTES = 254  # the most that one code byte can announce
_FULL_BLOCK = 255  # 254 bytes follow, and no zero after them


class CobsError(ValueError):
    """The bytes are no COBS encoding: cut short, or with a zero inside."""


def encoded_bound(size_bytes: int) -> int:
    """Return the longest encoding of `size_bytes` bytes, without a delimiter."""
    return size_bytes + max(1, -(-size_bytes // _BLOCK_BYTES))


def encode(data: bytes) -> bytes:
    """Return `data` without zeros; the shortest of the encodings that the paper allows."""
    out = bytearray()
    pieces = data.split(b"\0")
    for piece in pieces:
        start = 0
        while len(piece) - start >= _BLOCK_BYTES:
            out.append(_FULL_BLOCK)
            out += piece[start : start + _BLOCK_BYTES]
            start += _BLOCK_BYTES
        out.append(len(piece) - start + 1)
        out += piece[start:]
    last = pieces[-1]
    if last and len(last) % _BLOCK_BYTES == 0:
        del out[-1]  # a full last block needs no empty block behind it
    return bytes(out)


def decode(data: bytes) -> bytes:
    """Return the bytes that `data` encodes.

    Raises:
      CobsError: `data` is empty, contains a zero, or ends within a block.
    """
    if not data or 0 in data:
        raise CobsError("empty, or with a zero inside")
    out = bytearray()
    position = 0
    while position < len(data):
        code = data[position]
        end = position + code
        if end > len(data):
            raise CobsError(f"the block at byte {position} ends {end - len(data)} bytes too early")
        out += data[position + 1 : end]
        position = end
        if code != _FULL_BLOCK and position < len(data):
            out.append(0)
    return bytes(out)
