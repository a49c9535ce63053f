"""What a refusal by a Modbus device means, as an OPC UA StatusCode and in words.

Exception codes: Modbus Application Protocol V1.1b3, section 7.  StatusCodes: OPC 10000-4, 7.39 and
10000-6, A.2.  Pure.
"""

BAD_COMMUNICATION_ERROR = 0x80050000
BAD_NO_COMMUNICATION = 0x80310000
BAD_NODE_ID_UNKNOWN = 0x80340000
BAD_NOT_SUPPORTED = 0x803D0000
BAD_DEVICE_FAILURE = 0x808B0000
BAD_SENSOR_FAILURE = 0x808C0000
BAD_SERVER_TOO_BUSY = 0x80EE0000

ILLEGAL_FUNCTION = 0x01
ILLEGAL_DATA_ADDRESS = 0x02
ILLEGAL_DATA_VALUE = 0x03
GATEWAY_PATH_UNAVAILABLE = 0x0A
GATEWAY_TARGET_FAILED_TO_RESPOND = 0x0B

TOO_MUCH_AT_ONCE = (ILLEGAL_DATA_ADDRESS, ILLEGAL_DATA_VALUE)
"""A smaller read may succeed: one address of a range does not exist, or the range is too long."""

NOBODY_THERE = (GATEWAY_PATH_UNAVAILABLE, GATEWAY_TARGET_FAILED_TO_RESPOND)
"""A gateway's words for what silence says on a serial line."""

_MEANINGS = {
    ILLEGAL_FUNCTION: (BAD_NOT_SUPPORTED, "illegal function: it has no such table"),
    ILLEGAL_DATA_ADDRESS: (BAD_NODE_ID_UNKNOWN, "illegal data address"),
    ILLEGAL_DATA_VALUE: (BAD_NODE_ID_UNKNOWN, "illegal data value: it refuses this many at once"),
    0x04: (BAD_DEVICE_FAILURE, "server device failure"),
    0x05: (BAD_SERVER_TOO_BUSY, "acknowledged, still working"),
    0x06: (BAD_SERVER_TOO_BUSY, "server device busy"),
    0x08: (BAD_DEVICE_FAILURE, "memory parity error"),
    GATEWAY_PATH_UNAVAILABLE: (BAD_NO_COMMUNICATION, "the gateway has no path to it"),
    GATEWAY_TARGET_FAILED_TO_RESPOND: (BAD_NO_COMMUNICATION, "it does not answer the gateway"),
}


def refusal(code: int) -> tuple[int, str]:
    """The StatusCode of an exception code, and what it says."""
    status, words = _MEANINGS.get(code, (BAD_COMMUNICATION_ERROR, "not in the standard"))
    return status, f"{words} (exception {code:#04x})"
