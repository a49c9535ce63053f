"""A model of 1 MB to a thousand agents: pulled chunk by chunk, against plain pushing.

Pulled is the product's way: retained chunks under topics of their own, the head last, and each
agent asks for what it lacks.  Pushed is the least that MQTT can do: the same chunks to one topic
that everybody has subscribed to, so nobody can come late or miss one.  The third is the product's
way by a delta between two versions.  Each gets a fresh broker with the shipped limits, in turns; a
time is from the publication (pulled: of the head) until the last chunk is verified.

The last line is JSON; `value` is the pulled median over the pushed one.
"""

import argparse
import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.fanout.subscribers import PUSHED, Pulling, Pushed, Subscriber, serve
from benchmarks.raw_mqtt import RawClient
from benchmarks.testbed import (
    FEDERATION,
    TOPICS,
    BenchmarkError,
    Testbed,
    bare_bundle,
    cpu_s,
    peak_rss_mb,
    real_disk,
    shipped_limits,
    testbed,
    use_two_cores,
)
from shopfloor.ports import free_port
from wire.chunks import describe, sha256, split
from wire.codec import seal
from wire.deltas import decode, encode
from wire.keys import COORDINATOR_KEY
from wire.messages import Content, Delta, Head, Policy, VersionRef
from wire.signing import read_private_key
from wire.tensors import write_params
from wire.trust import COORDINATOR

TARGET_RATIO = 2.0
PARAMETERS = 249_900
"""1 MB of float32 in 9 chunks."""
_STEP = 0.01
"""Size of a version's step against that of the weights, as in `wire/deltas.py`."""
_WITHIN_S = 120.0
_OTHERS = 10
"""Connections of the broker that are no agents."""


@dataclass(frozen=True)
class Model:
    """Two versions, the way from the first to the second, and the head that names them."""

    head: bytes
    full: Content
    full_data: bytes
    delta: Content
    delta_data: bytes


@dataclass(frozen=True)
class Round:
    """One publication to all agents: seconds by agent, and what the broker used."""

    whole_s: list[float]
    rss_mb: float
    connected_rss_mb: float
    """Before the publication, with all agents connected and the chunks retained."""
    cpu_s: float


