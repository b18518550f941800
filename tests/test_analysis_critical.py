"""The critical learning rate and the law it is held against, on runs that follow a known one."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.figures import critical_rate, style
from analysis.statistics import critical, health
from harness.located import InputError
from harness.optim.stability import threshold
from tests.analysis_folders import survived
from tests.analysis_frames import frame

CURVATURE = 2.5


def runs(
    limit: Callable[[float, int], float],
    momenta: Sequence[float] = (0.9,),
    replicas: Sequence[int] = (1, 2, 6, 20),
    seeds: int = 8,
    spread: float = 0.3,
) -> pd.DataFrame:
    """Nets that lose their function above `limit(momentum, replicas)`, which differs a little from run to run."""
    chance = np.random.default_rng(0)
    records = []
    for momentum in momenta:
        for count in replicas:
            middle = threshold(momentum, count - 1) / CURVATURE
            for seed in range(seeds):
                for rate in middle * np.geomspace(0.2, 5, 11):
                    lost = rate > limit(momentum, count) * math.exp(spread * chance.normal())
                    fields = {"data.name": "digits", "optim.lr": rate, "optim.momentum": momentum, "seed": seed}
                    fields |= {"optim.replicas": count, health.ACCURACY: 0.1 if lost else 0.9}
                    records.append((fields | {health.DEAD_SHARE: 0.5}, survived()))
    return frame(records)


def lawful(momentum: float, replicas: int) -> float:
    return threshold(momentum, replicas - 1) / CURVATURE


BY = [critical.MOMENTUM, critical.REPLICAS]


def test_the_critical_rate_is_where_half_lose_their_function() -> None:
    rates = critical.critical_rates(runs(lawful), BY)
    assert rates[critical.REPLICAS].tolist() == [1, 2, 6, 20] and (rates["runs"] == 88).all()
    expected = [lawful(0.9, count) for count in (1, 2, 6, 20)]
    assert rates["rate"].to_numpy() == pytest.approx(np.array(expected), rel=0.25)
    assert ((rates["low"] < expected) & (expected < rates["high"])).all()


def test_a_rate_beyond_those_tested_is_censored_on_that_side() -> None:
    beyond = {1: 1e9, 2: 0.0, 6: lawful(0.9, 6)}
    rates = critical.critical_rates(runs(lambda _, count: beyond[count], replicas=(1, 2, 6)), BY)
    assert rates["censored"].tolist() == ["above", "below", ""]
    assert rates["rate"].tolist()[:2] == [math.inf, 0.0]


def test_a_law_that_holds_has_an_exponent_of_one_and_its_constant() -> None:
    law = critical.against_threshold(runs(lawful, (0.0, 0.9)))
    assert law.curvature.value == pytest.approx(CURVATURE, rel=0.1)
    assert law.curvature.low < CURVATURE < law.curvature.high
    assert law.exponent.low < 1 < law.exponent.high and law.exponent.high - law.exponent.low < 0.2
    assert law.points["ratio"].between(0.7, 1.4).all()


def test_a_rate_that_follows_another_power_is_told_from_the_law() -> None:
    law = critical.against_threshold(runs(lambda m, n: lawful(m, n) * n**0.3))
    assert law.exponent.high < 1 and law.points["ratio"].iloc[-1] > 1.3


def test_a_rate_that_lies_beyond_those_tested_has_no_ratio() -> None:
    law = critical.against_threshold(runs(lambda m, n: 1e9 if n == 20 else lawful(m, n)))
    assert math.isinf(law.points["rate"].iloc[-1]) and math.isinf(law.points["ratio"].iloc[-1])


def test_the_random_order_has_a_threshold_of_its_own() -> None:
    in_turn = critical.against_threshold(runs(lawful)).points["threshold"]
    random = critical.against_threshold(runs(lawful).assign(**{critical.ORDER: "random"})).points["threshold"]
    assert in_turn.iloc[0] == random.iloc[0] and (in_turn.iloc[1:] != random.iloc[1:]).all()


def test_a_figure_draws_the_laws_that_fit_and_names_momenta_for_which_none_does() -> None:
    def lawless(momentum: float, replicas: int) -> float:
        """With momentum nets in step die at every rate, and no others do at any."""
        return lawful(momentum, replicas) if not momentum else 1e-9 if replicas == 1 else 1e9

    whole = critical_rate.critical_rate(runs(lawful, (0.0, 0.9)))
    assert "no one curvature fits" not in style.caption_of(whole)
    assert len([line for line in whole.axes[0].lines if len(np.asarray(line.get_xdata())) > 2]) == 2
    half = critical_rate.critical_rate(runs(lawless, (0.0, 0.9)))
    caption = style.caption_of(half)
    assert "At momentum 0.9 no one curvature fits" in caption and "at momentum 0, fitted" in caption
    none = style.caption_of(critical_rate.critical_rate(runs(lawless, (0.9,))))
    assert "Curves" not in none and "At momentum 0.9 no one curvature fits" in none


def by_width(exponent: float, spread: float = 0.3) -> pd.DataFrame:
    parts = []
    for width in (0.0625, 0.125, 0.25):

        def limit(momentum: float, replicas: int, width: float = width) -> float:
            return lawful(momentum, replicas) * math.pow(width / 0.125, exponent)

        parts.append(runs(limit, replicas=(20,), spread=spread).assign(**{"model.width": width}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0])
def test_the_exponent_in_the_width_is_found_with_its_interval(exponent: float) -> None:
    found = critical.power_law(by_width(exponent), "model.width")
    assert found.low < exponent < found.high and found.high - found.low < 0.6


def test_where_all_seeds_agree_the_grid_of_rates_limits_what_is_known() -> None:
    """Half of a grid's step either way, a factor of 1.38 between rates, over a factor of 4 in width."""
    found = critical.power_law(by_width(-0.5, spread=0.0), "model.width")
    assert found.low < -0.5 < found.high
    assert found.high - found.low > 0.2


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"optim\.momentum"):
        critical.critical_rates(runs(lawful).drop(columns=critical.MOMENTUM), BY)
    one = runs(lawful)
    assert critical.critical_rates(one[one["optim.lr"] == one["optim.lr"].min()], BY).empty
