"""`journeyman-bridge`: the service between serial lines and agents, and tools for its lines.

    journeyman-bridge run CONFIG                until SIGTERM; what the systemd unit starts
    journeyman-bridge check CONFIG              is the file right, and are the ports there
    journeyman-bridge status CONFIG             the devices, as the running bridge sees them
    journeyman-bridge monitor PORT [--baud N]   live, until Ctrl-C
    journeyman-bridge decode FILE               what a recording of the line holds
    journeyman-bridge firmware ACTION ...       a device's firmware: firmware_command.py

`monitor` and `decode` read only; they never write a byte to the line. One line of output for each
frame and each error, then the totals. Garbage and cut frames are reported and passed over; an
unplugged port is waited for. Payload bytes reach the terminal only as hexadecimal and printable
ASCII, so that a device cannot send control sequences to it.
"""

import argparse
import asyncio
import logging
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import serial

from firmware_bridge import firmware_command
from firmware_bridge.app import serve
from firmware_bridge.frames import Decoder, Frame, FrameError, FrameType
from firmware_bridge.messages import ANSWER, Request
from firmware_bridge.settings import read_bridge_settings
from firmware_bridge.status import ask, device_lines
from wire.errors import SettingsError, WireError
from wire.logs import log_to_standard_error_or_journal

DEFAULT_BAUD = 115_200
_READ_TIMEOUT_S = 0.2  # how late a frame may be shown on a quiet line, and Ctrl-C be noticed
_READ_BYTES = 4096
_REOPEN_EVERY_S = 1.0
_SHOWN_PAYLOAD_BYTES = 32
_SHOWN_ADDRESS_MASK = 0x7F
_NAMES = {
    **{int(each): each.name for each in FrameType},
    **{int(each): each.name for each in Request},
    **{each + ANSWER: f"{each.name}*" for each in Request},
}


def describe(item: Frame | FrameError) -> str:
    """Return one line of text, without the time."""
    if isinstance(item, FrameError):
        return f"error    {item.reason.value}, {item.size_bytes} bytes discarded"
    name = _NAMES.get(item.type, f"0x{item.type:02X}")
    sender = "from" if item.address > _SHOWN_ADDRESS_MASK else "to"
    shown = item.payload[:_SHOWN_PAYLOAD_BYTES]
    ascii_text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in shown)
    hidden = len(item.payload) - len(shown)
    more = f" (+{hidden} bytes)" if hidden else ""
    return (
        f"{name:<8} {sender} {item.address & _SHOWN_ADDRESS_MASK} seq {item.sequence} "
        f"len {len(item.payload)}  {shown.hex(' ')}  |{ascii_text}|{more}"
    )


def summarize(decoder: Decoder) -> str:
    """Return the counters as one line."""
    counters = decoder.counters
    reasons = ", ".join(f"{reason.value} {n}" for reason, n in counters.errors.items() if n)
    return (
        f"frames {counters.frames}, errors {counters.error_total}"
        + (f" ({reasons})" if reasons else "")
        + f", missing {counters.missing}, restarts {counters.restarts}"
    )


