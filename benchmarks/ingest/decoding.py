"""What decoding alone costs, in this process, without a socket."""

import time

from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from agent.sensors.opcua.decode import Decoder

_TYPES = ("Double", "Int32", "Boolean", "Float", "UInt16")


def _cost_us(body: bytes, repeats: int) -> float:
    """CPU microseconds for decoding a message, best of five."""
    decoder = Decoder()
    best_s = float("inf")
    for _ in range(5):
        begin_s = time.process_time()
        for _ in range(repeats):
            if decoder.decode(body) is None:
                raise ValueError("a message of numbers is not decoded")
        best_s = min(best_s, (time.process_time() - begin_s) / repeats)
    return best_s * 1e6


def _message(values: list[ua.Variant]) -> bytes:
    response = ua.PublishResponse()
    time_of_all = ua.DateTime(2026, 1, 1)
    response.Parameters.NotificationMessage.NotificationData = [
        ua.DataChangeNotification(
            MonitoredItems=[
                ua.MonitoredItemNotification(
                    ClientHandle=ua.UInt32(at),
                    Value=ua.DataValue(Value=value, SourceTimestamp=time_of_all),
                )
                for at, value in enumerate(values)
            ]
        )
    ]
    return struct_to_binary(response)


def mixed_us(count: int = 10_000) -> float:
    """For a value where five types take turns."""
    kinds = [ua.VariantType[name] for name in _TYPES]
    values = [ua.Variant(at % 2, kinds[at % len(kinds)]) for at in range(count)]
    return _cost_us(_message(values), 20) / count


def waveform_us(count: int = 4096) -> float:
    """For an element of a waveform of floats."""
    wave = ua.Variant([0.5 * at for at in range(count)], ua.VariantType.Float)
    return _cost_us(_message([wave]), 200) / count
