"""Real helper processes, and the other end of what they say."""

import asyncio
import contextlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.coordinator.helper.secure_trial import FEDERATION, Trial
from wire.chunks import Assembly, sha256
from wire.codec import KINDS, unseal
from wire.messages import Endorsement, HelperState, Masks, Verdicts
from wire.mqtt import BrokerSettings, Link, connect
from wire.signing import PublicKey
from wire.topics import Topics

TOPICS = Topics(FEDERATION)
Said = TypeVar("Said", Verdicts, Endorsement, Masks, HelperState)


@dataclass
class Helpers:
    """Processes that belong to a trial, and where their broker is."""

    trial: Trial
    port: int
    metrics: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def config(self, name: str) -> Path:
        return self.trial.directory / f"{name}.toml"

    def start(self, name: str, folder: Path | None = None) -> None:
        self.config(name).write_text(
            f"""\
[helper]
name = "{name}"
state_dir = "{folder or self.trial.directory / name}"

[trust]
root = "{self.trial.root.public.raw.hex()}"
charter = "charter.jm"
signing_key = "{name}/{name}.signing.key"
sealing_key = "{name}/{name}.sealing.key"

[broker]
port = {self.port}

[metrics]
listen = "127.0.0.1:{self.metrics if name == "notary" else 0}"
"""
        )
        with (self.trial.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "coordinator.helper.main", "run", str(self.config(name))],
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running.pop(name).wait()

    def log(self, name: str) -> str:
        return (self.trial.directory / f"{name}.log").read_text()


@dataclass
class Coordinator:
    """The other end: asks, and hears answers."""

    helpers: Helpers
    link: Link
    heard: "defaultdict[str, asyncio.Queue[bytes]]" = field(
        default_factory=lambda: defaultdict(asyncio.Queue)
    )
    """Payloads by the beginning of their topics."""

    async def listen(self) -> None:
        async for message in self.link.messages():
            at = message.topic.partition("/masks/")
            self.heard[at[0] + at[1]].put_nowait(message.payload)

    async def ask(self, name: str, payload: bytes) -> None:
        await self.link.publish(TOPICS.helper_ask(name), payload)

    async def answer(self, name: str, what: type[Said]) -> tuple[Said, bytes]:
        """The next message of this kind that a helper says, and its envelope."""
        is_state = what is HelperState
        topic = TOPICS.helper_state(name) if is_state else TOPICS.helper_answer(name)
        key = PublicKey(self.helpers.trial.keys[name].public.signing)
        while True:
            payload = await self.heard[topic].get()
            if KINDS[what].encode() in payload[:20]:
                said, _ = unseal(payload, what, federation=FEDERATION, signer=name, key=key)
                return said, payload

    async def online(self, name: str, session: int = 1) -> HelperState:
        """The helper's birth in its connection of this number."""
        while True:
            state, _ = await self.answer(name, HelperState)
            if (state.status, state.session) == ("online", session):
                return state

    async def gone(self, name: str, session: int) -> bytes:
        """The helper's will of its connection of this number, as it was signed."""
        while True:
            state, payload = await self.answer(name, HelperState)
            if (state.status, state.session) == ("offline", session):
                return payload

    async def chunk(self, name: str) -> bytes:
        """The next chunk of masks that a helper gives."""
        topic = TOPICS.helper_masks(name, "", 0).removesuffix("/0")
        return await self.heard[topic].get()

    async def asked_until(self, name: str, payload: bytes, wanted: bytes) -> None:
        """Ask for a chunk until it comes: a helper drops a question that it is answering still."""
        chunk = b""
        while chunk != wanted:
            await self.ask(name, payload)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    chunk = await self.chunk(name)

    async def masks(self, name: str, payload: bytes) -> bytes:
        await self.ask(name, payload)
        announced, _ = await self.answer(name, Masks)
        assert announced.content is not None, announced.reason
        assembly = Assembly(announced.content)
        while assembly.missing:
            chunk = await self.chunk(name)
            assembly.add(announced.content.chunks.index(sha256(chunk)), chunk)
        return assembly.join()


@asynccontextmanager
async def coordinator_of(helpers: Helpers) -> AsyncIterator[Coordinator]:
    async with (
        asyncio.timeout(100),
        connect(BrokerSettings(port=helpers.port), "coordinator") as link,
    ):
        made = Coordinator(helpers, link)
        listening = asyncio.create_task(made.listen())
        await link.subscribe([TOPICS.all_helpers])
        yield made
        listening.cancel()
