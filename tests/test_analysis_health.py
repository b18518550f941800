"""Graded outcomes: who is functionally dead, and the map that shows health beside death."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures import style
from analysis.figures.health import health_map
from analysis.frames import columns
from analysis.statistics import health
from harness.located import InputError
from tests.analysis_folders import died, survived
from tests.analysis_frames import frame

DIGITS = {"data.name": "digits"}


def runs(*readings: tuple[float, float], **fields: Any) -> pd.DataFrame:
    """Survivors with a held-out accuracy and a share of dead units at their ends."""
    return frame(
        ({**DIGITS, health.ACCURACY: accuracy, health.DEAD_SHARE: dead, "seed": seed, **fields}, survived())
        for seed, (accuracy, dead) in enumerate(readings)
    )


def test_a_net_at_chance_or_with_hardly_a_unit_is_functionally_dead() -> None:
    """Ten classes: 1.5 times chance is 0.15; of 100 units 99 is the limit. Both count themselves."""
    found = health.functionally_dead(runs((0.15, 0.0), (0.151, 0.0), (0.9, 0.99), (0.9, 0.989), (0.1, 1.0)))
    assert found.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize(("fields", "limit"), [({"data.name": "cifar100"}, 0.015), ({"data.num_classes": 4}, 0.375)])
def test_chance_is_that_of_the_number_of_classes(fields: dict[str, Any], limit: float) -> None:
    found = health.functionally_dead(runs((limit, 0.0), (limit + 1e-3, 0.0), **fields))
    assert found.tolist() == [True, False]


def test_a_run_without_the_readings_is_neither() -> None:
    pending = frame([({**DIGITS, health.ACCURACY: 0.9, health.DEAD_SHARE: 0.0}, "pending")])
    assert health.functionally_dead(pd.concat([runs((np.nan, 0.0), (0.9, np.nan)), pending])).isna().all()
    with pytest.raises(InputError, match="no metric 'val/accuracy'"):
        health.functionally_dead(frame([(DIGITS, survived())]))


def grid() -> pd.DataFrame:
    """Two scales by two rates by three seeds: at scale 1 and the high rate all died, else nothing did."""
    cells = [(scale, rate, seed) for scale in (0.1, 1.0) for rate in (0.01, 0.1) for seed in range(3)]
    return frame(
        (
            {**DIGITS, "model.residual_scale": scale, "optim.lr": rate, "seed": seed}
            | {health.DEAD_SHARE: 1.0 if scale * rate == 0.1 else 0.1 * seed}
            | {health.ACCURACY: 0.1 if scale * rate == 0.1 else 0.9 - 0.1 * seed},
            died(50) if scale * rate == 0.1 else survived(),
        )
        for scale, rate, seed in cells
    )


def test_cells_have_median_and_range() -> None:
    all_runs = grid()
    found = health.cells(
        all_runs,
        columns.factor(all_runs, "model.residual_scale"),
        columns.factor(all_runs, "optim.lr"),
        health.ACCURACY,
    )
    assert found.to_numpy()[[0, 3]] == pytest.approx(np.array([[0.8, 0.7, 0.9, 3], [0.1, 0.1, 0.1, 3]]))
    none = health.cells(
        all_runs[all_runs["optim.lr"] > 0.05],
        columns.factor(all_runs, "model.residual_scale"),
        columns.factor(all_runs, "optim.lr"),
        health.ACCURACY,
    )
    assert none["n"].tolist() == [0, 0, 3, 3] and none["median"].isna().tolist() == [True, True, False, False]


def test_the_map_shows_death_beside_health() -> None:
    figure = health_map(grid(), "model.residual_scale", "optim.lr")
    died_map, dead, accuracy = figure.axes[:3]
    said = [[text.get_text() for text in panel.texts] for panel in (died_map, dead, accuracy)]
    assert said[0] == ["0/3", "0/3", "0/3", "3/3"]
    assert said[1] == ["10 %", "0–20 %"] * 3 + ["100 %", "100–100 %"]
    assert said[2] == ["80 %", "70–90 %"] * 3 + ["10 %", "10–10 %"]
    shades = [np.asarray(panel.collections[0].get_array()).ravel() for panel in (died_map, dead, accuracy)]
    assert [shade.argmax() for shade in shades] == [3, 3, 3], "what is worst is darkest in every map"
    assert shades[2] == pytest.approx([0.2, 0.2, 0.2, 0.9])
    around = " ".join(text.get_text() for text in figure.texts)
    assert "3 of 12 finished runs died; 3 of 12 are functionally dead" in around
    assert style.image(figure, "png").startswith(b"\x89PNG")


def test_what_has_no_reading_is_said() -> None:
    some = grid()
    some.loc[some["optim.lr"] > 0.05, health.ACCURACY] = np.nan
    accuracy = health_map(some, "model.residual_scale", "optim.lr").axes[2]
    assert [text.get_text() for text in accuracy.texts].count("no reading") == 2
    with pytest.raises(InputError, match="prepool/dead_share_probe"):
        health_map(some.drop(columns=health.DEAD_SHARE))
