"""Reads: which requests fetch all channels of a line.

A request costs far more than a register: on a serial line 13 bytes of frames, two silences and
the device's own delay, about as much as 20 registers at 9600 baud.  So channels of one unit, one
table and one poll interval are fetched together, gaps between them included, within the caps of
the protocol: 125 registers or 2000 bits (Modbus Application Protocol V1.1b3, sections 6.1 to 6.4).

Pure.  Invariants: every channel lies whole within exactly one read, so a value of several
registers is never torn between two moments; no read is over a cap.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.sensors.modbus.registers import BIT_TABLES, REGISTER_BYTES, Table

MAX_REGISTERS = 125
MAX_BITS = 2000
_BITS_PER_REGISTER = 16


@dataclass(frozen=True, slots=True)
class Span:
    """Where the value of one channel lies: `count` registers, or bits, from `address`."""

    channel: int
    unit_id: int
    table: Table
    address: int
    count: int
    interval_ms: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.count


@dataclass(frozen=True, slots=True)
class Limits:
    """How far reads of one unit are merged.

    Attributes:
      max_gap: registers that nobody wants, read along between two channels; 16 times as many bits.
      max_registers: of one read; 16 times as many bits.
    """

    max_gap: int = 16
    max_registers: int = MAX_REGISTERS

    def of(self, table: Table) -> tuple[int, int]:
        """The widest gap and the longest read, in addresses of this table."""
        if table in BIT_TABLES:
            most = min(MAX_BITS, _BITS_PER_REGISTER * self.max_registers)
            return _BITS_PER_REGISTER * self.max_gap, most
        return self.max_gap, min(MAX_REGISTERS, self.max_registers)


@dataclass(frozen=True, eq=False, slots=True)
class Read:
    """One request: `spans` are what it is for, in order of address.

    A read is equal to itself alone, so that one of a hundred spans is found in a dict as fast as
    one of two.
    """

    spans: tuple[Span, ...]

    @property
    def unit_id(self) -> int:
        """Whom it asks."""
        return self.spans[0].unit_id

    @property
    def table(self) -> Table:
        """Which of the four tables."""
        return self.spans[0].table

    @property
    def interval_s(self) -> float:
        """How often."""
        return self.spans[0].interval_ms / 1000

    @property
    def address(self) -> int:
        """The first address, from 0."""
        return self.spans[0].address

    @property
    def count(self) -> int:
        """How many registers or bits."""
        return max(span.end for span in self.spans) - self.address

    @property
    def answer_bytes(self) -> int:
        """Data bytes of the answer, without frame, function code and byte count."""
        return -(-self.count // 8) if self.table in BIT_TABLES else REGISTER_BYTES * self.count

    def __str__(self) -> str:
        last = self.address + self.count - 1
        where = f"{self.address}" if self.count == 1 else f"{self.address} to {last}"
        return f"{self.table} {where}"


def merge(spans: Iterable[Span], limits: Mapping[int, Limits]) -> tuple[Read, ...]:
    """The reads that fetch these spans.

    Args:
      spans: of all channels of a line, in any order; they may overlap, as bits of a register do.
      limits: by unit id.
    """
    groups: dict[tuple[int, Table, int], list[Span]] = {}
    for span in spans:
        groups.setdefault((span.unit_id, span.table, span.interval_ms), []).append(span)
    reads: list[Read] = []
    for (unit_id, table, _), members in groups.items():
        widest, longest = limits[unit_id].of(table)
        members.sort(key=lambda span: (span.address, span.end))
        run = members[:1]
        end = run[0].end
        for span in members[1:]:
            if span.address - end > widest or max(end, span.end) - run[0].address > longest:
                reads.append(Read(tuple(run)))
                run, end = [], 0
            run.append(span)
            end = max(end, span.end)
        reads.append(Read(tuple(run)))
    return tuple(reads)


def halves(read: Read) -> tuple[Read, Read] | None:
    """Cut a read that a device refused, where it is likeliest wrong: at its widest gap.

    Without gaps, in the middle.  None when there is no place to cut: one channel, or channels that
    overlap.  Repeated on each part that is refused again, this ends at exact reads.
    """
    middle = len(read.spans) / 2
    best: tuple[int, float, int] | None = None
    end = read.spans[0].end
    for at, span in enumerate(read.spans[1:], start=1):
        gap = span.address - end
        if gap >= 0:
            place = (gap, -abs(at - middle), at)
            best = place if best is None else max(best, place)
        end = max(end, span.end)
    if best is None:
        return None
    return Read(read.spans[: best[2]]), Read(read.spans[best[2] :])
