"""What a ring's last segment knows: the marks and the account with which the agent goes on.

Pure.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agent.samples.account import Account
from agent.samples.columns import Int64s
from agent.samples.damage import batches_of
from agent.samples.files import Segment
from agent.samples.marks import Marks
from agent.samples.segment import Scan
from agent.signals.block import Block


def restored(channels: Sequence[str], last: Segment, found: Scan | None, account: Account) -> Marks:
    """The marks after the last segment, whose records are added to the account."""
    header = last.header
    marks = Marks(channels, header)
    if header is None:
        return marks
    account.restore(header.totals)
    account.write(header.created_us, last.start)
    if found is None:  # not counted, and the gaps of its channels begin before it
        return marks
    at = marks.places_of(header.names)
    for record, batch in zip(found.records, batches_of(header, found), strict=True):
        account.write(record.written_us, record.end - record.at)
        account.store(record.extent.samples, {})
        if batch is not None:
            account.lost.update(Counter(batch.lost))
            marks.note(_moved(batch.block, at))
    return marks


def _moved(block: Block, at: Int64s) -> Block:
    return replace(
        block,
        channel=at[block.channel].astype(np.uint32),
        arrays=tuple(replace(each, channel=int(at[each.channel])) for each in block.arrays),
        gaps=(),
    )
