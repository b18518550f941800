"""Counts, factors and figures, against folders whose outcomes are known."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from rich.console import Console

from analysis.figures import course, phase_map, style, words
from analysis.frames import columns
from analysis.load import load, load_rows
from analysis.statistics import phase
from analysis.statistics.estimates import wilson
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.located import InputError
from harness.outcome import Outcome
from harness.store import RunDirectory
from harness.sweep.status import read_status, status_table
from tests.analysis_folders import config, died, outcome, quickstart_fate, rows, survived, write_grid, write_run
from tests.analysis_frames import frame


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("out"), quickstart_fate)


def texts(figure: Figure) -> list[str]:
    """Every text in the panels and around them."""
    return [text.get_text() for panel in figure.axes for text in panel.texts] + [t.get_text() for t in figure.texts]


def one(counts: pd.DataFrame, y: int, x: int, name: str) -> float:
    """One number of one cell."""
    return float(counts[name].unstack().to_numpy()[y, x])


def cells(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The counts over two columns."""
    return phase.cells(runs, columns.factor(runs, x), columns.factor(runs, y))


def drawable(figure: Figure) -> bool:
    """Whether the figure can be written in both formats."""
    return style.image(figure, "png").startswith(b"\x89PNG") and b"<svg" in style.image(figure, "svg")


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_cells_count_deaths_among_finished_runs(quickstart: Path) -> None:
    counts = cells(load(quickstart), "model.width", "model.residual_scale")
    # rows of the table: scale 0.1, 0.3, 1.0; columns: width 1/16, 1/8, 1/4
    assert counts["died"].unstack().to_numpy().tolist() == [[0, 0, 0], [0, 1, 1], [3, 3, 3]]
    assert (counts["finished"] == 3).all()
    assert counts["share"].unstack().to_numpy() == pytest.approx(np.array([[0, 0, 0], [0, 1 / 3, 1 / 3], [1, 1, 1]]))
    assert [one(counts, 1, 2, name) for name in ("low", "high")] == pytest.approx(list(wilson(1, 3)))


def test_only_finished_runs_count_and_a_diverged_run_has_not_died(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), died(50))
    write_run(tmp_path, config(seed=1), outcome("diverged", 30, 20))
    write_run(tmp_path, config(seed=2), None, failure="out of memory")
    write_run(tmp_path, config(seed=3), None)
    write_run(tmp_path, config(width=0.25, scale=0.1), survived())
    counts = cells(load(tmp_path), "model.width", "model.residual_scale")
    expected = {"died": 1, "diverged": 1, "finished": 2, "failed": 1, "pending": 1, "running": 0, "share": 0.5}
    assert {name: one(counts, 1, 0, name) for name in expected} == expected
    assert one(counts, 0, 0, "finished") == 0
    assert np.isnan([one(counts, 0, 0, name) for name in ("share", "low", "high")]).all(), "no run: missing, not zero"


def test_a_collapse_counts_as_death(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), outcome("collapsed", 40, 30))
    write_run(tmp_path, config(seed=1), survived())
    runs = load(tmp_path)
    assert cells(runs, "model.width", "model.residual_scale")["died"].to_list() == [1]
    assert words.event_words(runs) == "collapsed"
    assert "no pre-pool unit varies" in words.explain_event(runs)


# -- factors -----------------------------------------------------------------------------------------------------------


def test_levels_are_ordered_numbers_then_words_then_none(tmp_path: Path) -> None:
    for scale in (1.0, 0.1, (0.1, 0.2, 0.3)):
        write_run(tmp_path, config(scale=scale), survived())
    runs = load(tmp_path)
    assert columns.factor(runs, "model.residual_scale").levels == ("0.1", "1", "0.1/0.2/0.3")
    runs.loc[runs.index[0], "model.residual_scale"] = None
    levels = columns.factor(runs, "model.residual_scale").levels
    assert levels[-1] == "none" and len(levels) == 3


def test_widths_are_shown_as_pre_pool_filters(quickstart: Path) -> None:
    factor = columns.factor(load(quickstart), "model.width")
    assert factor.levels == ("130\n(×1/16)", "260\n(×1/8)", "520\n(×1/4)")
    assert factor.label == "pre-pool filters (width factor)"
    assert factor.words(0) == "pre-pool filters: 130 (×1/16)"


def test_widths_of_branches_are_shown_as_the_filters_into_an_up_projection() -> None:
    fields = [{"model.name": "inception_resnet_v2", "model.width": 0.0625, "model.branch_width": b} for b in (16, 8, 2)]
    runs = frame([(each, survived()) for each in fields])
    factor = columns.factor(runs, "model.branch_width")
    assert factor.levels == ("56\n(×2)", "224\n(×8)", "448\n(×16)")
    assert factor.label == "filters into an up-projection (branch width factor)"
    none = columns.factor(runs.assign(**{"model.name": "resnet20_cifar"}), "model.branch_width")
    assert none.levels == ("×2", "×8", "×16") and none.label == "branch width (factor on filters)"
    assert columns.factor(runs.assign(**{"model.width": None}), "model.branch_width").levels == none.levels


