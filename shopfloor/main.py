"""`journeyman`: the umbrella command, and the one program that sees all others.

journeyman demo                three factories learn together on this computer
journeyman demo --job NAME     a job on real data: maintenance, inspection, process, supply-chain
journeyman demo --mcu          a model of the federation reaches an emulated microcontroller
journeyman simulate            a coordinator's settings tried on thousands of simulated agents
journeyman keys ...            root, charter, agents' keys and credentials, the CA
journeyman enrolment ...       admit gateways with one-time tokens
journeyman audit ...           check a coordinator's exported audit log, offline
journeyman bundle ...          build, inspect, sign, verify, test and export model bundles
journeyman recommend           set-points that a learned surrogate would choose, for people
journeyman agent|coordinator   the same as journeyman-agent, journeyman-coordinator
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.recommend_command import add_recommend
from shopfloor.audit.command import add_audit
from shopfloor.charter_command import add_charter_actions
from shopfloor.enrolment_command import add_enrolment, add_key_actions
from shopfloor.jobs.choice import NAMES as JOBS
from shopfloor.simulate.command import add_simulate
from wire.errors import SettingsError, WireError

if TYPE_CHECKING:
    from shopfloor.plant import Options
    from shopfloor.record import RunRecord


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 failed, 2 wrong use."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["agent"]:
        from agent.main import main as agent_main  # noqa: PLC0415

        return agent_main(words[1:])
    if words[:1] == ["coordinator"]:
        from coordinator.main import main as coordinator_main  # noqa: PLC0415

        return coordinator_main(words[1:])
    if words[:1] == ["bundle"]:
        from agent.bundle.main import main as bundle_main  # noqa: PLC0415

        return bundle_main(words[1:])
    options = _parser().parse_args(words)
    try:
        return int(options.command(options))
    except (SettingsError, WireError) as error:
        print(f"journeyman: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journeyman",
        description="Machines learn together, and no sensor reading leaves the plant.",
        epilog="`journeyman agent ...` and `journeyman coordinator ...` open the other programs.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    add_simulate(commands)
    _add_keys(commands)
    add_enrolment(commands)
    add_audit(commands)
    add_recommend(commands)
    commands.add_parser("bundle", help="build, inspect, sign, verify, test, export model bundles")
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="three factories learn together while their links fail",
        description="Runs three factories, a broker and a coordinator on this computer: real "
        "OPC UA, real MQTT, links that are down 30 % of the time. Ends by itself, with a report.",
    )
    demo.add_argument(
        "--job",
        choices=JOBS,
        help="learn one of the four jobs from files instead: maintenance (failures; life: cycles "
        "that are left), inspection, process (energy: a plant's readings), supply-chain (late "
        "orders; odd-orders)",
    )
    demo.add_argument(
        "--data",
        type=Path,
        help="your own rows: an AI4I table; with --job what the job's tutorial in docs/ names",
    )
    demo.add_argument("--versions", type=int, help="with --job: learn for so many versions only")
    demo.add_argument("--no-drift", action="store_true", help="with --job: no site's data move")
    demo.add_argument("--newcomer", default="", help="with --job: site that joins after training")
    demo.add_argument("--seed", type=int, default=0, help="chooses split, weights and outages")
    demo.add_argument(
        "--strategy",
        choices=("fedbuff", "fedavg"),
        default="fedbuff",
        help="fedbuff: asynchronous (default); fedavg: synchronous rounds, evaluated after each",
    )
    demo.add_argument(
        "--broker",
        choices=("auto", "mosquitto", "embedded"),
        default="auto",
        help="auto: mosquitto where it is installed, else one from a library",
    )
    demo.add_argument("--out", type=Path, help="where report and logs go (default: a new folder)")
    demo.add_argument("--headless", action="store_true", help="plain lines, no live view")
    demo.add_argument(
        "--duration", type=_seconds, default=100.0, help="seconds of learning, 10 or more"
    )
    demo.add_argument(
        "--down-share", type=_share, default=0.3, help="share of time without link, 0 to 0.9"
    )
    demo.add_argument(
        "--kills", type=int, default=0, help="kill -9 coordinator and agents so often"
    )
    demo.add_argument(
        "--secure",
        action="store_true",
        help="ten factories; updates masked, sums opened by three helpers; a plain run beside it",
    )
    demo.add_argument(
        "--epsilon",
        type=_epsilon,
        default=0.0,
        help="with --secure: each site's budget of differential privacy for single records",
    )
    demo.add_argument(
        "--mcu",
        action="store_true",
        help="instead: a model reaches an emulated Cortex-M3 (takes --out and --seed)",
    )
    demo.set_defaults(command=_demo)


def _seconds(text: str) -> float:
    value = float(text)
    if not 10 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 10 and 86400 seconds")
    return value


def _epsilon(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 1000")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 0.9")
    return value


def _mcu_demo(options: argparse.Namespace) -> int:
    from shopfloor.emulated_board import BoardError  # noqa: PLC0415
    from shopfloor.mcu.plant import lay_out  # noqa: PLC0415
    from shopfloor.mcu.report import verdict, write_report  # noqa: PLC0415
    from shopfloor.mcu.run import run_mcu_demo  # noqa: PLC0415
    from shopfloor.processes import ChildError  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = options.out or Path(tempfile.mkdtemp(prefix="journeyman-demo-"))
    try:
        plant = lay_out(out / time.strftime("run-%Y%m%d-%H%M%S"), options.seed)
        record = asyncio.run(run_mcu_demo(plant))
        write_report(record, out / "report.html")
    except (BoardError, ChildError, OSError) as error:
        print(f"journeyman demo --mcu: {error}", file=sys.stderr)
        return 1
    print(verdict(record))
    print(f"Report: {out / 'report.html'}")
    return 1 if record.problem else 0


def _demo(options: argparse.Namespace) -> int:
    if options.mcu:
        return _mcu_demo(options)
    if options.job:
        from shopfloor.jobs.command import job_demo  # noqa: PLC0415

        return job_demo(options)
    if options.epsilon and not options.secure:
        print("journeyman demo: --epsilon needs --secure", file=sys.stderr)
        return 2
    from shopfloor.demo import run_demo  # noqa: PLC0415  matplotlib and asyncua take a second
    from shopfloor.milling import TableError  # noqa: PLC0415
    from shopfloor.plant import (  # noqa: PLC0415
        SECURE_SITES,
        SITES,
        STREAM_SHARE,
        Options,
        lay_out,
    )
    from shopfloor.processes import ChildError  # noqa: PLC0415
    from shopfloor.report import verdict, write_report  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = options.out or Path(tempfile.mkdtemp(prefix="journeyman-demo-"))
    run = out / time.strftime("run-%Y%m%d-%H%M%S")
    chosen = Options(
        seed=options.seed,
        data=options.data,
        strategy=options.strategy,
        broker=options.broker,
        stream_s=STREAM_SHARE * options.duration,
        learn_s=options.duration,
        down_share=options.down_share,
        kills=options.kills,
        sites=SECURE_SITES if options.secure else SITES,
    )
    try:
        if options.secure:
            record = _secure_run(run, chosen, options)
        else:
            record = asyncio.run(run_demo(lay_out(run, chosen), headless=options.headless))
    except (TableError, ChildError, OSError) as error:
        print(f"journeyman demo: {error}", file=sys.stderr)
        return 1
    write_report(record, out)
    (run / "events.json").write_bytes(msgspec.json.encode(record.events))
    print(verdict(record))
    print(f"Report: {out / 'report.html'}")
    return 0 if record.updates.lost == 0 else 1


def _secure_run(run: Path, chosen: "Options", options: argparse.Namespace) -> "RunRecord":
    """The same factories twice: plain, for comparison, and then masked; the second one's record."""
    from shopfloor.demo import run_demo  # noqa: PLC0415
    from shopfloor.plant import lay_out  # noqa: PLC0415
    from shopfloor.secure import with_privacy  # noqa: PLC0415

    print("First the same ten factories without masks and noise, to compare with.", flush=True)
    plain = asyncio.run(run_demo(lay_out(run / "plain", chosen), headless=options.headless))
    print("Now masked, with three helpers.", flush=True)
    secure = replace(chosen, secure=True, epsilon=options.epsilon)
    plant = lay_out(run, secure)
    record = asyncio.run(run_demo(plant, headless=options.headless))
    return with_privacy(record, plain, plant)


