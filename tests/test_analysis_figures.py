"""The figures of survival, dose and warning: what they draw, what they say, and that they can be drawn at the edges."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from seaborn import objects as so

from analysis.figures import (
    dose_response,
    forest,
    phase_map,
    rate_sensitivity,
    style,
    time_to_event,
    variance_growth,
    warning_curve,
)
from analysis.figures.facets import add, facets
from analysis.frames import columns
from analysis.statistics import estimates, growth, phase, sensitivity
from analysis.statistics.estimates import Estimate
from harness.located import InputError
from harness.outcome import Outcome
from tests.analysis_folders import died, outcome, quickstart_fate, survived
from tests.analysis_frames import grid, rows

WIDTHS, SCALES = [0.0625, 0.125, 0.25], [0.1, 0.3, 1.0]


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return grid(quickstart_fate, seeds=3, width=WIDTHS, residual_scale=SCALES)


def drawable(figure: Figure) -> bool:
    """Whether the figure can be written in both formats, warnings being errors."""
    return style.image(figure, "png").startswith(b"\x89PNG") and b"<svg" in style.image(figure, "svg")


def panels(figure: Figure) -> dict[str, Axes]:
    """The panels that have a title, by it."""
    return {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_title(loc="left")}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def ends(axis: Axes) -> list[float]:
    """The last height of every curve, from the lowest level's to the highest's."""
    return [float(np.asarray(line.get_ydata())[-1]) for line in axis.lines]


# -- survival ----------------------------------------------------------------------------------------------------------


def test_survival_curves_end_at_the_share_that_did_not_die(runs: pd.DataFrame) -> None:
    figure = time_to_event.survival_curves(runs)
    drawn = panels(figure)
    assert [ends(axis) for axis in drawn.values()] == [
        [1, 1, 0],
        [1, pytest.approx(2 / 3), 0],
        [1, pytest.approx(2 / 3), 0],
    ]
    assert all(axis.get_title(loc="right").startswith("p = ") for axis in drawn.values())
    at_risk = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert at_risk[0] == ["at risk", "1", "0.3", "0.1", "3", "3", "0", "0", "0"] + ["3"] * 10, "deaths at 55, 75 and 95"
    assert at_risk[1][0] != "at risk", "the lines are named at the first panel"
    caption = style.caption_of(figure)
    assert "10 steps apart" in caption and "Survivors were followed to step 200" in caption and "by Holm" in caption
    assert legend(figure) == ["1", "0.3", "0.1"] and drawable(figure)


def test_few_colours_have_bands_and_many_have_bars(runs: pd.DataFrame) -> None:
    two = time_to_event.survival_curves(runs[runs["model.residual_scale"] != 0.3])
    three = time_to_event.survival_curves(runs)
    for figure, kind in ((two, PolyCollection), (three, LineCollection)):
        for axis in panels(figure).values():
            assert [type(each) for each in axis.collections if isinstance(each, PolyCollection | LineCollection)]
            assert all(isinstance(each, kind) for each in axis.collections)


def test_survival_says_what_diverged_and_what_is_not_counted(runs: pd.DataFrame) -> None:
    changed = runs.copy()
    for column, value in {"outcome": "diverged", "outcome_step": 40, "outcome_last_live_step": 30}.items():
        changed[column] = changed[column].where(changed.index != 0, value)
    changed.loc[1, "state"], changed.loc[1, "outcome"] = "failed", None
    caption = style.caption_of(time_to_event.survival_curves(changed))
    assert "1 run diverged, can no longer die" in caption and "Not counted: 1 failed." in caption
    figure = time_to_event.incidence_curves(changed)
    drawn = panels(figure)
    assert list(drawn) == ["died", "diverged"]
    assert ends(drawn["diverged"]) == [pytest.approx(1 / 8), 0, 0] and ends(drawn["died"])[-1] == 1
    assert "Runs that differ in model.width are counted together." in style.caption_of(figure)


def test_survival_against_the_cumulative_learning_rate(runs: pd.DataFrame) -> None:
    read = rows(runs, lambda _, step: {"optim/lr": 0.5, "optim/cumulative_lr": 0.5 * step})
    figure = time_to_event.survival_curves(runs, read, against="cumulative_lr")
    assert panels(figure) and [axis.get_xlabel() for axis in figure.axes].count("cumulative learning rate") == 3


def test_speed_curves_rise_to_the_share_that_got_there(runs: pd.DataFrame) -> None:
    read = rows(runs, lambda run, step: {"val/accuracy": step / 200 if run["outcome"] == "survived" else 0.1})
    figure = time_to_event.speed_curves(runs, read, "val/accuracy", 0.8)
    assert [ends(axis)[-1] for axis in panels(figure).values()] == [0, 0, 0]
    assert all(ends(axis)[0] == 1 for axis in panels(figure).values())
    assert "11 runs died or diverged before" in style.caption_of(figure) and drawable(figure)


# -- doses -------------------------------------------------------------------------------------------------------------


def test_a_dose_response_says_each_lethal_dose_with_its_count(runs: pd.DataFrame) -> None:
    figure = dose_response.dose_response(runs, "model.residual_scale")
    assert all("0.372 (0.119 to above 1), n = 9" in words for words in legend(figure)[:2]), "of ×1/4 and of ×1/8"
    assert legend(figure)[2].startswith("width = ×1/16: 0.542 (") and len(legend(figure)) == 3
    [axis] = figure.axes
    assert axis.get_xscale() == "log" and axis.get_xlabel() == "residual scale α"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.1", "0.3", "1"]
    assert drawable(figure)


def test_a_width_is_no_colour_of_its_own_filter_count(runs: pd.DataFrame) -> None:
    filters = runs.assign(**{"prepool/units": runs["model.width"] * 2080})
    figure = dose_response.dose_response(filters, "prepool/units")
    words = [text for text in legend(figure) if "n =" in text]
    assert [text.split(":")[0] for text in words] == [f"residual scale α = {scale}" for scale in ("1", "0.3", "0.1")]
    assert "below 130, beyond the range tested" in words[0] and "above 520, beyond the range tested" in words[2]


def test_a_level_without_a_lethal_dose_is_named(runs: pd.DataFrame) -> None:
    some = runs[(runs["model.width"] == 0.125) | (runs["model.residual_scale"] == 0.3)]
    caption = style.caption_of(dose_response.dose_response(some, "model.residual_scale"))
    assert caption.count("Without a curve") == 2 and "found: 0.3" in caption
    with pytest.raises(InputError, match="two positive ones or more"):
        dose_response.dose_response(runs, "optim.lr")


def test_the_map_has_its_contour(runs: pd.DataFrame) -> None:
    found = phase.contour(runs, columns.factor(runs, "model.width"), "model.residual_scale")
    assert list(found) == [0, 1, 2] and all(each.located and each.estimate.n == 9 for each in found.values())
    figure = phase_map.phase_map(runs)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    heights = [float(np.asarray(dot.get_ydata())[0]) for dot in dots]
    assert len(heights) == 3
    assert heights[0] == pytest.approx(1.5 + math.log(found[0].estimate.value / 0.3) / math.log(1 / 0.3))
    assert "at which half of a column's runs die, and its 95 % interval" in style.caption_of(figure)
    plain = phase_map.phase_map(runs, lethal=False)
    assert not plain.axes[0].lines and "half of a column" not in style.caption_of(plain) and drawable(figure)


def test_no_lethal_value_or_interval_lies_on_a_count(runs: pd.DataFrame) -> None:
    figure = phase_map.phase_map(runs)
    style.image(figure, "png")
    [axes, _] = figure.axes
    counts = [text.get_window_extent() for text in axes.texts]
    marks = [line.get_window_extent() for line in axes.lines]
    assert len(counts) == 18 and len(marks) > 3
    assert not [mark for mark in marks for count in counts if mark.padded(1).overlaps(count)]


def test_a_third_column_may_be_named(runs: pd.DataFrame) -> None:
    figure = phase_map.phase_map(
        runs.assign(**{"optim.lr": np.where(runs["seed"] == 0, 0.1, 0.5)}), panel="model.width"
    )
    assert list(panels(figure)) == ["width = ×1/16", "width = ×1/8", "width = ×1/4"]


# -- panels ------------------------------------------------------------------------------------------------------------


def test_panels_are_wrapped_and_labelled_at_the_outside() -> None:
    titles = [f"learning rate = {number}, optimizer = rmsprop_torch" for number in range(4)]
    figure, grid = facets([*titles, "last"], (1.8, 1.0), "Title", "Caption.", x="step", y="share", wide=3)
    assert [axes.get_xlabel() for axes in grid] == ["", "", "step", "step", "step"]
    assert [axes.get_ylabel() for axes in grid] == ["share", "", "", "share", ""]
    assert grid[0].get_title(loc="left").split("\n") == ["learning rate = 0,", "optimizer =", "rmsprop_torch"]
    grid[0].set(xlim=(0, 7))
    assert grid[4].get_xlim() == (0, 7) and drawable(figure) and not Gcf.figs


def test_a_long_label_is_wrapped_to_the_width_of_its_panel() -> None:
    label = "filters into an up-projection (branch width factor)"
    with style.applied():
        _, narrow = facets(["a", "b"], (2.0, 1.0), "t", "c", x=label, y="y")
        _, wide = facets(["a", "b"], (4.0, 1.0), "t", "c", x=label, y="y")
    assert narrow[0].get_xlabel().split("\n") == ["filters into an up-projection", "(branch width factor)"]
    assert wide[0].get_xlabel() == label


def test_lines_of_panels_have_scales_of_their_own_below_each_title() -> None:
    frame = pd.DataFrame({"panel": [0, 0, 1, 1], "line": [0, 0, 1, 1], "x": [0, 1, 0, 1], "y": [1, 2, 30, 40]})
    plot = add(so.Plot(), so.Path(), frame, x="x", y="y")
    figure, grid = facets(["one", "two"], (2, 1), "Title", "Caption.", x="step", y=["small", "large"], plot=plot)
    drawn = [[[list(line.get_ydata()) for line in axes.lines] for axes in line] for line in grid]
    assert drawn == [[[[1, 2]], []], [[], [[30, 40]]]]
    assert [axes.get_ylabel() for axes in grid.flat] == ["small", "", "large", ""]
    assert [axes.get_title(loc="left") for axes in grid.flat] == ["one", "two", "", ""]
    assert grid[0, 0].get_ylim() == grid[0, 1].get_ylim() != grid[1, 0].get_ylim() and drawable(figure)


# -- the others --------------------------------------------------------------------------------------------------------


def test_the_warning_curve_has_its_counts() -> None:
    table = pd.DataFrame({"step": [0, 10], "n": [40, 36], "died": [20, 16], "groups": 10})
    for name, value in (("auc", 0.8), ("baseline", 0.6), ("within", math.nan)):
        table[[name, f"{name}_low", f"{name}_high"]] = [value, value - 0.1, value + 0.1]
    figure = warning_curve.warning_curve(table)
    assert legend(figure) == ["readings of the first steps", "width, residual scale and learning rate alone"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["runs", "alive", "died later", "40", "36", "20", "16"]
    assert "40 runs of 10 cells" in figure.texts[0].get_text() and drawable(figure)


def test_the_loss_against_the_rate_has_its_sensitivity() -> None:
    runs = grid(lambda *_: survived(), seeds=2, lr=[0.01, 0.1, 1.0])
    runs["val/loss"] = [1.0, 1.2, 0.5, 0.4, 9.0, 8.0]
    found = sensitivity.to_rate(runs, rows(runs, lambda *_: {"train/loss": 2.2}))
    mean = estimates.mean([0.5, 0.4])
    figure = rate_sensitivity.loss_against_rate({"α = 1": found})
    assert "0.8" in legend(figure)[0] and drawable(figure)
    [band] = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert all(np.isclose(heights, end).any() for end in (mean.low, mean.high)), "of both seeds at rate 0.1"


def test_the_variance_has_a_panel_for_each_stage() -> None:
    runs = grid(lambda *_: survived(20), seeds=2, residual_scale=[0.1, 1.0])

    def readings(run: pd.Series, _: int) -> dict[str, float]:
        random = np.random.default_rng(int(run["seed"]))
        row: dict[str, float] = {}
        for number, block in enumerate([1, 2, 1, 2, 3, 4, 1, 2], 1):
            grown = block * float(run["model.residual_scale"]) ** 2 * math.exp(0.1 * random.normal())
            row |= {
                f"block/b{number:02d}/skip/channel_variance": 1.0,
                f"block/b{number:02d}/sum/channel_variance": 1 + grown,
            }
        return row

    figure = variance_growth.variance_growth(growth.variances(runs, rows(runs, readings)))
    assert list(panels(figure)) == ["stage 1", "stage 2", "stage 3"] and drawable(figure)


def test_a_forest_says_every_number() -> None:
    found = [
        ("one", Estimate(0.1, 0.05, 0.2, 8, "seeds")),
        ("two", estimates.mean([0.3])),
        ("three", Estimate(math.inf, 5, math.inf, 9)),
    ]
    figure = forest.forest(found, "difference", "Differences", "Shown.", margin=0.1)
    words = [text.get_text() for text in figure.axes[0].child_axes[0].get_yticklabels()]
    assert words == ["0.1 (0.05 to 0.2), n = 8 seeds", "0.3, n = 1 seed", "inf (5 to inf), n = 9 runs"]
    assert drawable(figure)


@pytest.mark.parametrize(
    "fate",
    [
        lambda *_: died(40),
        lambda *_: survived(),
        lambda *_: outcome("collapsed", 40, 30),
        lambda *_: outcome("diverged", 40, 30),
    ],
    ids=["all-died", "none-died", "all-collapsed", "all-diverged"],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_all_figures_work_when_all_died_or_none(fate: Callable[..., Outcome], seeds: int) -> None:
    runs = grid(fate, seeds=seeds, width=[0.125], residual_scale=[0.1, 1.0])
    read = rows(runs, lambda *_: {"val/accuracy": 0.1})
    assert drawable(time_to_event.survival_curves(runs))
    assert drawable(time_to_event.incidence_curves(runs))
    assert drawable(time_to_event.speed_curves(runs, read, "val/accuracy", 0.5))
    assert drawable(dose_response.dose_response(runs, "model.residual_scale"))
    assert drawable(phase_map.phase_map(runs))


def test_figures_are_functions_of_their_frames_only(runs: pd.DataFrame) -> None:
    before = runs.copy()
    assert style.image(time_to_event.survival_curves(runs), "png") == style.image(
        time_to_event.survival_curves(runs), "png"
    )
    style.image(dose_response.dose_response(runs, "model.residual_scale"), "png")
    pd.testing.assert_frame_equal(runs, before)
    with pytest.raises(InputError, match=r"no column 'model\.widht'"):
        time_to_event.survival_curves(runs, panel="model.widht")


def test_no_finished_run_is_unusable_input(runs: pd.DataFrame) -> None:
    unfinished = runs.assign(state="failed", outcome=None)
    with pytest.raises(InputError, match="no finished run"):
        time_to_event.survival_curves(unfinished)
