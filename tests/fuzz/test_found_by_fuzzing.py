"""What fuzzing found, each by name, reduced to the few lines that show it."""

import json
import logging
import math
import struct
from collections.abc import Callable

import msgspec
import pytest

from coordinator.contribution import from_bytes
from tests.coordinator.small_federation import FEDERATION
from tests.fuzz.agent_case import OPERATIONS, AgentCase, head_body, weights
from tests.fuzz.coordinator_case import judged
from tests.fuzz.mutating import Record
from tests.fuzz.people import SIGNERS, TOPICS, TRUST, bundle, signed
from tests.fuzz.script import listen, unfit, watching
from tests.fuzz.seeds import bodies
from tests.fuzz.stored_case import READERS, SETTINGS, accounting
from tests.fuzz.stored_case import run as stored_case
from tests.fuzz.stored_case import seeds as stored_seeds
from tests.fuzz.web_case import answer_to, request
from wire.bundle import read_bundle
from wire.chunks import Assembly, describe, sha256, split
from wire.codec import unseal
from wire.errors import BundleError, MalformedError, WireError
from wire.evaluation import add
from wire.figures import figure
from wire.messages import Command, Content, Report
from wire.mqtt import Received
from wire.novelty import distance
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


def dropped_with_a_line(name: str, data: bytes) -> None:
    """Read a file of the agent that has these bytes; say so in the log, and go on."""
    at = list(READERS).index(name)
    with_words: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with_words.append(record.getMessage())

    handler = Lines()
    logging.getLogger("agent").addHandler(handler)
    try:
        stored_case(bytes([at]) + data)
    finally:
        logging.getLogger("agent").removeHandler(handler)
    assert any(word in with_words[0] for word in ("made again", "dropped", "discarded"))


@pytest.mark.parametrize(
    "data",
    [b'{"bundle":"\xff"}', b'{"\xff":1}', b'{"later":' + b"[" * 60_000, b'{"shares":[2.0]}', b""],
)
def test_an_agent_survives_a_histogram_that_rotted_on_its_card(data: bytes) -> None:
    """`UnicodeDecodeError` is no `msgspec.DecodeError`: one wrong byte ended every start."""
    dropped_with_a_line("novelty", data)


def test_an_agent_survives_the_rows_of_a_training_that_rotted_on_its_card() -> None:
    (rows,) = [case[1:] for case in stored_seeds() if b"incarnation" in case]
    at = rows.index(b"0123456789abcdef")
    dropped_with_a_line("unfinished", rows[:at] + b"\xff" + rows[at + 1 :])


def test_an_agent_survives_a_chosen_model_whose_words_are_no_text() -> None:
    own = [case[1:] for case in stored_seeds() if b"normalisation" in case]
    dropped_with_a_line("own", own[0].replace(b"better", b"\xffetter"))


def test_an_action_whose_words_are_no_text_is_a_bad_request() -> None:
    """It was a 500, and a traceback in the log."""
    answer = answer_to(request("/act/rollback", b'{"version": "\xff"}', method="POST"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    answer = answer_to(request("/act/rollback", b'{"version": 25}', method="POST"))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("value", [1e308, math.inf, -math.inf, math.nan, -1.0])
def test_novelty_of_numbers_that_are_no_shares_is_a_distance_all_the_same(value: float) -> None:
    """Sums of them overflowed, and nothing is farther away than what is no number."""
    odd, even = (value,) * 64, (0.125,) * 64
    assert 0.0 <= distance(odd, even) <= 1.0
    assert distance((value, *even[1:]), even) <= 1.0


def test_sums_of_versions_that_nobody_judged_are_accounted_for_anew() -> None:
    """They were read, and the next version's observation was divided by their zero rows."""
    tree = msgspec.msgpack.decode(accounting())
    mean, _, spread, behind = struct.unpack("<4d", tree["level"])
    tree["level"] = struct.pack("<4d", mean, 0.0, spread, behind)
    with pytest.raises(MalformedError, match="nobody judged"):
        from_bytes(msgspec.msgpack.encode(tree), SETTINGS)


def test_statistics_of_another_shape_do_not_replace_the_model_in_use() -> None:
    case, at = AgentCase(), OPERATIONS.index("standard")
    with watching():
        listen(case.connection, iter(case.messages(Record(at, 8, b""))))
        good = case.adoption.current
        for argument in (11, 12):  # a negative deviation, five columns too many
            listen(case.connection, iter(case.messages(Record(at, argument, b""))))
    assert good is not None
    assert good.standard is not None
    assert case.adoption.current is good
    assert case.status.refused
