"""Reading the flaky links' log: outages and bytes by site, in seconds of the run."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from shopfloor.record import Outage, Traffic


@dataclass
class LinkLog:
    """What the links wrote so far; times before `begin` do not count."""

    path: Path
    traffic: list[Traffic] = field(default_factory=list)
    _events: list[tuple[str, float, bool]] = field(default_factory=list)
    _down: dict[str, bool] = field(default_factory=dict)
    _begin_wall: float = 0.0
    _at: int = 0

    def begin(self, wall: float) -> None:
        """Second 0 of the run, as wall time."""
        self._begin_wall = wall

    def read_new(self) -> None:
        """Read what was appended since the last call; whole lines only."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, event: dict[str, object]) -> None:
        site, wall = str(event["link"]), float(str(event["wall"]))
        t_s = wall - self._begin_wall
        if event["event"] == "bytes":
            up, down = int(str(event["up"])), int(str(event["down"]))
            if t_s >= 0:
                self.traffic.append(Traffic(site, round(t_s, 2), up, down))
            return
        is_down = event["event"] == "down"
        self._down[site] = is_down
        self._events.append((site, wall, is_down))

    def is_down(self, site: str) -> bool:
        """Whether the link is down now."""
        return self._down.get(site, False)

    def outages(self, end_s: float) -> list[Outage]:
        """Outages from second 0 to the end of the run."""
        found: list[Outage] = []
        since: dict[str, float] = {}
        for site, wall, is_down in self._events:
            t_s = wall - self._begin_wall
            if is_down:
                since[site] = t_s
            elif site in since:
                found.append(Outage(site, since.pop(site), t_s))
        found += [Outage(site, down_s, end_s) for site, down_s in since.items()]
        clipped = [
            Outage(
                outage.site, round(max(0.0, outage.down_s), 2), round(min(outage.up_s, end_s), 2)
            )
            for outage in found
        ]
        return sorted(
            (outage for outage in clipped if outage.up_s > outage.down_s),
            key=lambda outage: outage.down_s,
        )

    def down_share(self, site: str, end_s: float) -> float:
        """Share of the run, 0 to 1, in which the site's link was down."""
        down_s = sum(o.up_s - o.down_s for o in self.outages(end_s) if o.site == site)
        return down_s / end_s if end_s > 0 else 0.0
