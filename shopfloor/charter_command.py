"""`journeyman keys charter|coordinator|author|enrolment`: new keys, and the charter naming them.

A key is made on the machine that uses it, and only its public half travels to the root's machine,
where `keys charter` signs what follows from the present charter.  It shows every difference, and
without `--yes` asks before it signs.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from wire.charters import changes
from wire.chunks import sha256
from wire.errors import SettingsError
from wire.files import read_small
from wire.keys import (
    make_key,
    make_sealing_key,
    read_federation,
    read_helper,
    read_public,
    replace_charter,
)
from wire.messages import Charter, HelperKeys, Recipient, Safeguards
from wire.topics import check_name

Commands = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it
_MAX_BYTES = 4096


def add_charter_actions(actions: "Commands[argparse.ArgumentParser]") -> None:
    """Add `charter`, `coordinator`, `author` and `enrolment` to `journeyman keys`."""
    for name, what in (
        ("coordinator", "the coordinator's signing and sealing key"),
        ("author", "a data scientist's key for model bundles"),
        ("enrolment", "the enrolment authority's key"),
    ):
        one = actions.add_parser(
            name,
            help=f"make {what}, where it will live",
            description=f"Makes {what}. The .key files stay here, mode 0600; the .pub files are "
            "for whoever signs the charter.",
        )
        one.add_argument("--out", type=Path, required=True, help="directory for the files")
        one.set_defaults(command=_make, name=name)
    _add_charter(actions)


def _add_charter(actions: "Commands[argparse.ArgumentParser]") -> None:
    new = actions.add_parser(
        "charter",
        help="sign the next charter: other keys, sites, helpers, floors; recovery",
        description="Makes the next charter from the present one, shows what changes, and signs it "
        "with DIR/root.key. The one before stays as charter-EPOCH.jm. Keys are given as the .pub "
        "file that came from where they live, or as 64 hexadecimal digits. To be done where the "
        "root is, offline; DIR/charter.jm then goes to the coordinator, which tells everybody.",
    )
    new.add_argument("directory", type=Path, metavar="DIR", help="with root.key and charter.jm")
    new.add_argument("--coordinator-key", metavar="PUB", help="signs heads and receipts from now")
    new.add_argument("--coordinator-sealing-key", metavar="PUB", help="of the same coordinator")
    new.add_argument("--enrolment-key", metavar="PUB", help="signs credentials from now on")
    _many(new, "--add-author", "PUB", "may sign bundles from now on")
    _many(new, "--remove-author", "PUB", "signs no new bundle any more")
    _many(new, "--helper", "FILE", "a helper's .public: replaces the one of its name, or is added")
    _many(new, "--remove-helper", "NAME", "is no helper any more")
    _many(new, "--site", "NAME", "counts from now on; the first one given makes the list closed")
    _many(new, "--remove-site", "NAME", "does not count any more")
    new.add_argument("--any-site", action="store_true", help="open the list of sites again")
    new.add_argument("--k-min", type=int, metavar="N", help="least sites behind a published sum")
    new.add_argument("--endorsements", type=int, choices=(2, 3), help="helpers that agree on a sum")
    new.add_argument("--least-protection", choices=("none", "masked", "encrypted"))
    new.add_argument("--least-privacy", choices=("none", "record", "update"))
    new.add_argument("--least-noise", type=float, metavar="MULTIPLIER")
    new.add_argument("--recipient", type=Path, metavar="FILE", help="who decrypts sums (BFV)")
    new.add_argument("--no-recipient", action="store_true", help="nobody decrypts sums any more")
    new.add_argument("--agreement", type=Path, metavar="FILE", help="the new agreement's text")
    new.add_argument(
        "--recover",
        action="store_true",
        help="the coordinator's newest state is lost, and it may go on from an older one",
    )
    new.add_argument("--yes", action="store_true", help="sign without asking")
    new.set_defaults(command=_charter)


def _many(parser: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    parser.add_argument(name, action="append", default=[], metavar=metavar, help=text)


def _make(options: argparse.Namespace) -> int:
    made = [make_key(options.out, options.name)]
    if options.name == "coordinator":
        made.append(make_sealing_key(options.out, options.name))
    for public in made:
        print(f"{public} is for the charter; {public.with_suffix('.key')} stays here")
    return 0


def _charter(options: argparse.Namespace) -> int:
    before = read_federation(options.directory)[2].charter
    after = next_charter(before, options)
    said = list(changes(before, after))
    if len(said) <= 2:  # the epoch alone
        raise SettingsError(str(options.directory), None, None, "nothing would change; see --help")
    print("\n".join(said))
    if after.recovery > before.recovery:
        print("What the coordinator decided after its backup is given up; see docs/trust.md.")
    if not options.yes and not _agreed():
        return 1
    print(f"{replace_charter(options.directory, after)}: charter {after.epoch}, signed")
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("not signed: nobody to ask; say --yes", file=sys.stderr)
        return False
    return input("Sign this? [y/N] ").strip().lower() in ("y", "yes")


def next_charter(before: Charter, options: argparse.Namespace) -> Charter:
    """The charter that follows; whether it contradicts itself is found when it is signed.

    Raises:
      SettingsError: a file that is named is not what it should be, or what is to go is not there.
    """
    keys = {
        field: read_public(given)
        for field in ("coordinator_key", "coordinator_sealing_key", "enrolment_key")
        if (given := getattr(options, field))
    }
    if "coordinator_key" in keys and "coordinator_sealing_key" not in keys:
        keys["coordinator_sealing_key"] = b""  # the one before was the other coordinator's
    k_min = before.k_min if options.k_min is None else options.k_min
    if k_min < 1:
        raise SettingsError("--k-min", None, None, "at least 1")
    return msgspec.structs.replace(
        before,
        epoch=before.epoch + 1,
        author_keys=_authors(before, options),
        helpers=_helpers(before, options),
        sites=_sites(before, options),
        k_min=k_min,
        endorsements=options.endorsements or before.endorsements,
        least=_least(before, options),
        recipient=_recipient(before, options),
        agreement=sha256(options.agreement.read_bytes()) if options.agreement else before.agreement,
        recovery=before.recovery + options.recover,
        **keys,
    )


def _authors(before: Charter, options: argparse.Namespace) -> tuple[bytes, ...]:
    gone = [read_public(given) for given in options.remove_author]
    there = [key.hex() for key in before.author_keys]
    _check_there("--remove-author", [key.hex() for key in gone], there)
    kept = [key for key in before.author_keys if key not in gone]
    kept += [key for given in options.add_author if (key := read_public(given)) not in kept]
    if not kept:
        raise SettingsError("--remove-author", None, None, "one author has to stay")
    return tuple(kept)


def _helpers(before: Charter, options: argparse.Namespace) -> tuple[HelperKeys, ...]:
    by_name = {helper.name: helper for helper in before.helpers}
    _check_there("--remove-helper", options.remove_helper, by_name)
    for name in options.remove_helper:
        del by_name[name]
    for given in options.helper:
        helper = read_helper(Path(given))
        by_name[helper.name] = helper
    return tuple(by_name.values())


def _sites(before: Charter, options: argparse.Namespace) -> tuple[str, ...]:
    if options.any_site:
        return ()
    _check_there("--remove-site", options.remove_site, before.sites)
    named = [site for site in before.sites if site not in options.remove_site]
    if before.sites and not named and not options.site:
        raise SettingsError("--remove-site", None, None, "no site left; say --any-site if so meant")
    return tuple(dict.fromkeys([*named, *(check_name(site, "site") for site in options.site)]))


def _check_there(option: str, gone: Sequence[str], there: Collection[str]) -> None:
    for name in gone:
        if name not in there:
            raise SettingsError(option, None, None, f"the charter does not name {name}")


def _least(before: Charter, options: argparse.Namespace) -> Safeguards:
    given = {
        "protection": options.least_protection,
        "privacy": options.least_privacy,
        "noise_multiplier": options.least_noise,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    return msgspec.convert(msgspec.structs.asdict(before.least) | asked, Safeguards)


def _recipient(before: Charter, options: argparse.Namespace) -> Recipient | None:
    if options.no_recipient:
        return None
    if options.recipient is None:
        return before.recipient
    try:
        data = read_small(options.recipient, _MAX_BYTES, "a recipient's public file")
        return msgspec.json.decode(data, type=Recipient)
    except msgspec.MsgspecError as error:
        reason = f"not a recipient's public file: {error}"
        raise SettingsError(str(options.recipient), None, None, reason) from None
