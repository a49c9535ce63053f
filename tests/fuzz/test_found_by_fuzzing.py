"""What fuzzing found, each by name, reduced to the few lines that show it."""

import json
import struct
from collections.abc import Callable

import msgspec
import pytest

from tests.coordinator.small_federation import FEDERATION
from tests.fuzz.agent_case import AgentCase, head_body, weights
from tests.fuzz.coordinator_case import judged
from tests.fuzz.mutating import Record
from tests.fuzz.people import SIGNERS, TOPICS, TRUST, bundle, signed
from tests.fuzz.script import listen, unfit, watching
from tests.fuzz.seeds import bodies
from wire.bundle import read_bundle
from wire.chunks import Assembly, describe, sha256, split
from wire.codec import unseal
from wire.errors import BundleError, MalformedError, WireError
from wire.evaluation import add
from wire.figures import figure
from wire.messages import Command, Content, Report
from wire.mqtt import Received
from wire.tensors import read_params
from wire.topics import Topics, check_name


def test_a_chunk_longer_than_announced_is_not_held() -> None:
    """A header may name the hash of more bytes than it pledges; they must not be kept."""
    long = bytes(256)
    told = Content(
        digest=sha256(long * 2), size=257, chunk_bytes=256, chunks=(sha256(long), sha256(long))
    )
    assembly = Assembly(told)
    assert assembly.add(0, long)
    assert assembly.add(1, long)
    assert assembly.missing == []
    held: list[bytes] = vars(assembly)["_chunks"]
    assert sum(map(len, held)) <= told.size
    with pytest.raises(MalformedError, match="do not add up"):
        assembly.join()


def test_a_single_chunk_of_another_length_is_not_the_content() -> None:
    told = msgspec.structs.replace(describe(bytes(300), 512), size=299)
    assembly = Assembly(told)
    assembly.add(0, bytes(300))
    with pytest.raises(MalformedError, match="do not add up"):
        assembly.join()


LONG = "x" * 60_000


@pytest.mark.parametrize(
    "refused",
    [
        lambda: check_name(LONG, "agent"),
        lambda: Topics(FEDERATION).agent_of(f"{Topics(FEDERATION).base}/state/{LONG}", "state"),
        lambda: Topics(FEDERATION).agent_of(LONG, "state"),
        lambda: Topics(FEDERATION).parse_update(f"{Topics(FEDERATION).base}/up/1/{LONG}/a/1/h"),
        lambda: read_params(one_weight(LONG), [("w", (1,))]),
        lambda: read_bundle(with_file_called(LONG), TRUST),
    ],
)
def test_what_is_said_of_a_long_name_is_short(refused: Callable[[], object]) -> None:
    """A topic may have 65,535 bytes; each refused one is a line of the log."""
    with pytest.raises(WireError) as caught:
        refused()
    assert len(str(caught.value)) < 1000


def one_weight(name: str) -> bytes:
    """A weights file of one number under this name."""
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + struct.pack("<f", 1.5)


def with_file_called(name: str) -> bytes:
    """The bundle with one more file, rightly hashed and signed."""
    body = msgspec.msgpack.decode(bodies()["bundle"][0])
    body["files"][name] = b""
    body["manifest"]["files"] = {at: sha256(data) for at, data in body["files"].items()}
    return signed("bundle", msgspec.msgpack.encode(body))


def test_a_bundle_with_one_more_file_is_refused() -> None:
    with pytest.raises(BundleError, match="not the three expected"):
        read_bundle(with_file_called("setup.py"), TRUST)


def command(body: bytes) -> str:
    """What is said of a rightly signed command with this body."""
    signer, key = SIGNERS["command"]
    with pytest.raises(MalformedError) as caught:
        unseal(
            signed("command", body), Command, federation=FEDERATION, signer=signer, key=key.public
        )
    return str(caught.value)


def test_what_is_said_of_a_long_value_is_short() -> None:
    """A birth is parsed before its signature is checked: anybody can fill the log with these."""
    assert len(command(msgspec.msgpack.encode({"name": LONG[:3000]}))) < 1000


def test_what_is_said_of_an_unknown_field_is_printable() -> None:
    """An author's tools show this on a terminal, of a file of anybody."""
    body = msgspec.msgpack.decode(bodies()["bundle"][0])
    body["manifest"]["\x1b[2J\n"] = 1
    with pytest.raises(MalformedError) as caught:
        read_bundle(signed("bundle", msgspec.msgpack.encode(body)), TRUST)
    assert unfit(str(caught.value)) == ""


def fed(case: AgentCase, contents: list[Content], parts: list[bytes], sequence: int) -> None:
    """Give an agent a head and every chunk of what it names, cut as the head says."""
    said = [Received(TOPICS.head, signed("head", head_body(sequence, contents)), retained=True)]
    names = (TOPICS.bundle, TOPICS.model, TOPICS.model)
    for name, content, data in zip(names, contents, parts, strict=True):
        chunks = split(data, content.chunk_bytes)
        said += [
            Received(name(content.digest.hex(), at), chunk, retained=True)
            for at, chunk in enumerate(chunks)
        ]
    with watching():
        listen(case.connection, iter(said))


def test_a_content_that_was_cut_anew_while_it_came_is_fetched_by_its_new_chunks() -> None:
    """The same bytes in smaller chunks, as for a broker that takes smaller packets."""
    case, parts = AgentCase(), [bundle(), weights(1), weights(0)]
    said = case.messages(Record(6, 1, b""))
    with watching():
        listen(case.connection, iter(said[:3]))
    assert case.adoption.current is None
    fed(case, [describe(data, 300) for data in parts], parts, 9)
    assert case.adoption.current is not None


def test_a_head_that_lies_about_a_content_does_not_spoil_it_for_the_next_head() -> None:
    case, parts = AgentCase(), [bundle(), weights(1), weights(0)]
    honest = [describe(data, 512) for data in parts]
    told = msgspec.structs.replace(honest[1], chunks=honest[2].chunks)
    fed(case, [honest[0], told, honest[2]], [parts[0], parts[2], parts[2]], 8)
    assert case.adoption.current is None
    fed(case, honest, parts, 9)
    assert case.adoption.current is not None


def test_the_largest_counts_of_many_sites_add_without_wrapping_around() -> None:
    tally = add([judged(2)] * 4000)
    assert tally.rows == 4000 * 2 * 256 * ((1 << 40) - 1)
    report = msgspec.to_builtins(Report(head=1, evaluations=(judged(2),)), builtin_types=(bytes,))
    report["evaluations"][0]["positives"] = [1 << 40] * 256
    with pytest.raises(msgspec.ValidationError, match="<= 1099511627775"):
        msgspec.convert(report, Report)
    assert tally.failures == tally.rows // 2
    assert figure("pr_auc", tally) == pytest.approx(0.5, abs=0.01)
