"""The options of `journeyman bundle`, and the words of its --help.

Pure: words in, a namespace out, whose `action` names the subcommand.
"""

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Makes and checks model bundles: signed files that hold a model as data, which gateways train.

  build     a bundle, or an unsigned draft, from a TOML description
  inspect   what a bundle holds
  sign      a draft, for one federation
  verify    everything a gateway verifies, on this machine
  test      what a bundle would learn from your own files, alone and together
  export    trained weights as ONNX or for microcontrollers
"""

_Actions = Any  # argparse's own type for this is private


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command."""
    whole = argparse.ArgumentParser(
        prog="journeyman bundle",
        description=_DESCRIPTION,
        epilog="docs/tutorial-bundle.md leads from a PyTorch model to a signed bundle; "
        "docs/bundle.md specifies the file and every key.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = whole.add_subparsers(required=True, metavar="ACTION")
    for add in (_add_build, _add_inspect, _add_sign, _add_verify, _add_test, _add_export):
        add(actions)
    return whole


def _action(actions: _Actions, name: str, text: str, more: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}"
    )
    return action


def _add_build(actions: _Actions) -> None:
    build = _action(
        actions,
        "build",
        "build a bundle from a TOML description",
        "Derives the training graph and makes golden vectors, so that what a gateway would refuse "
        "is refused here. Without --keys the result is a draft, which no agent and no coordinator "
        "accepts.",
    )
    build.add_argument("description", type=Path, help="such as configs/jobs/ai4i.toml")
    build.add_argument(
        "--keys", metavar="DIR", type=Path, help="directory with author.key and charter.jm"
    )
    build.add_argument(
        "--federation", metavar="NAME", help="must be the charter's; a check against mix-ups"
    )
    build.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file to write")
    build.set_defaults(action="build")


def _add_inspect(actions: _Actions) -> None:
    inspect = _action(
        actions,
        "inspect",
        "print what a bundle or a draft holds",
        "Channels, features, label, layers, tensors, bytes, memory. With --charter or --keys the "
        "bundle is verified too.",
    )
    inspect.add_argument("bundle", type=Path)
    _add_trust(inspect, required=False)
    inspect.set_defaults(action="inspect")


def _add_sign(actions: _Actions) -> None:
    sign = _action(
        actions,
        "sign",
        "sign a draft for a federation",
        "Checks the draft as `verify` does, puts the charter's agreement into its manifest and "
        "signs it with author.key.",
    )
    sign.add_argument("draft", type=Path)
    sign.add_argument(
        "--keys", metavar="DIR", type=Path, required=True, help="directory: author.key, charter.jm"
    )
    sign.add_argument(
        "--federation", metavar="NAME", help="must be the charter's; a check against mix-ups"
    )
    sign.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file to write")
    sign.set_defaults(action="sign")


def _add_verify(actions: _Actions) -> None:
    verify = _action(
        actions,
        "verify",
        "do every check that a gateway does, on this machine",
        "Ends with status 1 when a check fails.",
    )
    verify.add_argument("bundle", type=Path)
    _add_trust(verify, required=True)
    _add_backend(verify)
    verify.set_defaults(action="verify")


def _add_trust(parser: argparse.ArgumentParser, *, required: bool) -> None:
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--keys", metavar="DIR", type=Path, help="directory with charter.jm")
    source.add_argument("--charter", metavar="FILE", type=Path, help="the charter's file")
    parser.add_argument(
        "--root",
        metavar="KEY",
        help="the root's public key, to verify the charter itself; else it is believed",
    )


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=("auto", "onnxruntime", "numpy"),
        default="auto",
        help="auto: ONNX Runtime where it is installed, else numpy",
    )


def _add_test(actions: _Actions) -> None:
    test = _action(
        actions,
        "test",
        "train a bundle on your own files and judge it",
        "Each --data file is a site. Prints what its model learns alone, beside a predictor that "
        "looks at no input; with several files also how each model does on the others' held-out "
        "rows, and what federated averaging of them would give.",
    )
    test.add_argument("bundle", type=Path, help="a bundle or a draft")
    test.add_argument(
        "--data",
        metavar="FILE",
        type=Path,
        action="append",
        required=True,
        help="CSV with the channels' names as header, or npz with an array for each; repeatable",
    )
    test.add_argument(
        "--group", metavar="COLUMN", default="", help="column that tells machines or runs apart"
    )
    test.add_argument(
        "--time", metavar="COLUMN", default="", help="column that orders rows (default: file order)"
    )
    test.add_argument("--epochs", metavar="N", type=_positive, help="instead of the recipe's")
    test.add_argument(
        "--rounds", metavar="N", type=_positive, default=5, help="of federated averaging (5)"
    )
    test.add_argument(
        "--seed", metavar="N", type=_natural, default=0, help="of the split and the row order"
    )
    test.add_argument(
        "--out", metavar="FILE", type=Path, help="write the trained weights here (safetensors)"
    )
    _add_backend(test)
    test.set_defaults(action="test")


def _add_export(actions: _Actions) -> None:
    export = _action(
        actions,
        "export",
        "write trained weights in a format that other runtimes read",
        "tflite-int8 needs --data: rows of the real signal, which choose the integers' ranges.",
    )
    export.add_argument("bundle", type=Path, help="a bundle or a draft")
    export.add_argument(
        "--weights", metavar="FILE", type=Path, help="safetensors (default: the bundle's own)"
    )
    export.add_argument("--format", choices=("onnx", "tflite", "tflite-int8"), required=True)
    export.add_argument(
        "--data", metavar="FILE", type=Path, action="append", default=[], help="CSV or npz"
    )
    export.add_argument(
        "--group", metavar="COLUMN", default="", help="column that tells machines or runs apart"
    )
    export.add_argument(
        "--time", metavar="COLUMN", default="", help="column that orders rows (default: file order)"
    )
    export.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file to write")
    export.set_defaults(action="export")


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100000")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {(1 << 32) - 1}")
    return value