def test_a_width_with_several_filter_counts_is_shown_as_a_factor(tmp_path: Path) -> None:
    for scale in (1.0, 0.1):
        write_run(tmp_path, config(0.125, scale), survived())
    runs = load(tmp_path)
    runs["prepool/units"] = [260, 300]
    assert columns.factor(runs, "model.width").levels == ("×1/8",)


def test_a_column_of_many_values_is_cut_into_intervals(tmp_path: Path) -> None:
    rates = np.geomspace(1e-3, 1, 20)
    for rate in rates:
        write_run(tmp_path, config(lr=float(rate)), survived())
    runs = load(tmp_path)
    factor = columns.factor(runs, "optim.lr")
    assert len(factor.levels) == columns.INTERVALS and factor.levels[0].startswith("0.001 to ")
    by_rate = factor.codes[runs["optim.lr"].sort_values().index]
    assert by_rate.is_monotonic_increasing and set(by_rate) == set(range(columns.INTERVALS))


def test_an_unknown_column_is_unusable_input_with_a_suggestion(quickstart: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'model\.widht'.*did you mean 'model\.width'"):
        phase_map.phase_map(load(quickstart), x="model.widht")


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ([config(0.125, 1.0), config(0.25, 0.1)], ("model.width", "model.residual_scale")),
        ([config(lr=0.1), config(lr=0.2)], ("model.width", "optim.lr")),
        ([config(scale=1.0, lr=0.1), config(scale=0.1, lr=0.2)], ("model.residual_scale", "optim.lr")),
        ([config(seed=0), config(seed=1)], ("model.width", "model.residual_scale")),
    ],
)
def test_figures_are_drawn_over_what_varies(tmp_path: Path, changes: list[RunConfig], chosen: tuple[str, str]) -> None:
    for run in changes:
        write_run(tmp_path, run, survived())
    assert columns.choose(load(tmp_path)) == chosen


def test_what_an_optimizer_brings_with_it_is_no_factor(tmp_path: Path) -> None:
    for optimizer in (OptimConfig(), OptimConfig(name="sgd"), OptimConfig(name="adam")):
        for width in (0.125, 0.25):
            run = RunConfig(model=ModelConfig(width=width), optim=optimizer)
            write_run(tmp_path, run, survived())
    runs = load(tmp_path)
    assert "optim.eps" in columns.varying(runs)
    assert columns.candidates(runs) == ["model.width", "optim.name"]


def test_the_order_of_replicas_is_a_column_only_where_it_is_more_than_whether_there_are_any() -> None:
    runs = pd.DataFrame({"optim.replicas": [1, 2, 4], "optim.replica_order": [None, "round_robin", "round_robin"]})
    assert columns.candidates(runs) == ["optim.replicas"]
    both = pd.concat([runs, pd.DataFrame({"optim.replicas": [4], "optim.replica_order": ["random"]})])
    assert columns.candidates(both) == ["optim.replicas", "optim.replica_order"]


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_map_writes_counts_and_intervals_into_its_cells(quickstart: Path) -> None:
    figure = phase_map.phase_map(load(quickstart))
    written = texts(figure)
    assert [written.count(count) for count in ("3/3", "1/3", "0/3")] == [3, 2, 4]
    assert "44–100 %" in written and "6–79 %" in written
    assert "11 of 27 finished runs died" in written
    caption = style.caption_of(figure)
    assert "n = 3 runs a cell" in caption and "Survivors were followed to step 200" in caption
    assert drawable(figure)


def test_the_map_shows_runs_that_did_not_finish(tmp_path: Path) -> None:
    write_run(tmp_path, config(0.125, 1.0), None, failure="killed")
    write_run(tmp_path, config(0.25, 0.1), survived())
    figure = phase_map.phase_map(load(tmp_path))
    written = texts(figure)
    assert written.count("1 failed") == 1 and written.count("no run") == 2 and written.count("0/1") == 1
    caption = style.caption_of(figure)
    assert "Not counted: 1 failed." in caption and "one run a cell, so no interval" in caption


