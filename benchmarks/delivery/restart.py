"""Crash-resume: the coordinator is killed with -9 in the middle of ingest and started again.

It has a thousand known agents whose births the broker retains, an open buffer and updates on their
way.  Measured from the start of the new process: until its birth is at the broker again, and until
an agent that offers an update which it already delivered has its receipt.  Printed beside: what the
interpreter and the imports alone cost on this machine in the same run.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.delivery.ingest import TABLES
from benchmarks.delivery.publishers import Observer, Publisher, birth, make_publishers, pump
from benchmarks.raw_mqtt import RawClient
from benchmarks.testbed import (
    FEDERATION,
    ROOT,
    TOPICS,
    BenchmarkError,
    Testbed,
    mlp_bundle,
    real_disk,
    testbed,
)
from coordinator.store import Store
from shopfloor.ports import free_port
from shopfloor.processes import Child
from wire.codec import Counter, seal
from wire.keys import ENROLMENT_KEY
from wire.messages import Credential
from wire.signing import PrivateKey, read_private_key
from wire.trust import ENROLMENT

TARGET_S = 1.0
_PUBLISHERS = 8
_IMPORTS = "import cryptography, msgspec, numpy, paho.mqtt.client, sqlite3"


@dataclass(frozen=True)
class Restart:
    """Seconds since the new process was started; medians over the kills."""

    agents: int
    online_s: float
    receipt_s: float
    accepted_s: float
    """Until an update that was not committed before the kill has its receipt."""
    interpreter_s: float
    imports_s: float
    program_s: float
    """`python -m coordinator.main --help`: interpreter and everything that the program imports."""


def measure(agents: int, kills: int) -> Restart:
    """Kill and start the coordinator several times.

    Raises:
      BenchmarkError: it did not come back, or lost or doubled an update.
    """
    with testbed(real_disk(), mlp_bundle) as bed:
        port = free_port()
        broker = bed.start_broker(port)
        bed.write_coordinator(port, TABLES)
        observer = Observer.connect(port)
        coordinator = bed.start_coordinator()
        observer.wait_online()
        _publish_births(bed, port, agents)
        publishers = make_publishers(bed, port, observer.heads[-1], _PUBLISHERS, 120 * kills)
        _wait_known(bed, agents + _PUBLISHERS)
        taken = [_kill_and_time(coordinator, observer, publishers) for _ in range(kills)]
        pump(publishers, observer, lambda: all(each.is_done for each in publishers), 120.0)
        _check(bed, publishers)
        if not broker.pid:
            raise BenchmarkError("the broker ended")
    online_s, receipt_s, accepted_s = (
        statistics.median(column) for column in zip(*taken, strict=True)
    )
    return Restart(
        agents,
        online_s,
        receipt_s,
        accepted_s,
        _seconds_of("-c", "pass"),
        _seconds_of("-c", _IMPORTS),
        _seconds_of("-m", "coordinator.main", "--help"),
    )


def _publish_births(bed: Testbed, port: int, agents: int) -> None:
    """Retained births of agents that are connected to nobody any more."""
    enrolment = read_private_key(bed.keys / ENROLMENT_KEY)
    client = RawClient(port, "benchmark-births")
    unacknowledged = 0
    for number in range(agents):
        name = f"lathe-{number}"
        key = PrivateKey.generate()
        credential = Credential(agent=name, site=name, public_key=key.public.raw, serial=1)
        envelope = seal(
            credential, federation=FEDERATION, signer=ENROLMENT, counter=1, key=enrolment
        )
        born = birth(name, f"{number + 4096:016x}", envelope, Counter(1), key)
        client.publish(TOPICS.state(name), born, retain=True)
        unacknowledged += 1
        while unacknowledged >= 20:
            unacknowledged -= len(list(client.receive()))
    while unacknowledged > 0:
        unacknowledged -= len(list(client.receive()))
    client.close()


def _wait_known(bed: Testbed, agents: int) -> None:
    store = Store(bed.store)
    until_s = time.monotonic() + 60
    while (known := len(store.agents())) < agents:
        if time.monotonic() > until_s:
            raise BenchmarkError(f"the coordinator knows {known} of {agents} agents")
        time.sleep(0.05)
    store.close()


def _kill_and_time(
    coordinator: Child, observer: Observer, publishers: list[Publisher]
) -> tuple[float, float, float]:
    """Kill in the middle of ingest, start again; when it is online, has answered, has accepted."""
    begun = sum(len(each.committed) for each in publishers)

    def is_in_the_middle() -> bool:
        return sum(len(each.committed) for each in publishers) >= begun + 300

    pump(publishers, observer, is_in_the_middle, 60.0)
    if coordinator.process is None:
        raise BenchmarkError("the coordinator ended by itself")
    session = observer.session
    coordinator.process.send_signal(signal.SIGKILL)
    coordinator.process.wait()
    began_s = time.monotonic()
    coordinator.start()
    online_s = observer.wait_online(after=session) - began_s
    first = publishers[0]
    known = max(first.committed)
    first.sent_s[known] = time.monotonic()
    first.offer(known, content=False)
    waited = publishers[1]
    pending = next(iter(waited.sent_s), len(waited.committed) + 1)
    waited.offer(pending)
    asked = [first, waited]
    pump(asked, observer, lambda: known not in first.sent_s, 30.0, window=0)
    receipt_s = time.monotonic() - began_s
    pump(asked, observer, lambda: pending in waited.committed, 30.0, window=0)
    accepted_s = time.monotonic() - began_s
    for each in publishers:
        for sequence in list(each.sent_s):
            each.offer(sequence)
    return online_s, receipt_s, accepted_s


def _check(bed: Testbed, publishers: list[Publisher]) -> None:
    """Every update is recorded once, in the state that its agent was told."""
    store = Store(bed.store)
    counts = store.counts()
    store.close()
    made = sum(len(each.headers) for each in publishers)
    recorded = counts.get("folded", 0) + counts.get("committed", 0)
    if recorded != made or set(counts) - {"folded", "committed", "duplicates"}:
        raise BenchmarkError(f"{made} updates were made, recorded are {counts}")


def _seconds_of(*arguments: str) -> float:
    """Median wall time of an interpreter that does this and ends."""
    times = []
    for _ in range(5):
        began_s = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)
