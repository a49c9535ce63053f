"""`journeyman-bridge firmware`: looks at, updates, confirms and reverts a device's firmware.

    firmware check IMAGE              is this file an image that may be sent
    firmware list PORT                what the device has and runs
    firmware update PORT IMAGE        upload, try, check, then confirm or revert
    firmware upload PORT IMAGE        only bring it into the free slot
    firmware test PORT HASH           try an image that is there: it runs until the next reset
    firmware confirm PORT             have what runs on trial stay
    firmware revert PORT              back to the image before

Responsible for the words at both ends: arguments, errors, exit statuses (`Outcome`).  The work is
in `firmware_update.py`, which needs the extra `firmware` and so is imported only when it is used.
"""

import argparse
import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Final

from firmware_bridge.firmware_slots import Outcome, Patience
from firmware_bridge.mcuboot_image import LARGEST_FILE_BYTES, McubootImage, parse_image
from firmware_bridge.port import PortError
from wire.errors import WireError

_LONGEST_S: Final = 3600.0
_BAUD: Final = 115_200
_PATIENCE: Final = Patience()
_EXTRA: Final = (
    "firmware updates need the extra `firmware`, which is not installed: "
    "pip install 'journeyman[firmware]'"
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its arguments."""
    text = "update a device's firmware over MCUmgr's SMP, with a trial, confirmed or reverted"
    actions = commands.add_parser("firmware", help=text, description=text).add_subparsers(
        dest="action", required=True
    )
    actions.add_parser("check", help="check an image file").add_argument("image", type=Path)
    for name, words in (
        ("list", "show what the device has and runs"),
        ("update", "upload, try, check, then confirm or revert"),
        ("upload", "bring an image into the free slot; nothing is started"),
        ("test", "try an image that the device has: it runs until the next reset"),
        ("confirm", "have what runs on trial stay"),
        ("revert", "go back to the image before"),
    ):
        sub = actions.add_parser(name, help=words, description=words)
        sub.add_argument("port", help="serial port, best by its stable name in /dev/serial/by-id")
        _add_line_options(sub)
        if name in ("update", "upload"):
            sub.add_argument("image", type=Path, help="signed by imgtool, e.g. zephyr.signed.bin")
        if name == "test":
            sub.add_argument("hash", help="of the image, as `list` shows it, or how it begins")
        if name in ("update", "revert"):
            _add_health_options(sub)
        if name == "update":
            sub.add_argument("--dry-run", action="store_true", help="say what would be done")


def _add_line_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--baud", type=_baud, default=_BAUD, help="default %(default)s")
    sub.add_argument(
        "--image-number", type=int, default=0, help="of a device with several cores; default 0"
    )
    sub.add_argument(
        "--boot-within", type=_seconds, default=_PATIENCE.boot_s, metavar="SECONDS",
        help="how long a device may take to come back from a reset; default %(default)s",
    )  # fmt: skip


def _add_health_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--healthy-within", type=_seconds, default=_PATIENCE.healthy_s, metavar="SECONDS",
        help="how long new firmware may take to answer once it runs; default %(default)s",
    )  # fmt: skip
    sub.add_argument(
        "--bridge-port", metavar="PORT",
        help="healthy means too: it answers CONNECT of the bridge's protocol on this port",
    )  # fmt: skip


def _baud(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is no rate")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text} is outside 0 to {_LONGEST_S:.0f} seconds")
    return value


def say(text: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; return its exit status."""
    try:
        image = read_image(arguments.image) if "image" in arguments else None
        if arguments.action == "check":
            return Outcome.DONE
        return _carry_out(arguments, image)
    except (WireError, PortError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        say("stopped; `firmware list` shows how far it came, the same command goes on")
        return Outcome.UNKNOWN


def _complain(text: str) -> int:
    sys.stderr.write(f"journeyman-bridge: {text}\n")
    return Outcome.REFUSED


def read_image(path: Path) -> McubootImage:
    """Read and check an image file, and say what it is.

    Raises:
      WireError: it can not be read, or must not be sent; names the file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
        image = parse_image(data)
    except OSError as error:
        raise WireError(f"cannot read {path}: {error.strerror}") from None
    except WireError as error:
        raise WireError(f"{path}: {error}") from None
    signed = "signed" if image.is_signed else "NOT signed: a bootloader with a key refuses it"
    say(f"{path}: version {image.version}, {len(data):,} bytes, {signed}\n"
        f"    hash {image.hash.hex()}")  # fmt: skip
    return image


def _carry_out(arguments: argparse.Namespace, image: McubootImage | None) -> int:
    if importlib.util.find_spec("smpclient") is None:
        return _complain(_EXTRA)
    from firmware_bridge.firmware_actions import Target, carry_out  # noqa: PLC0415  the extra

    target = Target(
        arguments.port,
        arguments.baud,
        arguments.image_number,
        arguments.boot_within,
        getattr(arguments, "healthy_within", _PATIENCE.healthy_s),
        getattr(arguments, "bridge_port", None),
        getattr(arguments, "hash", ""),
        getattr(arguments, "dry_run", False),
    )
    return asyncio.run(carry_out(arguments.action, target, image, say))
