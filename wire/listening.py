"""Where a program listens, as its configuration says: `address:port`.

An address is one of this machine, not a name that somebody's DNS decides; `localhost` is the one
exception.  An IPv6 address stands in brackets.
"""

import ipaddress


def address_of(listen: str) -> tuple[str, int]:
    """Host, without brackets, and port of `listen`.

    Raises:
      ValueError: it is not `address:port`.
    """
    host, separator, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    if not separator or not 0 <= number <= 65535:
        raise ValueError(f"{listen!r} is not an address such as 127.0.0.1:8080")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            reason = f"{host!r} is not an IP address of this machine, such as 127.0.0.1 or [::1]"
            raise ValueError(reason) from None
    return host, number


def own_address(listen: str) -> tuple[str, int]:
    """The same, where only this machine may connect.

    Raises:
      ValueError: it is not `address:port`, or others could reach it.
    """
    host, port = address_of(listen)
    if not is_loopback(host):
        raise ValueError(f"{listen!r} is not a loopback address such as 127.0.0.1:8080")
    return host, port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of `address_of`."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
