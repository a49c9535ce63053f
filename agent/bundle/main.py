"""`journeyman bundle`: the command line for the person who makes models.

Exit status: 0 fine; 1 the bundle does not hold, or training did not; 2 a file, key or option is
wrong.  An error is one line that names the file, and in it the line, column or key.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent.bundle.options import parser
from wire.bundle import Bundle, read_bundle, read_draft, write_bundle
from wire.codec import MAX_BYTES, open_envelope, parse_body
from wire.errors import MalformedError, SettingsError, WireError
from wire.keys import AUTHOR_KEY, CHARTER, ROOT_KEY
from wire.messages import Charter
from wire.signing import PrivateKey, PublicKey, parse_public_key, read_private_key
from wire.tensors import Params, read_params, write_params
from wire.trust import Trust, read_charter

if TYPE_CHECKING:
    from agent.learning.train import Training

T = TypeVar("T")

_PROGRESS_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        return _ACTIONS[options.action](options)
    except (SettingsError, WireError) as error:
        _complain(f"journeyman: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def _build(options: argparse.Namespace) -> int:
    from agent.authoring import (  # noqa: PLC0415  --help should not wait for a runtime
        build_bundle,
        build_draft,
        read_bundle_settings,
    )

    settings = read_bundle_settings(options.description)
    if options.keys is None:
        if options.federation is not None:
            raise SettingsError("--federation", None, None, "signing needs --keys too")
        data = build_draft(options.description, settings)
        _write(options.out, data)
        _say(f"{options.out}: {len(data)} bytes, an UNSIGNED DRAFT; next: journeyman bundle sign")
        return 0
    charter, author = _author(options.keys, options.federation)
    data = build_bundle(
        options.description, settings, charter.federation, author, charter.agreement
    )
    _write(options.out, data)
    _say(f"{options.out}: {len(data)} bytes, signed for {charter.federation}")
    return 0


def _sign(options: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415

    from agent.model import prepare  # noqa: PLC0415

    charter, author = _author(options.keys, options.federation)
    bundle = _read_unverified(options.draft)[0]
    prepare(bundle)
    manifest = msgspec.structs.replace(bundle.manifest, agreement=charter.agreement)
    data = write_bundle(manifest, bundle.files, charter.federation, author)
    _write(options.out, data)
    _say(f"{options.out}: {len(data)} bytes, signed for {charter.federation}")
    return 0


def _author(keys: Path, federation: str | None) -> tuple[Charter, PrivateKey]:
    """The charter and the author's key of a directory; the key has to be one of the charter's."""
    charter = _read_charter_unverified(keys / CHARTER)
    if federation not in (None, charter.federation):
        reason = f"is of federation {charter.federation!r}, not {federation!r}"
        raise SettingsError(str(keys / CHARTER), None, None, reason)
    author = read_private_key(keys / AUTHOR_KEY)
    if author.public.raw not in charter.author_keys:
        reason = "is not among the charter's author keys, so that everybody would refuse the bundle"
        raise SettingsError(str(keys / AUTHOR_KEY), None, None, reason)
    return charter, author


def _inspect(options: argparse.Namespace) -> int:
    from agent.bundle.describe import bundle_lines  # noqa: PLC0415
    from agent.model import prepare  # noqa: PLC0415

    if options.keys is None and options.charter is None:
        bundle, is_signed = _read_unverified(options.bundle)
        for line in bundle_lines(bundle):
            _say(line)
        _say(
            "signed     claims to be; give --charter or --keys to verify"
            if is_signed
            else "signed     NO: a draft, which agents and coordinators refuse"
        )
        return 0
    trust, data = _trust(options), _read(options.bundle, MAX_BYTES["bundle"])
    bundle = _located(options.bundle, lambda: read_bundle(data, trust))
    prepare(bundle)
    for line in bundle_lines(bundle):
        _say(line)
    _say("signature, hashes, graph and golden vectors hold on this machine")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from agent.model import prepare  # noqa: PLC0415

    trust = _trust(options)
    data = _read(options.bundle, MAX_BYTES["bundle"])
    last = time.perf_counter()

    def passed(words: str) -> None:
        nonlocal last
        now = time.perf_counter()
        _say(f"  ✓ {words:70} {1e3 * (now - last):8.1f} ms")
        last = now

    _say(f"{options.bundle}:")
    try:
        bundle = read_bundle(data, trust, passed)
        prepare(bundle, options.backend, passed)
    except (WireError, ImportError) as error:
        _say(f"  ✗ {error}")
        return 1
    _say("  holds: agents train and serve it")
    return 0


def _trust(options: argparse.Namespace) -> Trust:
    """The charter to believe: verified under --root or the directory's own root key, if any."""
    path = options.charter if options.charter is not None else options.keys / CHARTER
    envelope = _read(path, MAX_BYTES["charter"])
    root = _root(options)
    if root is not None:
        return read_charter(envelope, root)
    _complain(f"{path}: believed as it is; --root would verify it")
    return Trust(parse_body(open_envelope(envelope, "charter"), Charter))


