"""Addresses to listen on: what is one, and who can reach it."""

import pytest

from wire.listening import address_of, is_loopback, own_address


@pytest.mark.parametrize(
    ("listen", "expected", "is_own"),
    [
        ("127.0.0.1:9485", ("127.0.0.1", 9485), True),
        ("127.1.2.3:0", ("127.1.2.3", 0), True),
        ("[::1]:65535", ("::1", 65535), True),
        ("localhost:80", ("localhost", 80), True),
        ("0.0.0.0:80", ("0.0.0.0", 80), False),
        ("[::]:80", ("::", 80), False),
        ("192.168.1.4:80", ("192.168.1.4", 80), False),
    ],
)
def test_an_address_is_a_host_and_a_port_and_others_can_reach_it_or_not(
    listen: str, expected: tuple[str, int], is_own: bool
) -> None:
    assert address_of(listen) == expected
    assert is_loopback(expected[0]) == is_own
    if is_own:
        assert own_address(listen) == expected
    else:
        with pytest.raises(ValueError, match="is not a loopback address such as"):
            own_address(listen)


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("", "not an address such as"),
        ("9485", "not an address such as"),
        ("127.0.0.1", "not an address such as"),
        ("127.0.0.1:", "not an address such as"),
        ("127.0.0.1:-1", "not an address such as"),
        ("127.0.0.1:65536", "not an address such as"),
        ("127.0.0.1:" + "9" * 5000, "not an address such as"),
        ("127.0.0.1:٣", "not an address such as"),
        (":80", "not an IP address"),
        ("gateway.plant:80", "not an IP address"),
        ("[127.0.0.1:80", "not an IP address"),
    ],
)
def test_what_is_none_is_refused_with_an_example(listen: str, reason: str) -> None:
    for read in (address_of, own_address):
        with pytest.raises(ValueError, match=reason):
            read(listen)
