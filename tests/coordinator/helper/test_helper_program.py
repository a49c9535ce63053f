"""`journeyman-helper`: starting, refusing to start, and noticing that it was restored."""

import asyncio
import http.client
import shutil
from pathlib import Path

import msgspec
import pytest

from coordinator.helper.config import read_helper_settings
from coordinator.helper.main import main
from coordinator.helper.web import serving
from tests.coordinator.helper.helper_processes import Helpers, coordinator_of
from tests.coordinator.helper.secure_trial import NAMES, Trial
from wire.errors import SettingsError, WireError
from wire.messages import Endorsement, HelperState

NOTARY = NAMES[0]


def configured(trial: Trial, metrics: str = "") -> Path:
    """A helper.toml of the notary."""
    (trial.directory / "charter.jm").write_bytes(trial.charter_envelope)
    path = trial.directory / "helper.toml"
    path.write_text(
        f"""\
[helper]
name = "notary"
state_dir = "notary"

[trust]
root = "{trial.root.public.raw.hex()}"
charter = "charter.jm"
signing_key = "notary/notary.signing.key"
sealing_key = "notary/notary.sealing.key"

[broker]

[metrics]
listen = "{metrics}"
"""
    )
    return path


def a_promise(trial: Trial) -> None:
    """Have the notary endorse something."""
    reports = trial.five()
    trial.accepted(reports, [NOTARY])
    trial.endorsed(trial.manifest(reports), [NOTARY])


def test_check_and_status_say_what_is_there(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(trial)
    a_promise(trial)
    assert main(["check", str(config)]) == 0
    assert "federation plant-net names helper notary" in capsys.readouterr().out
    assert main(["status", str(config)]) == 0
    said = capsys.readouterr().out
    assert "helper notary of plant-net, charter 1" in said
    assert "manifests 1 endorsed, masks given for 0" in said
    assert "NOT IN USE" not in said


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_keys_without_their_store_are_refused(
    trial: Trial, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    config = configured(trial)
    trial.close()
    (trial.directory / NOTARY / "helper.db").unlink()
    assert main([command, str(config)]) == 2
    said = capsys.readouterr().err
    assert "keys and store are made together" in said
    assert "make new keys" in said


def test_a_store_of_other_keys_is_refused(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(trial)
    trial.close()
    shutil.copy(trial.directory / "union/helper.db", trial.directory / NOTARY)
    assert main(["run", str(config)]) == 2
    assert "a store of other keys" in capsys.readouterr().err


def test_keys_are_not_made_beside_a_store_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "keys"), "--state", str(tmp_path / "state")]
    assert main(["keys", "notary", *words]) == 0
    assert (tmp_path / "state/helper.db").exists()
    other = ["--out", str(tmp_path / "other"), "--state", str(tmp_path / "state")]
    assert main(["keys", "notary", *other]) == 2
    assert "this is a helper's store already" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name = "notary"', 'name = "a/b"', "helper.name: helper 'a/b' must match"),
        ('listen = ""', 'listen = "0.0.0.0:80"', "metrics.listen: '0.0.0.0:80' is not a loopback"),
        ("[broker]", '[broker]\nhost = ""', "broker.host: a host has a name"),
        ("[metrics]", "[metrics]\nport = 1", "metrics.port: unknown key"),
    ],
)
def test_mistakes_are_named_with_file_line_and_key(
    trial: Trial, old: str, new: str, reason: str
) -> None:
    config = configured(trial)
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(SettingsError) as caught:
        read_helper_settings(config)
    assert str(caught.value).startswith(f"{config}:")
    assert reason in str(caught.value)


