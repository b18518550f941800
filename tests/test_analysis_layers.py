"""Inside the networks: what is drawn is what was read, and the report shows it where there is something to show."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from analysis.figures import dead_units, signal, style
from analysis.frames.load import load
from analysis.report import drawings, report
from analysis.report.layers import read_layers
from analysis.statistics import signal as signals
from analysis.statistics import unit_deaths
from harness.located import InputError
from harness.outcome import Outcome
from harness.store import RunDirectory
from harness.timeline import Timeline
from tests.analysis_folders import PROVENANCE, config, died, survived, write_run
from tests.test_report import read

STEPS = (0, 1, 2, 4, 8)


def timeline(dead: Mapping[str, Sequence[str]], steps: Sequence[int] = STEPS) -> Timeline:
    """From a line of marks for each unit, `#` where it is dead: one mark a step."""
    made = Timeline()
    for place, step in enumerate(steps):
        made.append(step, {name: np.array([unit[place] == "#" for unit in units]) for name, units in dead.items()})
    return made


DYING = {
    "layer/stem.activation": [".....", "....#"],
    "layer/stages.0.0.activation": ["..###", ".##.#", "....."],
    "block/b01/output": ["..###", ".##.#", "....."],
    "layer/stages.0.1.activation": ["...##", "...##"],
    "block/b02/output": ["...##", "...##"],
    "prepool": ["...##", "...##"],
}


def rows(run_id: str = "one", factor: float = 1.0, blocks: int = 3, steps: Sequence[int] = STEPS) -> pd.DataFrame:
    """Readings that tell block and step: skip/rms of block b at step s is factor * (b + 10 s)."""
    made: list[dict[str, Any]] = []
    for step in steps:
        row: dict[str, Any] = {"run_id": run_id, "step": step, "train/loss": 1.0}
        for block in range(1, blocks + 1):
            row[f"block/b{block:02}/skip/rms"] = factor * (block + 10 * step)
            row[f"block/b{block:02}/scaled/rms"] = factor * block
            row[f"block/b{block:02}/sum/rms"] = 2 * factor * block
            row[f"block/b{block:02}/output/rms"] = factor * block
            row[f"block/b{block:02}/rms_ratio"] = 0.0 if step == 8 else 0.1 * block
            row[f"block/b{block:02}/cosine"] = -0.1 * block
            row[f"update/b{block:02}/up_projection.weight/ratio"] = 0.01 * block
            row[f"update/b{block:02}/up_projection.bias/ratio"] = np.nan if step == 0 else 0.5 * block
        row["update/stem.conv.weight/ratio"], row["update/all/ratio"] = 7.0, 8.0
        made.append(row)
    return pd.DataFrame(made)


def lines(figure: Figure, panel: int) -> list[list[float]]:
    """What the lines of a panel show, triangles at its edges left out."""
    axis = figure.axes[panel]
    return [list(line.get_ydata()) for line in axis.get_lines() if line.get_linestyle() != "None"]  # type: ignore[arg-type]


def mesh(figure: Figure, panel: int = 0) -> np.ma.MaskedArray[Any, Any]:
    [found] = [each for each in figure.axes[panel].collections if isinstance(each, QuadMesh)]
    values = found.get_array()
    assert values is not None
    return np.ma.asarray(values)


# -- the signal ----------------------------------------------------------------------------------------------------


def test_the_signal_is_drawn_at_its_block_and_step() -> None:
    figure = signal.propagation({"": rows()}, steps=[0, 4])
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["RMS of skip x", "RMS of branch αF", "RMS of sum x + αF", "RMS(αF) / RMS(x)", "cosine of x and F"]
    assert lines(figure, 0) == [[1, 2, 3], [41, 42, 43]]
    assert lines(figure, 4) == [pytest.approx([-0.1, -0.2, -0.3])] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "4"]
    assert "seeds" not in style.caption_of(figure) and "Triangles" not in style.caption_of(figure)


def test_blocks_stand_in_the_order_of_their_numbers() -> None:
    frame = rows(blocks=12)
    mixed = frame[sorted(frame.columns, reverse=True)]
    assert lines(signal.propagation({"": mixed}, steps=[0]), 0) == [list(range(1, 13))]


def test_of_several_seeds_the_median_and_the_range_are_drawn() -> None:
    both = pd.concat([rows("one", 1.0), rows("two", 2.0), rows("three", 6.0, steps=(0, 1))])
    figure = signal.propagation({"": both}, steps=[0, 4])
    assert lines(figure, 0) == [[2, 4, 6], pytest.approx([61.5, 63, 64.5])], "at step 4 two runs are left"
    band = figure.axes[0].patches[0].get_path().get_extents()
    assert (band.y0, band.y1) == (1, 18)
    assert "median over the seeds; bands: their range" in style.caption_of(figure)


def test_what_a_logarithm_cannot_show_stands_at_the_edge_and_is_told() -> None:
    figure = signal.propagation({"": rows()}, steps=[0, 8])
    marks = [line for line in figure.axes[3].get_lines() if line.get_linestyle() == "None"]
    assert [list(mark.get_xdata()) for mark in marks] == [[1, 2, 3]]  # type: ignore[arg-type]
    assert np.isnan(lines(figure, 3)[1]).all()
    assert "Triangles at a panel's edge: exactly zero." in style.caption_of(figure)


def test_without_residual_sums_the_outputs_are_drawn() -> None:
    frame = rows().filter(regex="run_id|step|output")
    [axis] = signal.propagation({"": frame}).axes
    assert axis.get_ylabel() == "RMS of output"


def test_a_run_without_a_reading_leaves_its_panel_empty() -> None:
    figure = signal.propagation({"some": rows(), "fewer": rows().drop(columns=rows().filter(regex="cosine").columns)})
    assert len(figure.axes) == 10 and len(lines(figure, 8)) == 5 and lines(figure, 9) == []


def test_the_drift_of_a_sum_and_its_parts_is_the_median_of_the_runs() -> None:
    def drifting(run: str, fall: float) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "run_id": run,
                "step": [0, 10],
                "block/b01/sum/mean": [9.0, 9.0],
                "block/b02/skip/mean": [1.0, 0.0],
                "block/b02/scaled/mean": [0.0, -fall],
                "block/b02/sum/mean": [1.0, -fall],
                "block/b02/output/dead_share_batch": [0.0, 1.0],
            }
        )

    both = pd.concat([drifting("one", 1.0), drifting("two", 2.0), drifting("three", 6.0)])
    figure = signal.drift({"": both})
    total, branch, skip, zero = lines(figure, 0)
    assert (branch, total, skip, zero) == ([0, -2], [1, -2], [1, 0], [0, 0])
    assert lines(figure, 1) == [[0, 1]]
    band = figure.axes[0].patches[0].get_path().get_extents()
    assert (band.y0, band.y1) == (-6, 1)


def test_readings_that_are_all_missing_draw_nothing() -> None:
    frame = rows()
    frame[frame.filter(regex="cosine").columns] = np.nan
    assert lines(signal.propagation({"": frame}), 4) == []


@pytest.mark.parametrize("figure", [signal.propagation, signal.update_ratios, signal.drift])
def test_rows_without_readings_of_layers_are_unusable_input(figure: Any) -> None:
    with pytest.raises(InputError, match="the presets blocks and full have them"):
        figure({"": pd.DataFrame({"run_id": ["one"], "step": [0], "train/loss": [1.0]})})


def test_the_steps_drawn_are_the_first_the_last_and_common_ones_between() -> None:
    assert signals.spread([STEPS, (0, 1, 2, 4)]) == [0, 1, 2, 4, 8]
    found = signals.spread([range(0, 1001), [0, 1, 10, 100]])
    assert found == [0, 1, 10, 100, 1000]
    assert signals.spread([range(0, 10001)]) == [0, 1, 22, 464, 10000]
    assert signals.spread([[0]]) == [0] and signals.spread([]) == [] and signals.spread([[5], [7]]) == [5, 7]


# -- updates -------------------------------------------------------------------------------------------------------


def test_weights_and_biases_of_up_projections_stand_apart() -> None:
    figure = signal.update_ratios({"": rows()})
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "RMS of update /\nRMS of weight",
        "RMS of update /\nRMS of bias",
    ]
    assert lines(figure, 0) == [[pytest.approx(0.01 * block)] * 5 for block in (1, 2, 3)]
    assert lines(figure, 1) == [[0.5 * block] * 4 for block in (1, 2, 3)], "not defined at step 0"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b01", "b02", "b03"]


def test_without_up_projections_all_layers_are_drawn() -> None:
    frame = rows().drop(columns=rows().filter(regex="up_projection").columns)
    figure = signal.update_ratios({"": frame})
    assert lines(figure, 0) == [[7.0] * 5] and len(figure.axes) == 1


# -- deaths --------------------------------------------------------------------------------------------------------


def test_a_layer_read_under_two_names_is_shown_once() -> None:
    assert unit_deaths.layers_of(timeline(DYING)) == ("layer/stem.activation", "block/b01/output", "prepool")
    other = DYING | {"layer/stages.0.0.activation": ["..###", ".##.#", "....#"]}
    assert "layer/stages.0.0.activation" in unit_deaths.layers_of(timeline(other))
    alive = timeline({"block/b01/output": ["....."], "block/b02/output": ["....."]})
    assert len(unit_deaths.layers_of(alive)) == 2, "two blocks without a dead unit are two"


def test_the_map_has_the_shares_of_every_layer() -> None:
    figure = dead_units.share_map({"": timeline(DYING)}, "probe")
    expected = np.array([[0, 0, 0, 0, 0.5], [0, 1 / 3, 2 / 3, 1 / 3, 2 / 3], [0, 0, 0, 1, 1]])
    np.testing.assert_allclose(mesh(figure), expected)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["stem", "b01", "prepool"]
    assert "fixed probe set" in style.caption_of(figure)


def test_a_layer_that_is_read_more_rarely_keeps_its_last_reading() -> None:
    made = timeline({"layer/a": ["#...#"]})
    late = Timeline.from_arrays(made.to_arrays())
    late.append(20, {"layer/b": np.array([True, False])})
    late.append(30, {"layer/a": np.array([False])})
    steps, shares = unit_deaths.dead_shares(late, late.layers)
    assert list(steps) == [*STEPS, 20, 30]
    np.testing.assert_array_equal(shares, [[1, 0, 0, 0, 1, 1, 0], [np.nan] * 5 + [0.5, 0.5]])


def test_the_raster_sorts_units_by_their_death_and_shows_revivals() -> None:
    made = timeline({"layer/a": [".....", "...##", ".#.#.", ".####", "#...."]})
    steps, states = unit_deaths.unit_states(made, "layer/a")
    assert list(steps) == list(STEPS)
    assert ["".join(".#o"[state] for state in unit) for unit in states] == ["#oooo", ".####", ".#o#o", "...##", "....."]
    figure = dead_units.raster({"": made}, {"": "layer/a"})
    np.testing.assert_array_equal(mesh(figure), states)
    caption = style.caption_of(figure)
    assert "Dead at the last reading: 2 of 5 units of a (2 revived at least once)." in caption


def test_the_raster_is_of_the_prepool_layer_or_else_of_the_last_one() -> None:
    assert "2 of 2 units of prepool (0 revived" in style.caption_of(dead_units.raster({"": timeline(DYING)}))
    others = {name: units for name, units in DYING.items() if name != "prepool"}
    assert "2 of 2 units of b02 (" in style.caption_of(dead_units.raster({"": timeline(others)}))


@pytest.mark.parametrize(("unit", "state"), [("#####", 1), (".....", 0)])
def test_all_dead_and_none_dead_are_one_colour(unit: str, state: int) -> None:
    made = timeline({"layer/a": [unit] * 3, "prepool": [unit] * 4})
    assert (mesh(dead_units.raster({"": made})) == state).all()
    assert (mesh(dead_units.share_map({"": made})) == state).all()
    [found] = unit_deaths.firsts({"run": made}).to_dict("records")
    if state:
        assert (found["layer"], found["step"], found["at_once"]) == ("layer/a", 0, 2) and pd.isna(found["alive_before"])
    else:
        assert pd.isna(found["layer"]) and pd.isna(found["step"])


def test_a_single_reading_is_drawn() -> None:
    made = timeline({"prepool": ["#", "."]}, steps=[0])
    assert mesh(dead_units.raster({"": made})).shape == (2, 1)
    style.image(dead_units.share_map({"": made}), "png")


@pytest.mark.parametrize("figure", [dead_units.raster, dead_units.share_map])
def test_timelines_without_readings_are_unusable_input(figure: Any) -> None:
    for nothing in ({}, {"": Timeline()}):
        with pytest.raises(InputError, match="no readings of layers"):
            figure(nothing)


def test_the_step_axis_is_logarithmic_where_most_readings_are_early() -> None:
    early = timeline({"prepool": ["." * 9]}, steps=[0, 1, 2, 4, 8, 16, 32, 100, 1000])
    late = timeline({"prepool": ["." * 4]}, steps=[0, 50, 100, 150])
    assert dead_units.raster({"": early}).axes[0].get_xscale() == "symlog"
    assert dead_units.raster({"": late}).axes[0].get_xscale() == "linear"


def test_the_first_layer_to_lose_a_share() -> None:
    none = timeline({"prepool": ["....."]})
    table = unit_deaths.firsts({"dying": timeline(DYING), "none": none}, 0.5)
    assert list(table["run"]) == ["dying", "none"]
    first = table.iloc[0]
    assert (first["layer"], first["depth"], first["layers"]) == ("block/b01/output", 2, 3)
    assert (first["alive_before"], first["step"], first["at_once"]) == (1, 2, 1)
    all_lost = unit_deaths.firsts({"dying": timeline(DYING)}, 1.0).iloc[0]
    assert (all_lost["layer"], all_lost["step"]) == ("prepool", 4)
    assert len(unit_deaths.firsts({})) == 0
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        unit_deaths.firsts({"none": none}, 1.5)


# -- the report ----------------------------------------------------------------------------------------------------


def write(out: Path, seed: int, scale: float, end: Outcome, dead: Mapping[str, Sequence[str]] | None = DYING) -> str:
    """A run with readings of layers."""
    run = config(scale=scale, seed=seed)
    directory = RunDirectory(out / "runs" / run.run_id)
    with directory.lock():
        directory.write_config(run, PROVENANCE)
        for row in rows().drop(columns="run_id").to_dict("records"):
            directory.append({str(key): value for key, value in row.items()})
        if dead is not None:
            directory.write_timelines({"batch": timeline(dead).to_arrays(), "probe": Timeline().to_arrays()})
        directory.finish(end)
    return run.run_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inside")
    for seed in (0, 1):
        write(out, seed, 1.0, died(40) if seed else survived())
        write(out, seed, 0.1, survived(), {"prepool": ["....."]})
    write_run(out, config(scale=0.3), survived())
    return out


def test_what_is_inside_counts_every_run_and_shows_a_few(folder: Path) -> None:
    found = read_layers(folder, load(folder))
    assert found is not None and found.count == 4 and len(found.rows) == 2 and not found.damaged
    assert "Shown: 2 of 4 runs with readings of layers" in found.choice
    assert list(found.cells) == ["residual scale α = 0.1, 2 seeds", "residual scale α = 1, 2 seeds"]
    assert [frame["run_id"].nunique() for frame in (*found.cells.values(), *found.rows.values())] == [2, 2, 1, 1]
    assert list(found.rows)[1] == "residual scale α = 1, seed 1: died at step 40"
    assert len(found.losses[1.0]) == 4 and set(found.losses[1.0]["set"]) == {"batch"}
    drawn = dict(drawings.of_layers(found))
    assert list(drawn) == ["propagation", "layer_deaths", "unit_deaths", "update_ratios"]
    assert all("Shown: 2 of 4 runs" in style.caption_of(figure) for figure in drawn.values())


def test_the_first_layer_to_die_is_drawn_where_it_is_not_the_prepool_one(tmp_path: Path) -> None:
    write(tmp_path, 0, 1.0, died(40), DYING | {"layer/stem.activation": ["..###", ".####"]})
    found = read_layers(tmp_path, load(tmp_path))
    assert found is not None and found.choice == ""
    assert "2 of 2 units of stem (" in style.caption_of(dict(drawings.of_layers(found))["unit_deaths_first"])


def test_the_report_has_a_section_on_the_networks(folder: Path) -> None:
    page = read(report.write(folder))
    assert "Inside the networks" in page.words and not page.open
    assert len(page.ids) == len(set(page.ids))
    assert (folder / "figures" / "layer_deaths.png").exists()
    table = {line["run"]: line for line in page.table("first to lose 50 %")}
    assert len(table) == 4
    line = table[config(scale=1.0, seed=1).run_id]
    assert (line["outcome"], line["read on"], line["first to lose 50 %"]) == (
        "died",
        "training batch",
        "block/b01/output",
    )
    assert line["first to lose 100 %"] == "prepool"
    head = next(table for table in page.tables if "first to lose 50 %" in table[0])[0]
    assert head.count("in steps") == 2 and line["in steps"] == "(2, 4]"


def test_a_report_without_readings_of_layers_has_no_such_section(tmp_path: Path) -> None:
    write_run(tmp_path, config(), died(40))
    assert read_layers(tmp_path, load(tmp_path)) is None
    assert "Inside the networks" not in read(report.write(tmp_path)).words


def test_rows_alone_and_an_unfinished_run_have_a_report(tmp_path: Path) -> None:
    run = config(scale=1.0)
    directory = RunDirectory(tmp_path / "runs" / run.run_id)
    directory.path.mkdir(parents=True)
    directory.write_config(run, PROVENANCE)
    for row in rows().drop(columns="run_id").to_dict("records"):
        directory.append({str(key): value for key, value in row.items()})
    page = read(report.write(tmp_path))
    assert "Inside the networks" in page.words and "first to lose" not in page.words
    assert (tmp_path / "figures" / "propagation.svg").exists()


def test_damaged_timelines_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run_id = write(tmp_path, 0, 1.0, died(40))
    write(tmp_path, 1, 1.0, died(40))
    RunDirectory(tmp_path / "runs" / run_id).file("timelines.npz").write_bytes(b"not what it was")
    page = read(report.write(tmp_path))
    assert re.search(rf"Left out: \S*{run_id}/timelines\.npz: damaged", page.words)
    assert len(page.table("first to lose 50 %")) == 1