def _root(options: argparse.Namespace) -> PublicKey | None:
    if options.root is not None:
        try:
            return parse_public_key(options.root)
        except ValueError as error:
            raise SettingsError("--root", None, None, str(error)) from None
    if options.keys is not None and (options.keys / ROOT_KEY).exists():
        return read_private_key(options.keys / ROOT_KEY).public
    return None


def _read_charter_unverified(path: Path) -> Charter:
    envelope = _read(path, MAX_BYTES["charter"])
    return parse_body(open_envelope(envelope, "charter"), Charter)


def _test(options: argparse.Namespace) -> int:
    from agent.bundle.tables import TableError  # noqa: PLC0415
    from agent.bundle.trial_run import Columns, Trial, run_trial  # noqa: PLC0415
    from agent.learning.train import TrainingDiverged  # noqa: PLC0415

    bundle, is_signed = _read_unverified(options.bundle)
    state = "signature not verified here" if is_signed else "unsigned draft"
    _say(f"{bundle.manifest.name} revision {bundle.manifest.revision}, {state}")
    trial = Trial(
        files=options.data,
        columns=Columns(options.group, options.time),
        epochs=options.epochs,
        rounds=options.rounds,
        seed=options.seed,
        backend=options.backend,
    )
    try:
        params = run_trial(bundle, trial, _say, _show_progress())
    except (TableError, ImportError) as error:
        _complain(f"journeyman: {error}")
        return 2
    except (TrainingDiverged, ValueError) as error:
        _complain(f"journeyman: {options.bundle}: {error}")
        return 1
    if options.out is not None:
        _write(options.out, write_params(params))
        of_what = "all files together" if len(options.data) > 1 else "this file"
        _say(f"{options.out}: the weights of {of_what}")
    return 0


def _show_progress() -> "Callable[[Training], None]":
    """Show epoch and loss on one line of a terminal, twice a second; elsewhere nothing."""
    from agent.learning.train import nothing  # noqa: PLC0415

    if not sys.stderr.isatty():
        return nothing
    shown = 0.0

    def show(training: "Training") -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PROGRESS_S or training.finished:
            shown = now
            counts = training.checkpoint().progress.counts
            words = f"  epoch {counts.epoch + 1}, loss {counts.loss_last:.4g}"
            print(f"\r{'' if training.finished else words:40}\r", end="", file=sys.stderr)

    return show


def _weights(bundle: Bundle, data: bytes) -> Params:
    """A model's weights from a file of all its tensors, or of a version, which lacks local ones."""
    from agent.model import with_local  # noqa: PLC0415

    manifest = bundle.manifest
    try:
        return read_params(data, manifest.shapes)
    except MalformedError:
        if manifest.shapes == manifest.shared_shapes:
            raise
        return with_local(manifest, read_params(data, manifest.shared_shapes), bundle.weights)


def _export(options: argparse.Namespace) -> int:
    from agent.bundle.export import export  # noqa: PLC0415
    from agent.bundle.tables import TableError  # noqa: PLC0415
    from agent.bundle.trial_run import Columns  # noqa: PLC0415

    bundle = _read_unverified(options.bundle)[0]
    params = bundle.weights
    if options.weights is not None:
        data = _read(options.weights, MAX_BYTES["bundle"])
        params = _located(options.weights, lambda: _weights(bundle, data))
    columns = Columns(options.group, options.time)
    try:
        data = export(bundle, params, options.format, options.data, columns)
    except TableError as error:
        _complain(f"journeyman: {error}")
        return 2
    except (ValueError, ImportError) as error:  # a GraphError too
        raise SettingsError(str(options.bundle), None, options.format, str(error)) from None
    _write(options.out, data)
    _say(f"{options.out}: {len(data)} bytes of {options.format}")
    return 0


def _read_unverified(path: Path) -> tuple[Bundle, bool]:
    data = _read(path, MAX_BYTES["bundle"])
    return _located(path, lambda: read_draft(data))


def _located(path: Path, read: Callable[[], T]) -> T:
    """Do `read`; what is wrong with the bytes is said with the file's name."""
    try:
        return read()
    except WireError as error:
        raise SettingsError(str(path), None, None, str(error)) from None


def _read(path: Path, cap: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(cap + 1)
    except OSError as error:
        raise SettingsError(str(path), None, None, f"can not read: {error.strerror}") from None
    if len(data) > cap:
        raise SettingsError(str(path), None, None, f"larger than {cap} bytes")
    return data


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise SettingsError(str(path), None, None, f"can not write: {error.strerror}") from None


def _say(line: str) -> None:
    print(_printable(line))


def _complain(line: str) -> None:
    print(_printable(line), file=sys.stderr)


def _printable(line: str) -> str:
    """One line without control characters: a file's names may come from anybody."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "build": _build,
    "inspect": _inspect,
    "sign": _sign,
    "verify": _verify,
    "test": _test,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