def state_of(trial: Trial, **others: object) -> bytes:
    """A state of the notary, as the broker may have it."""
    known = trial.offices[NOTARY].store.known()
    state = HelperState(
        status="offline", session=known.session, store=known.store, endorsed=known.endorsed
    )
    return trial.sealed_by(NOTARY, msgspec.structs.replace(state, **others))


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"endorsed": 2}, "with 2 endorsements, its store 1"),
        ({"session": 9}, "its state of connection 9"),
        ({"store": "ffffffffffffffff"}, "its state with store ffffffffffffffff"),
    ],
)
def test_a_state_that_the_store_does_not_know_ends_a_helper_for_good(
    trial: Trial, others: dict[str, object], reason: str
) -> None:
    a_promise(trial)
    office = trial.offices[NOTARY]
    office.hear_own_state(state_of(trial))
    assert office.why_nothing() == ""
    office.hear_own_state(state_of(trial, **others))
    office = trial.restart(NOTARY)
    assert "this helper was restored from a backup" in office.why_nothing()
    assert reason in office.why_nothing()
    reports = [
        trial.update(trial.gateway(f"mill-{site}", site)) for site in ("north", "east", "west")
    ]
    assert {each.accepted for each in trial.show(NOTARY, reports)} == {False}
    word = trial.put(NOTARY, trial.say(trial.manifest(reports)))
    assert (word.accepted, word.reason) == (False, office.why_nothing())
    refused = trial.ask(NOTARY, b"any", [b"", b""], [1])
    assert refused.reason == office.why_nothing()  # type: ignore[union-attr]


def test_its_own_newest_endorsement_tells_a_helper_as_well(trial: Trial) -> None:
    a_promise(trial)
    office = trial.offices[NOTARY]
    promise = Endorsement(manifest=bytes(32), accepted=True, number=1)
    office.hear_own_endorsement(trial.sealed_by(NOTARY, promise))
    assert office.why_nothing() == ""
    later = msgspec.structs.replace(promise, number=2)
    with pytest.raises(WireError):  # somebody else's word about it counts for nothing
        office.hear_own_endorsement(trial.sealed_by("union", later))
    assert office.why_nothing() == ""
    office.hear_own_endorsement(trial.sealed_by(NOTARY, later))
    assert "its endorsement 2, its store 1" in office.why_nothing()


def test_a_helper_that_was_restored_notices_it_from_the_broker(helpers: Helpers) -> None:
    """Killed, so that its will has taken the place of its state: the endorsement tells."""
    trial, old = helpers.trial, helpers.trial.directory / "backup"
    reports = trial.five()
    trial.offices[NOTARY] = trial.open(NOTARY)
    trial.accepted(reports, [NOTARY])
    trial.close()
    envelope = trial.say(trial.manifest(reports))
    other = trial.say(trial.manifest(reports[:3], number=2))

    async def story() -> list[Endorsement]:
        helpers.start(NOTARY)
        async with coordinator_of(helpers) as coordinator:
            await coordinator.online(NOTARY)
            shutil.copytree(trial.directory / NOTARY, old)  # with the database's log
            words = []
            await coordinator.ask(NOTARY, envelope)
            words.append((await coordinator.answer(NOTARY, Endorsement))[0])
            helpers.kill(NOTARY)
            helpers.start(NOTARY, old)
            await coordinator.online(NOTARY, 2)
            await coordinator.ask(NOTARY, other)
            words.append((await coordinator.answer(NOTARY, Endorsement))[0])
            return words

    first, second = asyncio.run(story())
    assert (first.accepted, first.number) == (True, 1)
    assert not second.accepted
    assert "this helper was restored from a backup" in second.reason
    assert "ALARM restored" in helpers.log(NOTARY)


def test_figures_are_for_this_machine_and_say_no_more_than_they_should() -> None:
    pages = {"/metrics": lambda: (200, "journeyman_helper_connected 1\n")}
    with serving(("127.0.0.1", 0), pages) as port:

        def get(path: str, host: str = "localhost") -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            found = answer.status, answer.read().decode()
            connection.close()
            return found

        assert get("/metrics") == (200, "journeyman_helper_connected 1\n")
        assert get("/metrics", f"127.0.0.1:{port}")[0] == 200
        assert get("/metrics", "attacker.example")[0] == 421
        assert get("/")[0] == 404
