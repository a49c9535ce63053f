"""The demo's broker: mosquitto where it is installed, else amqtt's, embedded.

Loopback only, anonymous, nothing persisted: a broker for a demonstration.  `configs/broker/` has
one for a federation.
"""

import argparse
import asyncio
import logging
import os
import shutil
import sys
from pathlib import Path

from shopfloor.lifetime import add_parent_option, run_until_told_to_stop

_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 100
max_queued_messages 10000
"""


def broker_command(directory: Path, port: int, choice: str) -> list[str]:
    """The command line that starts a broker on 127.0.0.1:`port`.

    Args:
      directory: where its files go.
      port: a free TCP port.
      choice: `mosquitto`, `embedded`, or `auto`: mosquitto where it is installed.

    Raises:
      FileNotFoundError: mosquitto was asked for and is not installed.
    """
    # Debian puts mosquitto in /usr/sbin, which is not on an ordinary user's PATH.
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if choice == "embedded" or (choice == "auto" and program is None):
        return [sys.executable, "-m", "shopfloor.broker", "--port", str(port)]
    if program is None:
        reason = "mosquitto is not installed; use --broker embedded, or: apt install mosquitto"
        raise FileNotFoundError(reason)
    config = directory / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port))
    return [program, "-c", str(config)]


async def _serve(port: int) -> None:
    from amqtt.broker import Broker  # noqa: PLC0415  only this process needs it

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await broker.start()
    print(f"ready mqtt://127.0.0.1:{port}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await broker.shutdown()


def main() -> int:
    """Run the embedded broker; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m shopfloor.broker", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    add_parent_option(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(run_until_told_to_stop(_serve(options.port), options.parent_pid))
    return 0


if __name__ == "__main__":
    sys.exit(main())