def _add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = commands.add_parser("keys", help="root, charter, agents' keys and credentials")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser("federation", help="make an offline root, a charter and its keys")
    new.add_argument("name", help="name of the federation")
    new.add_argument("--keys", type=Path, required=True, help="new directory for the key files")
    new.add_argument("--k-min", type=int, default=1, help="least sites behind a published sum")
    new.add_argument("--agreement", type=Path, help="the consortium's agreement text")
    new.add_argument("--helper", type=Path, action="append", default=[], help="a helper's .public")
    for name in ("coordinator", "coordinator-sealing", "enrolment", "author"):
        text = "made elsewhere: a .pub file; without it the key is made here"
        new.add_argument(f"--{name}-key", metavar="PUB", help=text)
    new.set_defaults(command=_keys_federation)
    agent = actions.add_parser("agent", help="make an agent's key and credential")
    agent.add_argument("agent", help="the agent's id, also its MQTT user name")
    agent.add_argument("--site", required=True, help="the site it stands at")
    agent.add_argument("--keys", type=Path, required=True, help="directory with the enrolment key")
    agent.add_argument("--serial", type=int, default=1, help="number of the credential")
    agent.set_defaults(command=_keys_agent)
    add_charter_actions(actions)
    show = actions.add_parser("show", help="print a charter, verified under its root")
    show.add_argument("charter", type=Path)
    show.add_argument("--root", required=True, help="the root's public key, 64 hexadecimal digits")
    show.set_defaults(command=_keys_show)
    add_key_actions(actions)


