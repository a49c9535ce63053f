"""The coordinator's configuration: every error names file, line and key."""

from pathlib import Path

import pytest

from coordinator.config import read_coordinator_settings, read_identity
from coordinator.main import main
from tests.coordinator.conftest import Plant
from tests.coordinator.small_federation import bundle_bytes
from wire.errors import SettingsError
from wire.keys import make_federation
from wire.signing import read_private_key


def problem(plant: Plant, old: str, new: str) -> str:
    """What `check` says after one edit of a good file."""
    text = plant.config.read_text()
    assert old in text
    plant.config.write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        read_identity(plant.config, read_coordinator_settings(plant.config))
    return str(caught.value).removeprefix(f"{plant.directory}/")


def test_a_good_file_gives_the_identity(plant: Plant) -> None:
    identity = read_identity(plant.config, read_coordinator_settings(plant.config))
    assert identity.trust.federation == "plant-net"
    assert identity.key.public == identity.trust.coordinator
    assert identity.bundle.manifest.name == "spindle"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("chunk_bytes = 256", "chunk_byte = 256", "coordinator.toml:4: coordinator.chunk_byte: "),
        ("chunk_bytes = 256", "chunk_bytes = 1", "coordinator.toml:4: coordinator.chunk_bytes: "),
        ('bundle = "bundle.jm"\n', "", "coordinator.toml:1: coordinator.bundle: this key is"),
        ("keepalive_s = 5", "keepalive_s = 'x'", "coordinator.toml:13: broker.keepalive_s: "),
        ("scale = 0.01", "scale = nan", "coordinator.toml:17: policy.scale: "),
        ("scale = 0.01", "scale = inf", "coordinator.toml:17: policy.scale: "),
        ("[policy]", "[policy", "coordinator.toml:16: "),
        (
            "[policy]",
            "[schedule]\nversions = 4\nlast_learning_rate = 0.5\n[policy]",
            "coordinator.toml:18: schedule.last_learning_rate: must be above 0 and at most",
        ),
        # What the files say about each other
        ("charter.jm", "charta.jm", "coordinator.toml:8: trust.charter: "),
        ('root = "', 'root = "00" #', "coordinator.toml:7: trust.root: "),
        ("keys/coordinator.key", "keys/author.key", "coordinator.toml:9: trust.key: this is not"),
        ("keys/coordinator.key", "keys/none.key", "coordinator.toml:9: trust.key: "),
        ("bundle.jm", "keys/charter.jm", "coordinator.toml:3: coordinator.bundle: "),
    ],
)
def test_an_error_names_file_line_and_key(plant: Plant, old: str, new: str, expected: str) -> None:
    assert problem(plant, old, new).startswith(expected)


def test_a_bundle_of_another_federation_is_refused(plant: Plant) -> None:
    (plant.directory / "bundle.jm").write_bytes(bundle_bytes("another-net"))
    said = problem(plant, "keepalive_s", "keepalive_s")
    assert said.startswith("coordinator.toml:3: coordinator.bundle: bundle: none of the charter's")


def test_a_charter_of_another_root_is_refused(plant: Plant) -> None:
    other = make_federation(plant.directory / "other", "plant-net")
    said = problem(plant, plant.root.raw.hex(), other.raw.hex())
    assert said.startswith("coordinator.toml:8: trust.charter: charter from root: the signature")


def test_a_key_that_others_can_read_is_refused(plant: Plant) -> None:
    (plant.keys / "coordinator.key").chmod(0o644)
    said = problem(plant, "keepalive_s", "keepalive_s")
    assert said.startswith("coordinator.toml:9: trust.key: ")
    assert "chmod 600" in said


@pytest.mark.parametrize(("name", "key"), [("fedavg", "clients"), ("fedbuff", "goal")])
def test_a_strategy_that_can_not_reach_the_charters_sites_is_refused(
    tmp_path: Path, repository: Path, name: str, key: str
) -> None:
    root = make_federation(tmp_path / "keys", "plant-net", k_min=3)
    made = Plant(tmp_path, repository, root, 1883)
    author = read_private_key(made.keys / "author.key")
    (tmp_path / "bundle.jm").write_bytes(bundle_bytes("plant-net", author))
    made.configure(f'[strategy]\nname = "{name}"\n{key} = 3\n')
    said = problem(made, f"{key} = 3", f"{key} = 2")
    assert said.startswith(
        f"coordinator.toml:17: strategy.{key}: 2 updates can not come from the 3"
    )


def test_a_bundle_with_too_many_chunks_is_refused(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.config.MAX_CHUNKS", 2)
    said = problem(plant, "keepalive_s", "keepalive_s")
    assert said.startswith("coordinator.toml:4: coordinator.chunk_bytes: ")


def test_paths_are_relative_to_the_file_and_may_be_systemd_credentials(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (plant.keys / "coordinator.key").rename(credentials / "key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    text = plant.config.read_text().replace("keys/coordinator.key", "${CREDENTIALS_DIRECTORY}/key")
    text = text.replace("keepalive_s = 5", 'ca_file = "ca.pem"\npassword_file = "/run/secret"')
    plant.config.write_text(text)
    settings = read_coordinator_settings(plant.config)
    identity = read_identity(plant.config, settings)
    assert identity.key.public == identity.trust.coordinator
    assert settings.broker.ca_file == str(plant.directory / "ca.pem")
    assert settings.broker.password_file == "/run/secret"
    assert settings.broker.cert_file == ""


def test_the_program_says_it_and_ends_with_2(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.config.write_text(plant.config.read_text().replace("keepalive_s", "keep_alive_s"))
    assert main(["check", str(plant.config)]) == 2
    assert capsys.readouterr().err == (
        f"journeyman-coordinator: {plant.config}:13: broker.keep_alive_s: unknown key\n"
    )


def test_a_state_directory_that_can_not_be_used_is_a_configuration_error(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    (plant.directory / "state").write_text("a file is in the way")
    assert main(["run", str(plant.config)]) == 2
    said = capsys.readouterr().err
    assert f"{plant.config}:2: coordinator.state_dir: can not use" in said
