"""Scores over MQTT, through a real broker, as a SCADA would read them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.serve.document import AvailabilityDocument, ScoreDocument
from agent.serve.score import STATUS_INPUTS_UNCERTAIN, Driver
from agent.serve.settings import MqttSettings, ScoresTable
from tests.agent.conftest import Broker
from tests.agent.scores_peers import WEAR, running, score, until
from wire.mqtt import BrokerSettings, Received, connect

TOPIC, AVAILABILITY = "journeyman/lyon/gw-1/score", "journeyman/lyon/gw-1/availability"
Heard = list[Received]


def _table(broker: Broker, **keys: Any) -> ScoresTable:
    return ScoresTable(queue=50, mqtt=MqttSettings(port=broker.port, **keys))


@asynccontextmanager
async def scada(broker: Broker, name: str = "scada") -> AsyncIterator[Heard]:
    """Somebody who subscribes to everything, and what he has heard."""
    heard: Heard = []

    async def listen() -> None:
        async for message in link.messages():
            heard.append(message)

    async with connect(BrokerSettings(port=broker.port), name) as link:
        listening = asyncio.create_task(listen())
        await link.subscribe(["#"])
        try:
            yield heard
        finally:
            listening.cancel()


def _scores(heard: Heard) -> list[ScoreDocument]:
    documents = (message.payload for message in heard if message.topic == TOPIC)
    return [msgspec.json.decode(each, type=ScoreDocument) for each in documents]


def _states(heard: Heard) -> list[tuple[str, str]]:
    documents = (message.payload for message in heard if message.topic == AVAILABILITY)
    decoded = (msgspec.json.decode(each, type=AvailabilityDocument) for each in documents)
    return [(each.state, each.health) for each in decoded]


def test_every_score_is_one_document_with_unit_and_utc_time(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with scada(broker) as heard, running(_table(broker), tmp_path) as outputs:
            outputs.take([score(0.75, 1, status=STATUS_INPUTS_UNCERTAIN)])
            outputs.take([score(41.5, 2, WEAR, decision="41.5", confidence=float("nan"))])
            outputs.take([score(float("nan"), 3)])
            await until(lambda: len(_scores(heard)) == 3)
            assert not any(message.retained for message in heard if message.topic == TOPIC)
            documents = [msgspec.json.decode(m.payload) for m in heard if m.topic == TOPIC]
            assert documents[0] == {
                "format": 1,
                "site": "lyon",
                "agent": "gw-1",
                "time": "2023-11-14T22:13:21.000000Z",
                "score": 0.75,
                "unit": "",
                "decision": "alarm",
                "code": 1,
                "alarm": True,
                "confidence": 0.5,
                "threshold": 0.5,
                "quality": "uncertain",
                "status": STATUS_INPUTS_UNCERTAIN,
                "model": "press",
                "bundle": "ab" * 32,
                "version": 7,
                "serving": "global",
                "health": "ok",
            }
            number, nothing = _scores(heard)[1:]
            assert (number.score, number.unit, number.threshold) == (41.5, "min", None)
            assert number.confidence is None
            assert (nothing.score, nothing.quality, nothing.alarm) == (None, "bad", False)
            await until(lambda: outputs.reports[0].sent == 3)  # once the broker has said so

    asyncio.run(main())


def test_an_alarm_goes_out_with_the_channels_that_drove_it(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with scada(broker) as heard, running(_table(broker), tmp_path) as outputs:
            drivers = (Driver("tool_wear", 0.71234567, 215.0, "min"), Driver("wave", -0.25))
            outputs.take([score(0.75, drivers=drivers), score(0.25, 1)])
            await until(lambda: len(_scores(heard)) == 2)
            documents = [each.payload for each in heard if each.topic == TOPIC]
            explained, plain = (msgspec.json.decode(each) for each in documents)
            assert explained["drivers"] == [
                {"channel": "tool_wear", "share": 0.7123, "value": 215.0, "unit": "min"},
                {"channel": "wave", "share": -0.25, "value": None, "unit": ""},
            ]
            assert "drivers" not in plain
            assert explained["format"] == 1

    asyncio.run(main())


def test_availability_is_retained_and_its_last_will_says_offline(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(_table(broker), tmp_path) as outputs:
            await until(lambda: outputs.reports[0].state == "connected")
            async with scada(broker) as heard:
                await until(lambda: _states(heard) == [("online", "ok")])
                assert heard[0].retained
                outputs.health("the source is lost")
                await until(lambda: _states(heard)[1:] == [("online", "the source is lost")])
        async with scada(broker) as heard:
            await until(lambda: _states(heard))
            assert _states(heard) == [("offline", "ok")]

    asyncio.run(main())


def test_a_broker_that_was_away_gets_the_newest_scores_and_the_rest_is_counted(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(_table(broker), tmp_path) as outputs:
            report = outputs.reports[0]
            await until(lambda: report.state == "connected")
            broker.kill()
            await until(lambda: report.state != "connected")
            outputs.take([score(0.001 * step, step) for step in range(80)])
            assert report.dropped == 30
            broker.start("retain_available true\n")
            async with scada(broker) as heard:
                outputs.take([score(0.5, 80)])
                await until(lambda: report.state == "connected")
                await until(lambda: report.sent + report.dropped == 81)
                outputs.take([score(0.5, 81)])
                await until(
                    lambda: _scores(heard) and _scores(heard)[-1].time.endswith("14:41.000000Z")
                )
            assert report.sent + report.dropped == 82

    asyncio.run(main())


def test_a_password_file_that_is_missing_is_reported_and_does_not_end_the_agent(
    broker: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        table = _table(broker, username="scores", password_file="nowhere.txt")
        async with running(table, tmp_path) as outputs:
            await until(lambda: "nowhere.txt" in outputs.reports[0].state)
            assert str(tmp_path) in outputs.reports[0].state
            outputs.take([score(0.5)])

    asyncio.run(main())


@pytest.mark.parametrize("retain", [True, False])
def test_the_last_score_is_retained_only_when_that_is_asked_for(
    broker: Broker, tmp_path: Path, retain: bool
) -> None:
    async def main() -> None:
        async with running(_table(broker, retain=retain), tmp_path) as outputs:
            outputs.take([score(0.5)])
            await until(lambda: outputs.reports[0].sent == 1)
            async with scada(broker) as heard:
                await until(lambda: _states(heard))
                assert len(_scores(heard)) == retain

    asyncio.run(main())