def test_survivors_with_every_unit_dead_when_last_seen_are_told_from_healthy_ones(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), survived())
    late = RunDirectory(tmp_path / "runs" / config(seed=1).run_id)
    with late.lock():
        late.write_config(config(seed=1), {})
        for row in rows(260, survived(), alive_share=1.0):
            late.append(row)
        late.finish(survived())
    runs = load(tmp_path)
    counts = cells(runs, "model.width", "model.residual_scale")
    assert (one(counts, 0, 0, "died"), one(counts, 0, 0, "dead"), one(counts, 0, 0, "finished")) == (0, 1, 2)
    figure = phase_map.phase_map(runs)
    assert "1 all dead" in texts(figure) and "too late to be confirmed" in style.caption_of(figure)
    status = read_status(tmp_path)
    assert status.as_dict()["dead_when_last_seen"] == 1
    console = Console(width=100, record=True)
    console.print(status_table(status))
    assert "survived, but with every pre-pool unit dead when last seen: 1" in console.export_text()


def test_a_third_factor_divides_the_map_into_panels(tmp_path: Path) -> None:
    for rate in (0.1, 0.5):
        for width in (0.125, 0.25):
            for scale in (1.0, 0.1):
                write_run(tmp_path, config(width, scale, lr=rate), died(40) if rate == 0.5 else survived())
    figure = phase_map.phase_map(load(tmp_path))
    panels = {panel.get_title(loc="left"): [text.get_text() for text in panel.texts] for panel in figure.axes}
    assert panels["learning rate = 0.1"] == ["0/1"] * 4
    assert panels["learning rate = 0.5"] == ["1/1"] * 4


def test_too_many_further_factors_are_pooled_and_the_caption_says_so(tmp_path: Path) -> None:
    for number in range(phase_map.MOST_PANELS + 1):
        for width in (0.125, 0.25):
            for scale in (1.0, 0.1):
                write_run(tmp_path, config(width, scale, lr=0.1 + 0.1 * number), died(40))
    figure = phase_map.phase_map(load(tmp_path))
    assert texts(figure).count("7/7") == 4
    assert "Runs that differ in optim.lr are counted together." in style.caption_of(figure)


def test_every_run_has_its_line_of_dead_units(quickstart: Path) -> None:
    runs = load(quickstart)
    rows = load_rows(quickstart, runs)
    figure = course.unit_share(runs, rows)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == [f"pre-pool filters: {units}" for units in ("130 (×1/16)", "260 (×1/8)", "520 (×1/4)")]
    for panel, width in zip(figure.axes, (1 / 16, 1 / 8, 1 / 4), strict=True):
        lines = [path for part in panel.collections if isinstance(part, LineCollection) for path in part.get_paths()]
        ends = sorted(float(np.asarray(path.vertices)[-1, 1]) for path in lines)
        died_here = (runs["model.width"] == width) & (runs["outcome"] == "died")
        assert ends == [0.1] * (9 - died_here.sum()) + [1.0] * died_here.sum()
    assert drawable(figure)


def test_dead_units_without_such_readings_are_unusable_input(quickstart: Path) -> None:
    runs = load(quickstart)
    rows = load_rows(quickstart, runs).drop(columns="prepool/dead_share_batch")
    with pytest.raises(InputError, match=r"no metric 'prepool/dead_share_batch'.*did you mean 'prepool/"):
        course.unit_share(runs, rows)


def test_deaths_are_drawn_as_the_intervals_that_the_checks_left(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), died(50))
    write_run(tmp_path, config(seed=1), survived(200))
    write_run(tmp_path, config(seed=2), outcome("died", 10))  # dead at its first check
    figure = course.event_steps(load(tmp_path))
    bars = [path for part in figure.axes[0].collections for path in part.get_paths()]
    spans = [np.asarray(bar.vertices)[:, 0].tolist() for bar in bars]
    assert sorted(spans) == [[0, 10], [0, 200], [40, 50]]
    marks = {line.get_marker(): sorted(np.asarray(line.get_xdata()).tolist()) for line in figure.axes[0].lines}
    assert marks == {"o": [10, 50], ">": [200]}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["died", "survived"]


@pytest.mark.parametrize(
    "fate",
    [lambda *_: died(40), lambda *_: survived(), lambda *_: outcome("collapsed", 40, 30)],
    ids=["all-died", "none-died", "all-collapsed"],
)
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_all_figures_work_when_all_died_or_none(
    tmp_path: Path, fate: Callable[[float, float, int], Outcome], seeds: list[int]
) -> None:
    write_grid(tmp_path, fate, widths=[0.125], scales=[1.0, 0.1], seeds=seeds)
    runs = load(tmp_path)
    rows = load_rows(tmp_path, runs)
    assert drawable(course.unit_share(runs, rows, "inert"))
    assert drawable(course.event_steps(runs))


def test_figures_are_functions_of_their_frames_only(quickstart: Path) -> None:
    def settings() -> dict[str, object]:
        return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}

    runs = load(quickstart)
    before, found = runs.copy(), settings()
    images = [style.image(phase_map.phase_map(runs), kind) for kind in ("svg", "svg", "png", "png")]
    assert images[0] == images[1] and images[2] == images[3]
    pd.testing.assert_frame_equal(runs, before)
    assert settings() == found
