"""Short, repeatable fuzzing of every entry point; `python -m tests.fuzz.run` goes on from here."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.run import SHARES, escaped
from tests.fuzz.run import run as run_targets
from tests.fuzz.seeds import dictionary
from tests.fuzz.targets import Outcome, check, mutant, target

CASES = {
    "topics": 10_000,
    "envelopes": 10_000,
    "messages": 5_000,
    "bundles": 2_000,
    "graphs": 2_500,
    "safetensors": 10_000,
    "renewals": 700,
    "integers": 2_000,
    "bitmaps": 1_000,
    "deltas": 2_500,
    "assemblies": 2_000,
    "sparse": 2_000,
    "standards": 1_000,
    "evaluations": 1_000,
    "novelty": 1_000,
    "stored": 1_000,
    "web": 300,
    "coordinator": 200,
    "agent": 200,
    "helper": 300,
}
"""About a second each, two for the programs, whose cases hold up to 40 messages."""


NEVER_REFUSED = ("bitmaps", "novelty", "web", "coordinator", "agent")


@pytest.mark.parametrize("name", sorted(SHARES))
def test_any_bytes_give_a_value_or_the_promised_error(name: str) -> None:
    found, dice = target(name), random.Random(4)
    pool = list(found.seeds)
    outcomes = {check(found, case)[0] for case in pool}
    for number in range(CASES[name]):
        case = mutant(found, dice.choice(pool), dice)
        outcomes.add(check(found, case)[0])
        if number % 20 == 0:
            pool.append(case)
    # Were nothing ever accepted, or everything, the cases would not reach what they are for.
    assert Outcome.VALUE in outcomes
    assert (Outcome.REFUSED in outcomes) != (name in NEVER_REFUSED)


def test_the_same_seed_makes_the_same_cases() -> None:
    for name in sorted(SHARES):
        found = target(name)
        made = [
            [mutant(found, case, random.Random(7)) for case in found.seeds[:5]] for _ in range(2)
        ]
        assert made[0] == made[1]


def test_every_target_gets_its_share_and_they_make_a_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(SHARES) == set(CASES)


def test_the_dictionary_is_written_as_the_fuzzer_reads_it() -> None:
    assert b"incarnation" in dictionary()
    assert escaped(b'a"\\') == "\\x61\\x22\\x5c"


def test_the_program_runs_its_targets_and_ends_with_its_verdict(
    repository: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--cases", "3000", "--seed", "5"]
    command += ["--target", "topics", "--target", "bitmaps", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["name"] == "fuzz"
    assert verdict["unit"] == "cases"
    assert verdict["value"] == sum(verdict["targets"].values()) >= 3000
    assert verdict["targets"]["topics"] > verdict["targets"]["bitmaps"] > 0
    assert verdict["crashes"] == 0
    assert verdict["holds"] is False  # too few cases to say so


def test_a_crash_is_counted_and_its_case_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fuzz import run, targets  # noqa: PLC0415 - one of them is changed

    def crashes(data: bytes) -> None:
        if data == b"bad":
            raise ZeroDivisionError

    broken = targets.Target(crashes, [b"good", b"bad"], lambda data, _dice: data)
    monkeypatch.setattr(targets, "target", lambda _name: broken)
    run.fuzz_blindly("topics", 40, 1, tmp_path)
    tally = json.loads(run.tally_file(tmp_path, "topics").read_text())
    (place,) = tally["crashes"]
    assert place.endswith("ZeroDivisionError")
    assert tally["cases"] == 40
    (kept,) = [path for path in tmp_path.iterdir() if path.suffix == ""]
    assert kept.read_bytes() == b"bad"


def test_without_the_guided_fuzzer_the_program_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.fuzz.run.has_atheris", lambda: False)
    assert run_targets(["integers"], 500, 1, tmp_path) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "no coverage guidance" in first
    assert json.loads(last)["guided"] is False