def main() -> int:
    """Run; 0 when the target is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--reduced", action="store_true", help="200 agents, one round: checks, no verdict"
    )
    options = parser.parse_args()
    if options.reduced:
        options.agents, options.rounds = 200, 1
    use_two_cores()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        result = _measure(options.agents, options.rounds)
    except BenchmarkError as error:
        print(f"fanout: {error}", file=sys.stderr)
        return 1
    if options.reduced:
        print("\nreduced: every chunk is verified, figures are only printed")
    print(json.dumps(result))
    return 0 if result["holds"] or options.reduced else 1


def _measure(agents: int, rounds: int) -> dict[str, object]:
    """Measure and print; return the line of JSON."""
    with testbed(real_disk(), bare_bundle(1_000)) as bed:
        model = _make(bed)
        ways: dict[str, Callable[[], Round]] = {
            "pushed": lambda: _push(bed, model, agents),
            "pulled": lambda: _pull(bed, model, model.full, agents),
            "pulled by delta": lambda: _pull(bed, model, model.delta, agents),
        }
        taken: dict[str, list[Round]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                taken[way].append(run())
    sizes = {"pulled by delta": len(model.delta_data)}
    print(
        f"{agents:,} agents, {len(model.full_data):,} bytes in {len(model.full.chunks)} chunks, "
        f"{rounds} rounds; the broker with the limits of configs/broker/mosquitto.conf\n"
        f"(but max_connections, there {shipped_limits()['max_connections']}, here "
        f"{agents + _OTHERS})\n\n"
        f"{'':16} {'bytes':>10} {'median':>8} {'95 %':>8} {'longest':>8}   broker's memory, CPU"
    )
    for way, results in taken.items():
        _print_way(way, sizes.get(way, len(model.full_data)), results)
    return _result(agents, taken, len(model.delta_data) / len(model.full_data))


def _print_way(way: str, size: int, rounds: list[Round]) -> None:
    quantiles = [_median(rounds, share) for share in (0.5, 0.95, 1.0)]
    cells = " ".join(f"{seconds:7.2f}s" for seconds in quantiles)
    rss_mb = max(each.rss_mb for each in rounds)
    connected_mb = max(each.connected_rss_mb for each in rounds)
    used_s = statistics.median(each.cpu_s for each in rounds)
    print(
        f"{way:16} {size:10,} {cells}   {rss_mb:.0f} MB at its peak ({connected_mb:.0f} before), "
        f"{used_s:.2f} s"
    )


def _median(rounds: list[Round], share: float) -> float:
    """Median over the rounds of a quantile over the agents, in seconds."""
    return statistics.median(float(np.quantile(each.whole_s, share)) for each in rounds)


def _result(agents: int, taken: dict[str, list[Round]], delta_share: float) -> dict[str, object]:
    medians = {way: _median(rounds, 0.5) for way, rounds in taken.items()}
    ratios = [
        float(np.median(pulled.whole_s) / np.median(pushed.whole_s))
        for pulled, pushed in zip(taken["pulled"], taken["pushed"], strict=True)
    ]
    ratio = statistics.median(ratios)
    return {
        "name": "fanout",
        "value": round(ratio, 3),
        "unit": "x the median time of plain pushing",
        "target": TARGET_RATIO,
        "holds": ratio <= TARGET_RATIO,
        "agents": agents,
        "ratios": [round(each, 2) for each in ratios],
        "median_s": {way: round(seconds, 3) for way, seconds in medians.items()},
        "p95_s": {way: round(_median(rounds, 0.95), 3) for way, rounds in taken.items()},
        "max_s": {way: round(_median(rounds, 1.0), 3) for way, rounds in taken.items()},
        "broker_peak_mb": {
            way: round(max(each.rss_mb for each in rounds), 1) for way, rounds in taken.items()
        },
        "delta_share": round(delta_share, 3),
    }


def _make(bed: Testbed) -> Model:
    """Make two versions as far apart as trainings make them, and a signed head with the delta."""
    random = np.random.default_rng(0)
    first = random.normal(0.0, 0.05, PARAMETERS).astype(np.float32)
    second = first + random.normal(0.0, 0.05 * _STEP, PARAMETERS).astype(np.float32)
    before, after = (write_params({"w": weights}) for weights in (first, second))
    way = encode(before, after)
    if way is None or decode(before, way, len(before)) != after:
        raise BenchmarkError("no delta, or not the way from one version to the other")
    full, delta = describe(after), describe(way)
    version = VersionRef(version=2, content=full)
    head = Head(
        sequence=2,
        lineage=0,
        bundle=describe(bed.bundle.read_bytes()),
        train=version,
        serve=version,
        deltas=(Delta(base=sha256(before), target=full.digest, content=delta),),
        policy=Policy(),
    )
    envelope = seal(
        head,
        federation=FEDERATION,
        signer=COORDINATOR,
        counter=head.sequence,
        key=read_private_key(bed.keys / COORDINATOR_KEY),
    )
    return Model(envelope, full, after, delta, way)


def _pull(bed: Testbed, model: Model, wanted: Content, agents: int) -> Round:
    """Retain all chunks, then publish the head."""
    chunks = {
        topic: payload
        for content, data in ((model.full, model.full_data), (model.delta, model.delta_data))
        for topic, payload in _topics(content, data)
    }
    needed = {
        TOPICS.model(wanted.digest.hex(), index): digest
        for index, digest in enumerate(wanted.chunks)
    }

    def publish(client: RawClient) -> None:
        client.publish(TOPICS.head, model.head, retain=True)

    return _run(
        bed,
        agents,
        [*chunks.items()],
        lambda port: [Pulling(port, number, needed) for number in range(agents)],
        publish,
    )


def _topics(content: Content, data: bytes) -> list[tuple[str, bytes]]:
    return [
        (TOPICS.model(content.digest.hex(), index), chunk)
        for index, chunk in enumerate(split(data, content.chunk_bytes))
    ]


def _push(bed: Testbed, model: Model, agents: int) -> Round:
    """Publish the chunks to everybody."""
    digests = frozenset(model.full.chunks)

    def publish(client: RawClient) -> None:
        for chunk in split(model.full_data, model.full.chunk_bytes):
            client.publish(PUSHED, chunk)

    return _run(
        bed,
        agents,
        [],
        lambda port: [Pushed(port, number, digests) for number in range(agents)],
        publish,
    )


def _run(
    bed: Testbed,
    agents: int,
    retained: list[tuple[str, bytes]],
    connect: Callable[[int], Sequence[Subscriber]],
    publish: Callable[[RawClient], None],
) -> Round:
    """Start a broker, retain, connect everybody, publish, wait until everybody has it."""
    port = free_port()
    broker = bed.start_broker(port, connections=agents + _OTHERS)
    publisher = RawClient(port, "benchmark-publisher")
    for topic, payload in retained:
        publisher.publish(topic, payload, retain=True)
        next(publisher.receive())
    subscribers = connect(port)
    for each in subscribers:
        next(each.client.receive())  # the SUBACK
    connected_mb, used_s = peak_rss_mb(broker.pid), cpu_s(broker.pid)
    sending = threading.Thread(target=publish, args=(publisher,))
    began_s = time.monotonic()
    sending.start()
    serve(subscribers, _WITHIN_S)
    sending.join()
    result = Round(
        [each.whole_s - began_s for each in subscribers],
        peak_rss_mb(broker.pid),
        connected_mb,
        cpu_s(broker.pid) - used_s,
    )
    publisher.close()
    for subscriber in subscribers:
        subscriber.client.close()
    bed.processes.stop()
    return result


if __name__ == "__main__":
    sys.exit(main())
