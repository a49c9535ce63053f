"""The `[store]` table: how much of what was measured stays on this gateway's disk."""

from typing import Annotated, Literal

import msgspec

from wire.settings import Settings

MIB = 1 << 20


class StoreTable(Settings, frozen=True, kw_only=True):
    """`[store]`: the ring of samples; it never leaves the site.

    Attributes:
      enabled: false keeps nothing; sources, windows and scores work all the same.
      max_bytes: of all its files; the oldest samples go first.
      max_days: samples written longer ago go too.
      flush_s: samples wait so long in memory and are written together.  A crash of the agent or a
        power cut takes at most so much, and marks it; each write costs an SD card about 25 KiB
        beside the samples (FORMAT.md), so longer is kinder to the card.
      sync: `batch` has every batch on the disk when it was written; `segment` leaves that to the
        system until a file is full, which a power cut may take and a killed agent may not.
      buffer_bytes: of samples in memory while the disk does not take them; then the oldest are
        lost, counted and marked.
    """

    enabled: bool = True
    max_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=1 << 40)] = 1 << 30
    max_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 30
    flush_s: Annotated[float, msgspec.Meta(ge=0.1, le=600)] = 10.0
    sync: Literal["batch", "segment"] = "batch"
    buffer_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=1 << 30)] = 32 * MIB
