"""What waits for an output: the newest, in order, never more than there is room for."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agent.serve.inbox import Inbox, OutputReport
from agent.serve.score import Score
from tests.agent.scores_peers import score

Steps = list[tuple[str, int]]


@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.sampled_from(("put", "take", "put back")), st.integers(0, 8)), max_size=30
    ),
)
def test_scores_leave_in_order_and_what_is_lost_is_counted(size: int, steps: Steps) -> None:
    async def main() -> None:
        report = OutputReport("test")
        inbox = Inbox(size, report)
        put, sent, held = 0, 0, list[Score]()
        last = -1
        for step, number in steps:
            if step == "put":
                for _ in range(number):
                    inbox.put(score(0.5, put))
                    put += 1
            elif step == "take" and not held:
                held = await inbox.take(0)
                assert len(held) <= size
            elif step == "put back":
                done, rest = held[:number], held[number:]
                times = [each.source_timestamp_us for each in done]
                assert times == sorted(times)
                assert not times or times[0] > last
                last = times[-1] if times else last
                sent += len(done)
                inbox.put_back(rest)
                held = []
        left = len(held) + len(await inbox.take(0))
        assert sent + left + report.dropped == put

    asyncio.run(main())


def test_health_wakes_an_output_only_when_it_changes() -> None:
    async def main() -> None:
        inbox = Inbox(3, OutputReport("test"))
        waiting = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        inbox.put_health("ok")
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.put_health("the disk is full")
        async with asyncio.timeout(5):
            assert await waiting == []
        assert inbox.health == "the disk is full"

    asyncio.run(main())
