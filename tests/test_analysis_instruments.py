"""The figure of the instruments of stability: a line of panels for each that was read, one curve a run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis.figures import instruments, style
from analysis.report import drawings
from harness.located import InputError
from tests.analysis_folders import died, survived
from tests.analysis_frames import grid, rows
from tests.test_analysis_figures import drawable, legend

EVERY = {
    "curvature/margin": 2.0,
    "curvature/sharpness": 30.0,
    "curvature/noise_scale": 10.0,
    "block/b01/sum/common_mode": 9.0,
    "block/b02/sum/common_mode": -1.0,
    "block/b02/up_projection/mean_share_probe": 0.5,
    "block/b01/up_projection/spectral_norm": 7.0,
    "block/b02/up_projection/spectral_norm": 3.0,
    "prepool/feature_rank_probe": 12.0,
    "prepool/tau_dormant_share_batch": 0.25,
}


@pytest.fixture
def runs() -> pd.DataFrame:
    return grid(
        lambda width, scale, seed: died(55) if scale == 1 else survived(), width=[0.125, 0.25], residual_scale=[0.1, 1]
    )


def curves(axes: Axes) -> list[list[float]]:
    """Heights of the curves of a panel; the line at a margin of 1 has two points of no step."""
    return [
        list(map(float, np.asarray(line.get_ydata()))) for line in axes.lines if len(np.asarray(line.get_xdata())) > 2
    ]


def test_every_instrument_has_a_line_and_every_run_a_curve(runs: pd.DataFrame) -> None:
    figure = instruments.instruments(runs, rows(runs, lambda run, step: EVERY))
    panels = figure.axes
    assert len(panels) == 8 * 2
    labels = [axes.get_ylabel() for axes in panels[::2]]
    assert labels[0] == "stability\nmargin" and labels[-1] == "τ-dormant\nunits / units"
    heights = [{height for curve in curves(axes) for height in curve} for axes in panels[::2]]
    assert heights == [{2.0}, {30.0}, {10.0}, {-1.0}, {0.5}, {7.0}, {12.0}, {0.25}], "last sum, largest norm"
    assert [len(curves(axes)) for axes in panels] == [6] * 16
    assert [axes.get_yscale() == "log" for axes in panels[::2]] == [True] * 3 + [False] * 2 + [True] + [False] * 2
    assert legend(figure) == ["1", "0.1"]
    assert "unstable above 1" in style.caption_of(figure) and drawable(figure)


def test_a_margin_of_one_is_marked(runs: pd.DataFrame) -> None:
    figure = instruments.instruments(runs, rows(runs, lambda run, step: {"curvature/margin": 0.1}))
    for axes in figure.axes:
        assert any(set(np.asarray(line.get_ydata())) == {1} for line in axes.lines)


def test_only_what_was_read_is_shown(runs: pd.DataFrame) -> None:
    some = {"prepool/feature_rank_probe": 3.0, "curvature/margin": math.nan, "block/b01/sum/rms": 1.0}
    figure = instruments.instruments(runs, rows(runs, lambda run, step: some))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["feature rank"]
    with pytest.raises(InputError, match="no readings of curvature"):
        instruments.instruments(runs, rows(runs, lambda run, step: {"block/b01/sum/rms": 1.0}))


def test_a_logarithm_leaves_out_what_it_cannot_show(runs: pd.DataFrame) -> None:
    def read(run: pd.Series, step: int) -> dict[str, float]:
        return {"curvature/sharpness": [5.0, -1.0, 0.0, math.inf, math.nan][step // 10] if step < 50 else 6.0}

    figure = instruments.instruments(runs, rows(runs, read))
    assert {height for axes in figure.axes for curve in curves(axes) for height in curve} == {5.0, 6.0}


def test_of_many_runs_the_median_stands_out() -> None:
    many = grid(lambda scale, seed: survived(), seeds=5, residual_scale=[0.1, 1])
    read = rows(many, lambda run, step: {"curvature/margin": 10.0 ** int(run["seed"])})
    figure = instruments.instruments(many, read, panel="model.residual_scale")
    for axes in figure.axes:
        thick = [line for line in axes.lines if line.get_linewidth() > 1.5]
        assert len(curves(axes)) == 6 and len(thick) == 1
        assert set(np.asarray(thick[0].get_ydata())) == {100.0}, "seeds 0 to 4"
    assert "Thick: median of the runs followed until then" in style.caption_of(figure)


def test_each_run_has_its_own_last_block(runs: pd.DataFrame) -> None:
    def read(run: pd.Series, step: int) -> dict[str, float]:
        deeper = {"block/b10/sum/common_mode": 10.0} if run["model.width"] == 0.25 else {}
        return {"block/b09/sum/common_mode": 9.0} | deeper

    figure = instruments.instruments(runs, rows(runs, read), panel="model.width")
    assert [{height for curve in curves(axes) for height in curve} for axes in figure.axes] == [{9.0}, {10.0}]


def test_the_report_draws_it_where_there_are_such_readings(runs: pd.DataFrame) -> None:
    with_rank = rows(runs, lambda run, step: {"prepool/feature_rank_probe": 3.0})
    assert "instruments" in dict(drawings.of_runs(runs, with_rank))
    without = rows(runs, lambda run, step: {"prepool/feature_rank_probe": math.nan, "prepool/dead_share_batch": 0.1})
    assert "instruments" not in dict(drawings.of_runs(runs, without))


def test_a_reading_that_a_run_has_only_once_is_a_dot(runs: pd.DataFrame) -> None:
    taken = rows(runs, lambda run, step: {"prepool/feature_rank_probe": 12.0, "prepool/tau_dormant_share_batch": 0.25})
    last = taken["step"] == taken.groupby("run_id")["step"].transform("max")
    taken["prepool/feature_rank_probe"] = taken["prepool/feature_rank_probe"].where(last)
    figure = instruments.instruments(runs, taken)
    dots = [sum(len(np.asarray(each.get_offsets())) for each in axes.collections) for axes in figure.axes]
    assert dots == [6, 6, 0, 0], "one a run, beside no curve"
    assert not any(each.get_clip_on() for axes in figure.axes[:2] for each in axes.collections), "also at the edge"
    assert "a dot: its only reading" in style.caption_of(figure)
