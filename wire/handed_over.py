"""How many bytes a program gave to a TCP connection, as the kernel counts them."""

import socket
import struct

# Offsets in struct tcp_info of linux/tcp.h; fields are only ever added at its end.
_NOT_SENT = struct.Struct("<I"), 144
_SENT = struct.Struct("<QQ"), 200
_LEAST = 216


def handed_over(connection: socket.socket | None) -> int | None:
    """Bytes of payload that were written to the connection so far, TLS and all.

    Bytes that were sent again by TCP count once; bytes that still wait in the kernel count, for
    they leave unless the connection is reset.

    Returns:
      The number, or None where the kernel does not tell (before Linux 4.19) or it is closed.
    """
    if connection is None or connection.fileno() < 0:
        return None
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    except OSError:
        return None
    if len(told) < _LEAST:
        return None
    (waiting,) = _NOT_SENT[0].unpack_from(told, _NOT_SENT[1])
    sent, again = _SENT[0].unpack_from(told, _SENT[1])
    return int(sent - again + waiting)