def _show(decoder: Decoder, data: bytes) -> None:
    """Print what `data` completes, and the counters whenever something went wrong."""
    counters = decoder.counters
    before = (counters.error_total, counters.missing, counters.restarts)
    for item in decoder.feed(data):
        stamp = datetime.now(UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        print(f"{stamp}  {describe(item)}")
    if before != (counters.error_total, counters.missing, counters.restarts):
        print(f"              {summarize(decoder)}")
    sys.stdout.flush()


def _open(port: str, baud: int) -> serial.Serial:
    # exclusive: two readers of one port would each get half of the bytes.
    return serial.Serial(port, baud, timeout=_READ_TIMEOUT_S, exclusive=True)


def _watch(port: serial.Serial, decoder: Decoder) -> None:
    """Show frames until the port fails, which raises SerialException."""
    with port:
        while True:
            # Block for one byte only, then take what is there: a frame is shown when it comes.
            if first := port.read(1):
                waiting = min(port.in_waiting, _READ_BYTES)
                _show(decoder, first + port.read(waiting))


def _reopen(name: str, baud: int) -> serial.Serial:
    """Wait until the port can be opened again."""
    while True:
        try:
            return _open(name, baud)
        except serial.SerialException:
            time.sleep(_REOPEN_EVERY_S)


def monitor(name: str, baud: int) -> int:
    """Show the frames of a serial port until interrupted; return the exit status."""
    decoder = Decoder()
    try:
        port = _open(name, baud)
    except (serial.SerialException, ValueError) as error:
        print(
            f"journeyman-bridge: cannot open {name} at {baud} baud: {error}\n"
            "  `ls -l /dev/serial/by-id` lists the ports that are there; reading one needs the "
            "group dialout, and no other program may hold it.",
            file=sys.stderr,
        )
        return 1
    print(f"watching {name} at {baud} baud; Ctrl-C ends", flush=True)
    try:
        while True:
            try:
                _watch(port, decoder)
            except serial.SerialException as error:
                print(f"port lost ({error}); waiting for it to come back", flush=True)
                port = _reopen(name, baud)
                print("port is back", flush=True)
    except KeyboardInterrupt:
        print(f"\n{summarize(decoder)}")
        return 0


def decode_file(path: Path) -> int:
    """Show the frames in a recorded byte stream; return the exit status."""
    decoder = Decoder()
    try:
        with path.open("rb") as recording:
            while data := recording.read(_READ_BYTES):
                for item in decoder.feed(data):
                    print(describe(item))
    except OSError as error:
        print(f"journeyman-bridge: cannot read {path}: {error.strerror}", file=sys.stderr)
        return 1
    if decoder.pending_bytes:
        print(f"the last {decoder.pending_bytes} bytes have no delimiter: cut recording?")
    print(summarize(decoder))
    return 0


def run(config: Path) -> int:
    """Serve until SIGTERM; return the exit status."""
    log_to_standard_error_or_journal("journeyman-bridge", logging.INFO)
    try:
        asyncio.run(serve(read_bridge_settings(config)))
    except SettingsError as error:
        print(f"journeyman-bridge: {error}", file=sys.stderr)
        return 2
    return 0


def check(config: Path) -> int:
    """Check a configuration file, and say which ports are there; return the exit status."""
    try:
        settings = read_bridge_settings(config)
    except SettingsError as error:
        print(f"journeyman-bridge: {error}", file=sys.stderr)
        return 2
    for line in settings.line:
        is_there = Path(line.port).exists()
        print(f"line {line.name}: {line.port} {'is there' if is_there else 'is not there now'}")
    print(f"{config} is right: {len(settings.line)} lines, "
          f"{sum(len(line.device) for line in settings.line)} devices")  # fmt: skip
    return 0


def status(config: Path) -> int:
    """Show the devices of the running bridge; return the exit status."""
    try:
        settings = read_bridge_settings(config)
        devices = ask(settings.bridge.socket).devices
    except SettingsError as error:
        print(f"journeyman-bridge: {error}", file=sys.stderr)
        return 2
    except (OSError, WireError) as error:
        print(f"journeyman-bridge: no bridge answers: {error}", file=sys.stderr)
        return 1
    for device in devices:
        print("\n".join(device_lines(device)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journeyman-bridge", description="Links microcontrollers to the agents of a gateway."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "run until SIGTERM (what the systemd unit starts)"),
        ("check", "check the configuration file, then exit"),
        ("status", "show the devices of the running bridge"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("config", type=Path, help="the bridge's TOML file")
    live = commands.add_parser("monitor", help="show frames live; never writes to the line")
    live.add_argument("port", help="serial port, best by its stable name in /dev/serial/by-id")
    live.add_argument("--baud", type=int, default=DEFAULT_BAUD, help="default %(default)s")
    recorded = commands.add_parser("decode", help="show the frames in a recording")
    recorded.add_argument("file", type=Path, help="the bytes as they came from the line")
    firmware_command.add_to(commands)
    return parser


def main() -> int:
    """Run the program; return its exit status."""
    arguments = _parser().parse_args()
    ours = {"run": run, "check": check, "status": status}
    if arguments.command in ours:
        return ours[arguments.command](arguments.config)
    # A stop by systemd or `kill` ends with the totals, as Ctrl-C does; in a background job of a
    # shell SIGINT may be ignored, so that is set as well.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.default_int_handler)
    if arguments.command == "monitor":
        return monitor(arguments.port, arguments.baud)
    if arguments.command == "firmware":
        return firmware_command.run(arguments)
    return decode_file(arguments.file)


if __name__ == "__main__":
    sys.exit(main())
