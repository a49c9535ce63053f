"""Real `journeyman-helper run` processes on a real broker."""

import asyncio
import signal
import urllib.request

import msgspec

from tests.coordinator.helper.helper_processes import TOPICS, Helpers, coordinator_of
from tests.coordinator.helper.secure_trial import sum_of
from wire.chunks import sha256, to_bitmap
from wire.messages import Base, Endorsement, Examine, Release, Verdicts


def test_two_processes_open_a_sum_and_one_that_was_killed_promises_the_same(
    helpers: Helpers,
) -> None:
    trial, pair = helpers.trial, ("notary", "union")
    reports = trial.five(integers=range(-100, 200))
    examine = Examine(
        reports=tuple(report.envelope for report in reports),
        credentials=tuple(report.gateway.credential for report in reports),
        bases=(Base(version=7, digest=bytes([7] * 32)),),
    )
    manifest = trial.manifest(reports)
    envelope = trial.say(manifest)

    async def story() -> list[bytes]:
        for name in pair:
            helpers.start(name)
        async with coordinator_of(helpers) as coordinator:
            first_words = []
            for name in pair:
                state = await coordinator.online(name)
                assert state.endorsed == 0
                await coordinator.ask(name, b"anything")  # deserves no answer, and harms nothing
                await coordinator.ask(name, trial.say(examine))
                verdicts, _ = await coordinator.answer(name, Verdicts)
                assert [each.accepted for each in verdicts.items] == [True] * 5
                await coordinator.ask(name, envelope)
                word, _ = await coordinator.answer(name, Endorsement)
                assert (word.accepted, word.number) == (True, 1)
                first_words.append(word)
            helpers.kill("notary")
            helpers.start("notary")
            will = await coordinator.gone("notary", 1)
            assert (await coordinator.online("notary", 2)).endorsed == 1
            # The will once more, as a broker may publish it late: the helper contradicts.
            await coordinator.link.publish(TOPICS.helper_state("notary"), will, retain=True)
            assert await coordinator.gone("notary", 1) == will
            assert (await coordinator.online("notary", 2)).endorsed == 1
            words = []
            for name, before in zip(pair, first_words, strict=True):
                await coordinator.ask(name, envelope)
                word, signed = await coordinator.answer(name, Endorsement)
                assert word == before
                words.append(signed)
            masks = []
            for name, seeds in (("notary", (1, 2)), ("union", (0,))):
                release = Release(
                    manifest=sha256(envelope),
                    endorsements=(words[0], words[1]),
                    seeds=seeds,  # type: ignore[arg-type]  # numbers 0 to 2
                    chunk_bytes=256,
                )
                masks.append(await coordinator.masks(name, trial.say(release)))
            third = msgspec.structs.replace(release, wanted=to_bitmap([3]))
            await coordinator.asked_until("union", trial.say(third), masks[1][768:1024])
            first = msgspec.structs.replace(release, wanted=to_bitmap([0]))
            await coordinator.asked_until("union", trial.say(first), masks[1][:256])
            return masks

    masks = asyncio.run(story())
    assert sum_of(manifest, reports, masks)[0].tolist() == list(range(-5000, 10000, 50))
    figures = urllib.request.urlopen(f"http://127.0.0.1:{helpers.metrics}/metrics").read().decode()
    assert "journeyman_helper_connected 1" in figures
    helpers.running["notary"].send_signal(signal.SIGTERM)
    assert helpers.running.pop("notary").wait(timeout=20) == 0
