"""`journeyman enrolment serve` and `enrolment crl`: the authority's service, and its list."""

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from shopfloor.enrolment_broker import Desk
from shopfloor.enrolment_http import enrolment_server
from shopfloor.enrolment_office import Office
from wire.certificates import AGENT_DAYS
from wire.errors import SettingsError
from wire.issuing import CA_DAYS
from wire.keys import read_enroller
from wire.listening import address_of
from wire.revocations import CRL, CRL_DAYS
from wire.settings import host_problem
from wire.topics import Topics

logger = logging.getLogger(__name__)

Commands = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it
_TLS_PORT = 8883


def add_serve(actions: "Commands[argparse.ArgumentParser]") -> None:
    """Add `serve` and `crl` to `journeyman enrolment`."""
    serve = actions.add_parser(
        "serve",
        help="answer requests over HTTP, renew certificates over the broker",
        description="Runs until SIGTERM. With --listen it answers `journeyman-agent enrol --from` "
        "(POST /enrol) and gives brokers the list of revoked certificates (GET /ca.crl). With "
        "--broker it renews enrolled agents' certificates and publishes who is revoked.",
    )
    serve.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    serve.add_argument("--listen", default="", metavar="ADDRESS:PORT", help="such as 0.0.0.0:8460")
    serve.add_argument("--broker", default="", metavar="HOST[:PORT]", help="port: 8883, with TLS")
    serve.add_argument(
        "--days",
        type=days,
        default=AGENT_DAYS,
        help=f"validity of agents' certificates (default: {AGENT_DAYS})",
    )
    serve.set_defaults(command=_serve)
    crl = actions.add_parser(
        "crl",
        help="write ca.crl, the list of revoked certificates for the broker",
        description="Writes DIR/ca.crl anew. A list that has ended keeps everybody out of the "
        "broker, so bring it a new one well before.",
    )
    crl.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    crl.add_argument(
        "--days", type=days, default=CRL_DAYS, help=f"validity of the list (default: {CRL_DAYS})"
    )
    crl.set_defaults(command=_crl)


def days(text: str) -> float:
    """A validity as an option says it; parts of a day are for trials."""
    value = float(text)
    if not 0 < value <= CA_DAYS:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to {CA_DAYS} days")
    return value


def _crl(options: argparse.Namespace) -> int:
    Office(options.directory, AGENT_DAYS).new_crl(options.days)
    print(f"{options.directory / CRL}: for the broker's crlfile, then reload it; for", end=" ")
    print(f"{options.days:g} days")
    return 0


def _serve(options: argparse.Namespace) -> int:
    if not options.listen and not options.broker:
        raise SettingsError("--listen", None, None, "say --listen, --broker, or both")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    office = Office(options.directory, options.days)
    federation = read_enroller(options.directory).trust.federation
    office.crl()  # so that there is one, and a ledger that can not be used is told now
    desk = None
    if options.broker:
        desk = Desk(office, office.broker(*_broker(options.broker)), Topics(federation))
    asyncio.run(_until_stopped(office, options.listen, desk))
    return 0


async def _until_stopped(office: Office, listen: str, desk: Desk | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as serving:
        if listen:
            try:
                url = serving.enter_context(enrolment_server(office, address_of(listen)))
            except (ValueError, OSError) as error:
                raise SettingsError("--listen", None, None, str(error)) from None
            logger.info("enrolment at %s", url)
        working = asyncio.create_task(desk.run() if desk else stop.wait(), name="desk")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


def _broker(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator:
        host, port = text, str(_TLS_PORT)
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    problem = host_problem(host)
    if problem or not 1 <= number <= 65535:
        reason = problem or f"{port[:20]!r} is not a port"
        raise SettingsError("--broker", None, None, f"{reason}; say HOST or HOST:PORT")
    return host, number
