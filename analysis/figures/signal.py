"""How the signal passes the blocks of a network, and how large its updates are.

Every figure has a column of panels for each entry of a mapping from words to data, so that runs stand side by side.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.side_by_side import (
    MOST_LINES_NAMED,
    STEP,
    draw_line,
    edge_words,
    evenly,
    label_steps,
    line_look,
    one_scale,
    short,
    side_by_side,
    step_axis,
)
from harness.located import InputError

Floats = NDArray[np.float64]
READINGS = r"block/b\d+/((skip|scaled|sum|output)/rms|rms_ratio|cosine)|update/.+/ratio"
"""The metrics that these figures take from rows, as a regular expression."""


class _Reading(NamedTuple):
    metric: str
    label: str
    log: bool


_PROPAGATION = (
    _Reading("skip/rms", "RMS of skip x", True),
    _Reading("scaled/rms", "RMS of branch αF", True),
    _Reading("sum/rms", "RMS of sum x + αF", True),
    _Reading("output/rms", "RMS of output", True),
    _Reading("rms_ratio", "RMS(αF) / RMS(x)", True),
    _Reading("cosine", "cosine of x and F", False),
)


def propagation(panels: Mapping[str, pd.DataFrame], steps: Sequence[int] | None = None, note: str = "") -> Figure:
    """Readings of the training batch at every block in forward order, one colour a step.

    `panels`: words -> rows of one run, or of several that differ in their seed, as `load_rows` gives them; of several,
    the line is the median and the band the range over those read at that step. `steps`: which to draw; left out,
    the first, the last and up to three between (see `spread`). A reading that no run has is left out. Raises
    InputError where there is none at all.
    """
    readings = [reading for reading in _PROPAGATION if any(_blocks(rows, reading.metric) for rows in panels.values())]
    if not readings:
        raise InputError(["no block/ metrics in these rows; the presets blocks and full have them"])
    if any(reading.metric == "sum/rms" for reading in readings):  # the output is the sum behind its ReLU
        readings = [reading for reading in readings if reading.metric != "output/rms"]
    steps = spread(_steps_read(rows, readings) for rows in panels.values()) if steps is None else steps
    profiles = {
        (line, column, step): _profile(rows, step, reading.metric)
        for column, rows in enumerate(panels.values())
        for line, reading in enumerate(readings)
        for step in steps
    }
    tones = style.colours(len(steps))
    looks = [line_look(tones, number) for number in range(len(steps))]
    legend = [(f"{step:,}", Line2D([], [], **look)) for step, look in zip(steps, looks, strict=True)]
    caption = "Of the training batch, over all its elements (RMS: root mean square), after `step` updates."
    if any(reading.metric.startswith("scaled") for reading in readings):
        caption += " x: what the skip carries; F: the branch; α: the residual scale; the sum is read before its ReLU."
    if any(rows["run_id"].nunique() > 1 for rows in panels.values()):
        caption += " Lines: median over the seeds; bands: their range; a run counts until its last reading."
    caption += edge_words(
        profile[0] for (line, _, _), profile in profiles.items() if readings[line].log and len(profile)
    )
    with style.applied():
        title = "Signal against depth"
        figure, grid = side_by_side(panels, len(readings), 1.25, title, f"{caption} {note}", legend, "step (updates)")
        for (line, column, step), profile in profiles.items():
            if len(profile):
                _draw_profile(grid[line, column], profile, readings[line].log, looks[list(steps).index(step)])
        for line, reading in enumerate(readings):
            grid[line, 0].set_ylabel(reading.label)
            one_scale(grid[line], reading.log)
        for column, rows in enumerate(panels.values()):
            blocks = max(len(_blocks(rows, reading.metric)) for reading in readings)
            for axis in grid[:, column]:
                axis.set_xlim(0.5, blocks + 0.5)
                axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        for axis in grid[-1]:
            axis.set_xlabel("block, in forward order")
    return figure


def spread(runs: Iterable[Iterable[int]], most: int = 5) -> list[int]:
    """Up to `most` steps to draw: the first, the last, and between them such as all runs read, equal in ratio.

    `runs` has the steps read of each; `most` is at least 3.
    """
    read = [set(steps) for steps in runs]
    every = sorted(set().union(*read))
    if not every:
        return []
    common = np.array(sorted(set.intersection(*read) - {every[0], every[-1]}) or every)
    low, high = max(1, common[0]), max(1, common[-1])
    if 2 * high > every[-1]:  # the last is near: stop a good way before it
        targets = np.geomspace(low, max(low, every[-1]), most - 1)[:-1]
    else:
        targets = np.geomspace(low, high, most - 2)
    between = {int(common[np.abs(np.log(np.maximum(common, 1) / target)).argmin()]) for target in targets}
    return sorted({every[0], every[-1]} | between)


def _blocks(rows: pd.DataFrame, metric: str) -> list[str]:
    """Names of the blocks that have a reading, in forward order."""
    matches = (re.fullmatch(rf"block/(b\d+)/{metric}", name) for name in map(str, rows.columns))
    return sorted((match[1] for match in matches if match), key=lambda block: int(block[1:]))


def _steps_read(rows: pd.DataFrame, readings: Sequence[_Reading]) -> list[int]:
    """Steps at which every run of the rows that goes so far has some of the readings."""
    names = [f"block/{block}/{reading.metric}" for reading in readings for block in _blocks(rows, reading.metric)]
    read = rows[rows[names].notna().any(axis=1)]
    counts = read.groupby("step")["run_id"].nunique()
    reach = read.groupby("run_id")["step"].max()
    return [int(step) for step in counts.index if counts[step] == (reach >= step).sum()]


def _profile(rows: pd.DataFrame, step: int, metric: str) -> Floats:
    """Median, least and greatest over the runs of a reading at every block: (3, blocks); (0,) if no run has it then."""
    names = [f"block/{block}/{metric}" for block in _blocks(rows, metric)]
    values = rows.loc[rows["step"] == step, names].to_numpy(dtype=np.float64)
    values = values[~np.isnan(values).all(axis=1)]
    if not values.size:
        return np.empty(0)
    missing = np.isnan(values).all(axis=0)
    filled = np.where(missing, 0.0, values)
    found = np.stack([function(filled, axis=0) for function in (np.nanmedian, np.nanmin, np.nanmax)])
    found[:, missing] = np.nan
    return found


def _draw_profile(axis: Axes, profile: Floats, log: bool, look: Mapping[str, Any]) -> None:
    depths = np.arange(1, profile.shape[1] + 1)
    middle, low, high = profile
    if not np.array_equal(low, high, equal_nan=True):
        drawn = np.isfinite(low) & np.isfinite(high) & (~log | (low > 0))
        axis.fill_between(depths, low, high, where=drawn, color=look["color"], alpha=0.18, linewidth=0)
    draw_line(axis, depths, middle, log, {**look, "markevery": max(1, len(depths) // 10)})


DRIFT = r"block/b\d+/((skip|scaled|sum)/mean|output/dead_share_batch)"
"""The metrics that `drift` takes from rows, as a regular expression."""


def drift(panels: Mapping[str, pd.DataFrame], block: int | None = None, note: str = "") -> Figure:
    """The mean of a residual sum and of its two parts against the step, and the units that its ReLU silences.

    `panels`: words -> rows of runs that differ in their seed. `block` counts from 1; left out, the last one. Raises
    InputError for rows without such readings.
    """
    parts = {"skip x": "skip/mean", "branch αF": "scaled/mean", "sum x + αF": "sum/mean"}
    found = [_blocks(rows, "sum/mean") for rows in panels.values()]
    if not all(found):
        raise InputError(["no block/.../mean metrics in these rows; the presets blocks and full have them"])
    looks = {words: line_look(style.colours(len(parts)), number, marked=False) for number, words in enumerate(parts)}
    which = "last residual sum" if block is None else f"residual sum of block {block}"
    caption = (
        f"Mean over all elements of the {which} and of its two parts, before its ReLU, on the training batch; below, "
        "the share of its units that the ReLU silences for the whole batch. Lines: median over the runs; bands: their "
        "range; a run counts until its last reading."
    )
    legend = [(words, Line2D([], [], **look)) for words, look in looks.items()]
    with style.applied():
        figure, grid = side_by_side(panels, 2, 1.9, f"What happens to the {which}", f"{caption} {note}", legend)
        for column, (rows, names) in enumerate(zip(panels.values(), found, strict=True)):
            place = f"block/{names[-1 if block is None else block - 1]}/"
            for words, metric in reversed(parts.items()):  # the branch ends up on top of the sum, which it becomes
                _draw_band(grid[0, column], rows, place + metric, looks[words])
            grid[0, column].axhline(0, color=style.MUTED, linewidth=0.8)
            _draw_band(grid[1, column], rows, place + "output/dead_share_batch", {"color": style.INK})
            grid[1, column].set(ylim=(-0.03, 1.04), xlabel=STEP)
        grid[0, 0].set_ylabel("mean")
        grid[1, 0].set_ylabel("dead units /\nunits")
        low, high = (end(axis.get_ylim()[side] for axis in grid[0]) for side, end in ((0, min), (1, max)))
        for axis in grid[0]:
            axis.set_ylim(low, high)
    return figure


def _draw_band(axis: Axes, rows: pd.DataFrame, metric: str, look: Mapping[str, Any]) -> None:
    """The median over runs of a metric against the step, and the range."""
    read = rows[["step", metric]].dropna().groupby("step")[metric]
    low, middle, high = read.min(), read.median(), read.max()
    steps = middle.index.to_numpy(dtype=np.float64)
    axis.plot(steps, middle.to_numpy(dtype=np.float64), linewidth=1.4, **look)
    ends = low.to_numpy(dtype=np.float64), high.to_numpy(dtype=np.float64)
    axis.fill_between(steps, *ends, color=look["color"], alpha=0.18, linewidth=0)


def update_ratios(panels: Mapping[str, pd.DataFrame], note: str = "") -> Figure:
    """RMS of an update over RMS of what it changed, against the step: one line a layer, weights and biases apart.

    `panels`: words -> rows of one run. The layers are the up-projections, in a network without any all that were read.
    Raises InputError for rows without such readings.
    """
    labels = {words: _updated(rows) for words, rows in panels.items()}
    kinds = [kind for kind in ("weight", "bias") if any(found[kind] for found in labels.values())]
    if not kinds:
        raise InputError(["no update/ metrics in these rows; the presets blocks and full have them"])
    up = any("up_projection" in name for found in labels.values() for name in found[kinds[0]])
    what = "up-projections" if up else "layers"
    zero = ", as biases are at first" if "bias" in kinds else ""
    longest = max((found[kind] for found in labels.values() for kind in kinds), key=len)
    tones = style.colours(len(longest))
    legend = [
        (short(longest[number]), Line2D([], [], **line_look(tones, number, marked=False)))
        for number in evenly(len(longest), MOST_LINES_NAMED)
    ]
    caption = (
        f"One line for each of the {what}, coloured in forward order: root mean square (RMS) of the optimizer's update "
        f"over that of the parameter before it. Not defined while a parameter is all zero{zero}."
    )
    caption += edge_words(
        panels[words][f"update/{name}/ratio"].to_numpy(dtype=np.float64)
        for words, found in labels.items()
        for name in itertools.chain(*found.values())
    )
    with style.applied():
        title = f"Size of updates, {what if up else 'every layer'}"
        figure, grid = side_by_side(panels, len(kinds), 1.9, title, f"{caption} {note}", legend, "layer")
        for column, (words, rows) in enumerate(panels.items()):
            for line, kind in enumerate(kinds):
                axis, names = grid[line, column], labels[words][kind]
                for number, name in enumerate(names):
                    read = rows[["step", f"update/{name}/ratio"]].dropna().to_numpy(dtype=np.float64)
                    look = line_look(style.colours(len(names)), number, marked=False)
                    draw_line(axis, read[:, 0], read[:, 1], True, look)
                step_axis(axis, rows["step"].to_numpy())
        for line, kind in enumerate(kinds):
            grid[line, 0].set_ylabel(f"RMS of update /\nRMS of {kind}")
            one_scale(grid[line], True)
        label_steps(grid)
    return figure


def _updated(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Labels of the parameters whose update ratio was read, weights and biases apart, in forward order."""
    names = [
        name[len("update/") : -len("/ratio")] for name in rows.columns if re.fullmatch("update/.+/ratio", str(name))
    ]
    up = [name for name in names if "up_projection." in name] or names
    return {kind: [name for name in up if name.endswith(f".{kind}")] for kind in ("weight", "bias")}
