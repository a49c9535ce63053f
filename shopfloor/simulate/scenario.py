"""What is simulated: how many agents, how fast, how different, and how often without a link."""

from dataclasses import dataclass
from typing import Literal, get_args

OutageName = Literal["markov", "weekly", "shift"]
OUTAGES: tuple[OutageName, ...] = get_args(OutageName)
MOST_AGENTS = 100_000


@dataclass(frozen=True)
class Scenario:
    """The plant floor around a coordinator.

    Attributes:
      agents: how many, one model each.
      agents_per_site: agents that share a site, and under `shift` its working hours.
      seed: decides everything that is by chance.
      rows: median of an agent's training rows; lognormal, sigma 0.5, between 20 and 300.
      skew: alpha of the Dirichlet distribution of an agent's classes; the smaller, the more
        different they are.
      compute_s: median of the seconds that a training takes; lognormal over the agents.
      compute_spread: sigma of its logarithm; each training varies by 0.25 more.
      correlation: of an agent's slowness (its logarithm) with the mean number of its classes: the
        slow ones hold data that the fast ones lack.
      outages: `markov`: two states, each of exponential length; `weekly`: connected once a week;
        `shift`: a site is connected during its working hours.
      offline: share of the time without a link.
      on_s: mean length of a connection under `markov`.
      uplink_s, downlink_s: seconds of link that an update and a model need.
      dropout: chance that a training ends with the death of its process.
      restart_s: how long that takes to come back.
    """

    agents: int = 500
    agents_per_site: int = 1
    seed: int = 0
    rows: float = 60.0
    skew: float = 0.1
    compute_s: float = 60.0
    compute_spread: float = 1.0
    correlation: float = 0.0
    outages: OutageName = "markov"
    offline: float = 0.5
    on_s: float = 600.0
    uplink_s: float = 5.0
    downlink_s: float = 5.0
    dropout: float = 0.0
    restart_s: float = 30.0


@dataclass(frozen=True)
class Limits:
    """When a run ends, and how often it is judged.

    Attributes:
      hours: simulated time at most.
      target: accuracy, mean of three evaluations in a row, whose first time is told.
      stop_at_target: end there.
      uplinks: updates sent at most.
      evaluate_s: an evaluation takes place with the first version this long after the last one.
    """

    hours: float = 24.0
    target: float = 0.85
    stop_at_target: bool = False
    uplinks: int = 10_000_000
    evaluate_s: float = 30.0
