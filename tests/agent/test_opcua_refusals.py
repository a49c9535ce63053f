"""The plant and the agent refuse each other; once a person corrects it, every tag flows."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent.sensors.opcua import OpcUaSettings
from agent.sensors.opcua.security import SecuritySettings
from agent.sensors.opcua.trust_store import keep, pki_directory
from tests.agent.opcua_pki import DAY, NOW, Party, server
from tests.agent.opcua_plant import (
    Plant,
    Taken,
    collecting,
    plant_settings,
    running_plant,
    until,
    until_more,
)

NAMES = ("Count", "Kept", "Wave", "State", "Span")
URI = "urn:journeyman:test:plant"
RENEWED = server(URI)
EXPIRED = server(URI, valid=(NOW - 10 * DAY, NOW - DAY))


def secured(plant: Plant, user: str = "", password_file: str = "") -> OpcUaSettings:
    security = SecuritySettings(policy="Basic256Sha256", user=user, password_file=password_file)
    return plant_settings(plant.endpoint, *NAMES, security=security)


def shown(party: Party, folder: Path) -> dict[str, str]:
    """Options of a plant that shows this certificate."""
    certificate, key = party.write(folder, party.certificate.not_valid_before_utc.strftime("%j"))
    return {"certificate": str(certificate), "key": str(key), "application_uri": URI}


def trust(plant: Plant, party: Party) -> None:
    keep(pki_directory(plant.scratch / "state"), "trusted", party.certificate)


async def refused_then_corrected(
    settings: OpcUaSettings, plant: Plant, sign: str, correct: Callable[[], None]
) -> Taken:
    async with collecting(settings, plant.scratch) as taken:
        await until(lambda: sign in taken.report.state, taken)
        assert taken.samples == 0, taken.report
        await asyncio.to_thread(correct)
        await until_more(taken, *NAMES)
        assert taken.report.state == "subscribed"
    return taken


def test_an_expired_certificate_is_refused_until_the_server_has_a_new_one(
    node_program: str, repository: Path, tmp_path: Path
) -> None:
    folder = repository / "tests" / "node_opcua"
    with running_plant(node_program, folder, tmp_path, **shown(EXPIRED, tmp_path)) as plant:
        for party in (EXPIRED, RENEWED):
            trust(plant, party)

        def renew() -> None:
            plant.kill()
            plant.start(**shown(RENEWED, tmp_path))

        asyncio.run(refused_then_corrected(secured(plant), plant, "expired", renew))


def test_an_unknown_certificate_and_a_wrong_password_are_refused_until_corrected(
    node_program: str, repository: Path, tmp_path: Path
) -> None:
    folder = repository / "tests" / "node_opcua"
    options = {**shown(RENEWED, tmp_path), "user": "agent", "password": "right"}
    password = tmp_path / "password"
    password.write_text("wrong\n")
    password.chmod(0o600)
    with running_plant(node_program, folder, tmp_path, **options) as plant:
        settings = secured(plant, user="agent", password_file="password")

        async def scenario() -> None:
            async with collecting(settings, plant.scratch) as taken:
                await until(lambda: "trust add" in taken.report.state, taken)
                trust(plant, RENEWED)
                await until(lambda: "user 'agent'" in taken.report.state, taken)
                assert taken.samples == 0
                password.write_text("right\n")
                await until_more(taken, *NAMES)
                assert taken.report.state == "subscribed"

        asyncio.run(scenario())
