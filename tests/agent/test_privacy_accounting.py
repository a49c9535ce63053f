"""What releases cost in epsilon, against other authors' numbers and against integrals."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.privacy.accounting import (
    epsilon_of,
    gaussian_cost,
    gaussian_delta,
    gaussian_epsilon,
    sampled_cost,
    sampled_divergence,
)
from wire.messages import Spent
from wire.spent import RENYI_ORDERS, added

PEER = Path(__file__).parents[1] / "dp"
UNSAMPLED = [(1.0, 1, 1e-5), (4.0, 30, 1e-6), (20.0, 500, 1e-8), (8.0, 1, 1e-3)]
SAMPLED = [
    (1.0, 0.01, 1000, 1e-5),
    (0.7, 0.1, 200, 1e-6),
    (4.0, 0.25, 3000, 1e-7),
    (1.1, 0.5, 40, 1e-10),
    (30.0, 0.9, 1000, 1e-6),
]
MIXED = [[(1.0, 0.02, 500), (3.0, 1.0, 4)], [(2.0, 0.1, 100), (1.5, 0.3, 10), (5.0, 1.0, 30)]]


def spent_on(releases: list[tuple[float, float, int]]) -> Spent:
    total = Spent()
    for noise, rate, count in releases:
        total = added(total, sampled_cost(noise, rate, count))
    return total


def by_peer(cases: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Epsilon by dp-accounting, of each case: by PLD and by RDP."""
    python = PEER / ".venv-dp" / "bin" / "python"
    if not python.exists():
        pytest.skip("dp-accounting is not installed: run tests/install.sh .venv/bin/python")
    answer = subprocess.run(
        [python, PEER / "epsilons.py"],
        input=json.dumps(cases).encode(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    return [(pld, rdp) for pld, rdp in json.loads(answer.stdout)]


def test_epsilon_is_that_of_another_accountant_and_never_below_it_where_batches_are_sampled() -> (
    None
):
    cases: list[dict[str, Any]] = [
        *({"delta": delta, "releases": [(n, 1.0, count)]} for n, count, delta in UNSAMPLED),
        *({"delta": delta, "releases": [(n, q, count)]} for n, q, count, delta in SAMPLED),
        *({"delta": 1e-6, "releases": releases} for releases in MIXED),
    ]
    peer = by_peer(cases)
    ours = [epsilon_of(spent_on(case["releases"]), case["delta"]) for case in cases]
    for case, epsilon, (pld, rdp) in zip(cases, ours, peer, strict=True):
        print(f"{case}: {epsilon:.5f}, PLD {pld:.5f}, RDP {rdp:.5f}")
    exact = len(UNSAMPLED)
    for epsilon, (pld, _) in zip(ours[:exact], peer[:exact], strict=True):
        assert epsilon == pytest.approx(pld, rel=1e-4)
    for epsilon, (pld, rdp) in zip(ours[exact:], peer[exact:], strict=True):
        assert epsilon >= pld
        assert rdp * (1 - 1e-9) <= epsilon < 1.25 * rdp


@pytest.mark.parametrize(
    ("noise", "count", "delta", "epsilon"),
    [
        # By dp-accounting 0.6.0, PLDAccountant, for machines without it.
        (1.0, 1, 1e-5, 4.37717810002493),
        (4.0, 30, 1e-6, 7.016788562287968),
        (20.0, 500, 1e-8, 6.542651034808021),
        (0.3, 3, 1e-12, 56.627394630815054),
    ],
)
def test_unsampled_releases_cost_what_is_known(
    noise: float, count: int, delta: float, epsilon: float
) -> None:
    assert epsilon_of(gaussian_cost(noise, count), delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("mu", [0.05, 0.7, 3.0, 9.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 4.0])
def test_delta_is_the_integral_of_what_epsilon_does_not_cover(mu: float, epsilon: float) -> None:
    x = np.linspace(-40, 40 + mu, 2_000_001)
    ours, others = (np.exp(-np.square(x - at) / 2) / math.sqrt(2 * math.pi) for at in (mu, 0.0))
    over = np.maximum(ours - math.exp(epsilon) * others, 0.0)
    integral = float(np.trapezoid(over, x))
    assert gaussian_delta(mu, epsilon) == pytest.approx(integral, rel=1e-5, abs=1e-13)


@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.3), (2.0, 0.01), (5.0, 0.9)])
@pytest.mark.parametrize("order", [2, 3, 7, 16])
def test_the_divergence_of_a_sampled_step_is_the_integral_that_defines_it(
    noise: float, rate: float, order: int
) -> None:
    x = np.linspace(-30 * noise, 30 * noise + 3 * order, 1_000_001)
    quiet = -np.square(x / noise) / 2 - math.log(noise * math.sqrt(2 * math.pi))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    moment = float(np.trapezoid(np.exp(quiet + order * ratio), x))
    expected = math.log(moment) / (order - 1)
    assert sampled_divergence(noise, rate, order) == pytest.approx(expected, rel=1e-6)


@given(st.floats(-4, 6), st.floats(-300, -0.5))
def test_epsilon_is_found_for_any_mu_and_delta_and_gives_at_most_that_delta(
    log_mu: float, log_delta: float
) -> None:
    mu, delta = 10**log_mu, 10**log_delta
    epsilon = gaussian_epsilon(mu, delta)
    assert 0 <= epsilon <= mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    assert gaussian_delta(mu, epsilon) <= delta
    if epsilon > 0:
        assert gaussian_delta(mu, epsilon * (1 - 1e-5)) >= delta * (1 - 1e-6)


@given(st.floats(0.3, 50), st.floats(1e-5, 1.0), st.integers(1, 5000))
def test_sampling_never_costs_more_than_all_rows_and_more_steps_never_less(
    noise: float, rate: float, steps: int
) -> None:
    cost = sampled_cost(noise, rate, steps)
    everybody = [order * steps / noise**2 / 2 for order in RENYI_ORDERS]
    divergences = cost.sampled or [order * cost.gaussian / 2 for order in RENYI_ORDERS]
    assert all(a <= b * (1 + 1e-9) for a, b in zip(divergences, everybody, strict=True))
    assert epsilon_of(added(cost, cost), 1e-6) >= epsilon_of(cost, 1e-6)
    assert epsilon_of(added(cost, gaussian_cost(2.0)), 1e-6) >= epsilon_of(cost, 1e-6)


def test_nothing_spent_is_epsilon_zero_and_a_mark_at_its_limit_is_over_every_budget() -> None:
    assert epsilon_of(Spent(), 1e-6) == 0.0
    assert epsilon_of(added(Spent(), gaussian_cost(1e-9)), 1e-6) > 1e6
    assert epsilon_of(sampled_cost(1e-3, 0.5, 1000), 1e-6) > 1e6
