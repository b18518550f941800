"""The largest stable learning rate times curvature, against the published table, roots, simulation and moments."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.optim.stability import ReplicaOrder, threshold

DELAYS = (0, 1, 2, 3, 5, 10, 19, 49)
TABLE = {  # as printed in the brief of the second study, where 0.1495 at m = 0 and delay 10 was rounded once more
    0.0: ("2", "1", "0.618", "0.445", "0.285", "0.149", "0.0805", "0.0317"),
    0.5: ("3", "0.5", "0.281", "0.199", "0.129", "0.070", "0.0385", "0.0156"),
    0.9: ("3.8", "0.1", "0.0512", "0.0348", "0.0215", "0.0114", "0.0064", "0.0028"),
}
CELLS = [(m, delay) for m in TABLE for delay in DELAYS]


@pytest.mark.parametrize(("momentum", "delay"), CELLS)
def test_the_table_to_its_printed_digits(momentum: float, delay: int) -> None:
    printed = TABLE[momentum][DELAYS.index(delay)]
    unit = 10.0 ** -len(printed.partition(".")[2])
    assert threshold(momentum, delay) == pytest.approx(float(printed), abs=0.5 * unit)


def simulated(momentum: float, delay: int, c: float, steps: int) -> NDArray[np.float64]:
    """A heavy ball on a parabola of curvature 1 that rolled off at rest, with gradients of the position `delay` ago."""
    x = np.ones(steps + delay + 2)
    for t in range(delay + 1, len(x) - 1):
        x[t + 1] = x[t] + momentum * (x[t] - x[t - 1]) - c * x[t - delay]
    return np.abs(x)


@pytest.mark.parametrize(("momentum", "delay"), CELLS)
def test_just_below_it_decays_and_just_above_it_diverges(momentum: float, delay: int) -> None:
    c, window = threshold(momentum, delay), 40 * (delay + 1)
    below, above = (simulated(momentum, delay, factor * c, 100 * window) for factor in (0.99, 1.01))
    assert below[-window:].max() < 0.1 * below[:window].max()
    assert above[-window:].max() > 10 * above[:window].max()


def largest_root(momentum: float, delay: int, c: float) -> float:
    coefficients = np.zeros(delay + 2)
    coefficients[0] += 1
    coefficients[1] -= 1 + momentum
    if delay == 0:
        coefficients = np.array([1, c - 1 - momentum, momentum])
    else:
        coefficients[2] += momentum
        coefficients[-1] += c
    return float(np.abs(np.roots(coefficients)).max())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("delay", [0, 1, 2, 4, 19, 99, 300])
def test_the_largest_root_is_on_the_unit_circle(momentum: float, delay: int) -> None:
    c = threshold(momentum, delay)
    assert largest_root(momentum, delay, c) == pytest.approx(1, abs=1e-7)
    assert largest_root(momentum, delay, 0.999 * c) < 1 < largest_root(momentum, delay, 1.001 * c)


@given(delay=st.integers(0, 1000))
def test_without_momentum_it_has_a_closed_form(delay: int) -> None:
    assert threshold(0, delay) == pytest.approx(2 * math.sin(math.pi / (4 * delay + 2)), rel=1e-12)


@given(momentum=st.floats(0, 1, exclude_max=True))
def test_one_update_late_it_is_one_less_the_momentum(momentum: float) -> None:
    assert threshold(momentum, 1) == pytest.approx(1 - momentum, rel=1e-12)


@given(
    momentum=st.floats(0, 1, exclude_max=True),
    delay=st.integers(0, 1000),
    order=st.sampled_from(["round_robin", "random"]),
)
def test_a_longer_delay_never_allows_more(momentum: float, delay: int, order: ReplicaOrder) -> None:
    assert 0 < threshold(momentum, delay + 1, order) < threshold(momentum, delay, order) * (1 + 1e-12) < math.inf


def second_moments(m: float, n: int, c: float) -> NDArray[np.float64]:
    """How an update of one of n replicas, drawn at random, moves E[v v'] of v = (x, y, h1 ... hn): (n + 2)**2 squared."""
    step = np.zeros(((n + 2) ** 2,) * 2)
    for replica in range(n):
        update = np.eye(n + 2)
        update[0] = 0
        update[0, 0], update[0, 1], update[0, 2 + replica] = 1 + m, -m, -c
        update[1] = 0
        update[1, 0] = 1
        update[2 + replica] = update[0]
        step += np.kron(update, update) / n
    return step


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("replicas", [2, 3, 6])
def test_in_random_order_the_mean_square_stops_to_decay(momentum: float, replicas: int) -> None:
    c = threshold(momentum, replicas - 1, "random")
    below, above = (
        np.abs(np.linalg.eigvals(second_moments(momentum, replicas, factor * c))).max() for factor in (0.999, 1.001)
    )
    assert below < 1 < above


def test_in_random_order_simulated_replicas_decay_below_and_diverge_above() -> None:
    rng, runs, replicas, momentum = np.random.default_rng(0), 2000, 4, 0.9
    ends = {}
    for factor in (0.8, 1.25):
        c = factor * threshold(momentum, replicas - 1, "random")
        x, before, held = np.ones(runs), np.ones(runs), np.ones((runs, replicas))
        for _ in range(400):
            drawn = rng.integers(replicas, size=runs)
            x, before = (1 + momentum) * x - momentum * before - c * held[np.arange(runs), drawn], x
            held[np.arange(runs), drawn] = x
        ends[factor] = (x**2).mean()
    assert ends[0.8] < 0.1 and ends[1.25] > 10


def test_one_replica_has_no_order() -> None:
    assert threshold(0.9, 0, "random") == threshold(0.9, 0) == 3.8


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 2, math.nan, math.inf])
def test_a_momentum_out_of_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"momentum is .*; expected a number in \[0, 1\)"):
        threshold(momentum, 0)


@pytest.mark.parametrize("delay", [-1, 2.5, math.nan, math.inf])
def test_a_delay_out_of_its_range_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match=r"delay is .*; expected a whole number of updates >= 0"):
        threshold(0.9, delay)


@pytest.mark.parametrize("value", [True, "0.9", None, [0.9]])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="momentum is"):
        threshold(value, 1)
    with pytest.raises(TypeError, match="delay is"):
        threshold(0.9, value)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: round_robin, random"):
        threshold(0.9, 1, "shuffled")  # type: ignore[arg-type]
