"""How well a known number sorts runs by their fate: against scikit-learn's area, and in worlds whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from analysis.statistics.sorting import areas
from harness.located import InputError


def world(cells: int = 40, seeds: int = 4) -> tuple[pd.DataFrame, "pd.Series[bool]", "pd.Series[int]"]:
    random = np.random.default_rng(0)
    cell = np.repeat(np.arange(cells), seeds)
    dose = np.repeat(random.normal(size=cells), seeds)
    fate = dose + random.normal(size=len(dose)) > 0.3
    scores = pd.DataFrame(
        {"dose": dose, "coarse": np.round(dose), "other": np.repeat(random.normal(size=cells), seeds)}
    )
    return scores, pd.Series(fate), pd.Series(cell)


def test_the_area_is_scikit_learns_ties_included() -> None:
    scores, fate, cells = world()
    found = areas(scores, fate, cells)
    for name in scores:
        assert found.area[str(name)].value == pytest.approx(roc_auc_score(fate, scores[name]), abs=1e-12)
    gain = found.area["dose"].value - found.area["other"].value
    assert found.less["other"].value == pytest.approx(gain) and found.less["other"].n == len(fate)
    assert found.less["other"].low > 0 and list(found.less) == ["coarse", "other"]


def test_seeds_of_one_cell_are_no_independent_cases() -> None:
    scores, fate, cells = world()
    together = areas(scores, fate, cells).area["dose"]
    apart = areas(scores, fate, pd.Series(range(len(fate)))).area["dose"]
    many = pd.concat([scores] * 5, ignore_index=True)
    repeated = areas(many, pd.concat([fate] * 5, ignore_index=True), pd.concat([cells] * 5, ignore_index=True)).area[
        "dose"
    ]
    assert together.high - together.low > apart.high - apart.low
    assert repeated.high - repeated.low == pytest.approx(together.high - together.low, rel=0.05)


def test_one_fate_alone_cannot_be_sorted() -> None:
    scores, fate, cells = world()
    with pytest.raises(InputError, match="160 of 160 runs are lost"):
        areas(scores, fate | True, cells)