def _keys_federation(options: argparse.Namespace) -> int:
    from wire.chunks import sha256  # noqa: PLC0415
    from wire.keys import (  # noqa: PLC0415
        PublicHalves,
        make_federation,
        read_helper,
        read_public,
    )

    agreement = sha256(options.agreement.read_bytes()) if options.agreement else bytes(32)
    helpers = tuple(read_helper(path) for path in options.helper)
    given = {
        name: read_public(value)
        for name, value in (
            ("enrolment", options.enrolment_key),
            ("coordinator", options.coordinator_key),
            ("sealing", options.coordinator_sealing_key),
            ("author", options.author_key),
        )
        if value
    }
    root = make_federation(
        options.keys,
        options.name,
        k_min=options.k_min,
        agreement=agreement,
        helpers=helpers,
        given=PublicHalves(**given),
    )
    print(f'root = "{root.raw.hex()}"  # pin this in every [trust] table')
    print(f"Keep {options.keys / 'root.key'} offline; nothing needs it until the charter changes.")
    return 0


def _keys_agent(options: argparse.Namespace) -> int:
    from wire.codec import open_envelope, parse_body  # noqa: PLC0415
    from wire.keys import CHARTER, make_agent  # noqa: PLC0415
    from wire.messages import Charter  # noqa: PLC0415

    envelope = (options.keys / CHARTER).read_bytes()
    federation = parse_body(open_envelope(envelope, "charter"), Charter).federation
    make_agent(options.keys, federation, options.agent, options.site, serial=options.serial)
    print(f"{options.keys / options.agent}.key and .credential are for the gateway of that name")
    return 0


def _keys_show(options: argparse.Namespace) -> int:
    from wire.charters import shown  # noqa: PLC0415
    from wire.signing import parse_public_key  # noqa: PLC0415
    from wire.trust import read_charter  # noqa: PLC0415

    charter = read_charter(options.charter.read_bytes(), parse_public_key(options.root)).charter
    for name in charter.__struct_fields__:
        value = getattr(charter, name)
        print(f"{name:24} {shown(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
