"""Inside a network while it trains: how the signal passes its blocks, and which layers lose which units, and when.

Every figure has a column of panels for each entry of a mapping from words to data, so that runs stand side by side.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from analysis import style
from harness.located import InputError
from harness.timeline import Timeline

Source = Literal["batch", "probe"]
Floats = NDArray[np.float64]

READINGS = r"block/b\d+/((skip|scaled|sum|output)/rms|rms_ratio|cosine)|update/.+/ratio"
"""The metrics that these figures take from rows, as a regular expression."""

_SETS = {"batch": "the training batch", "probe": "the fixed probe set (train-mode batch-norm)"}
_STEP = "step (updates of the weights)"
_ALIVE, _DEAD, _REVIVED = "#e9eff3", "#101214", "#e39a5b"
_MOST_LABELS = 36
_MOST_LINES_NAMED = 6


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


# -- the signal against depth ------------------------------------------------------------------------------------------


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
    looks = [_look(tones, number) for number in range(len(steps))]
    legend = [(f"{step:,}", Line2D([], [], **look)) for step, look in zip(steps, looks, strict=True)]
    caption = "Of the training batch, over all its elements (RMS: root mean square), after `step` updates."
    if any(reading.metric.startswith("scaled") for reading in readings):
        caption += " x: what the skip carries; F: the branch; α: the residual scale; the sum is read before its ReLU."
    if any(rows["run_id"].nunique() > 1 for rows in panels.values()):
        caption += " Lines: median over the seeds; bands: their range; a run counts until its last reading."
    caption += _edge_words(
        profile[0] for (line, _, _), profile in profiles.items() if readings[line].log and len(profile)
    )
    with style.applied():
        title = "Signal against depth"
        figure, grid = _grid(panels, len(readings), 1.25, title, f"{caption} {note}", legend, "step (updates)")
        for (line, column, step), profile in profiles.items():
            if len(profile):
                _draw_profile(grid[line, column], profile, readings[line].log, looks[list(steps).index(step)])
        for line, reading in enumerate(readings):
            grid[line, 0].set_ylabel(reading.label)
            _one_scale(grid[line], reading.log)
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
    _draw_line(axis, depths, middle, log, {**look, "markevery": max(1, len(depths) // 10)})


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
    looks = {words: _look(style.colours(len(parts)), number, marked=False) for number, words in enumerate(parts)}
    which = "last residual sum" if block is None else f"residual sum of block {block}"
    caption = (
        f"Mean over all elements of the {which} and of its two parts, before its ReLU, on the training batch; below, "
        "the share of its units that the ReLU silences for the whole batch. Lines: median over the runs; bands: their "
        "range; a run counts until its last reading."
    )
    legend = [(words, Line2D([], [], **look)) for words, look in looks.items()]
    with style.applied():
        figure, grid = _grid(panels, 2, 1.9, f"What happens to the {which}", f"{caption} {note}", legend)
        for column, (rows, names) in enumerate(zip(panels.values(), found, strict=True)):
            place = f"block/{names[-1 if block is None else block - 1]}/"
            for words, metric in reversed(parts.items()):  # the branch ends up on top of the sum, which it becomes
                _draw_band(grid[0, column], rows, place + metric, looks[words])
            grid[0, column].axhline(0, color=style.MUTED, linewidth=0.8)
            _draw_band(grid[1, column], rows, place + "output/dead_share_batch", {"color": style.INK})
            grid[1, column].set(ylim=(-0.03, 1.04), xlabel=_STEP)
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


# -- the sizes of updates ----------------------------------------------------------------------------------------------


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
        (_short(longest[number]), Line2D([], [], **_look(tones, number, marked=False)))
        for number in _evenly(len(longest), _MOST_LINES_NAMED)
    ]
    caption = (
        f"One line for each of the {what}, coloured in forward order: root mean square (RMS) of the optimizer's update "
        f"over that of the parameter before it. Not defined while a parameter is all zero{zero}."
    )
    caption += _edge_words(
        panels[words][f"update/{name}/ratio"].to_numpy(dtype=np.float64)
        for words, found in labels.items()
        for name in itertools.chain(*found.values())
    )
    with style.applied():
        title = f"Size of updates, {what if up else 'every layer'}"
        figure, grid = _grid(panels, len(kinds), 1.9, title, f"{caption} {note}", legend, "layer")
        for column, (words, rows) in enumerate(panels.items()):
            for line, kind in enumerate(kinds):
                axis, names = grid[line, column], labels[words][kind]
                for number, name in enumerate(names):
                    read = rows[["step", f"update/{name}/ratio"]].dropna().to_numpy(dtype=np.float64)
                    look = _look(style.colours(len(names)), number, marked=False)
                    _draw_line(axis, read[:, 0], read[:, 1], True, look)
                _step_axis(axis, rows["step"].to_numpy())
        for line, kind in enumerate(kinds):
            grid[line, 0].set_ylabel(f"RMS of update /\nRMS of {kind}")
            _one_scale(grid[line], True)
        _label_steps(grid)
    return figure


def _updated(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Labels of the parameters whose update ratio was read, weights and biases apart, in forward order."""
    names = [
        name[len("update/") : -len("/ratio")] for name in rows.columns if re.fullmatch("update/.+/ratio", str(name))
    ]
    up = [name for name in names if "up_projection." in name] or names
    return {kind: [name for name in up if name.endswith(f".{kind}")] for kind in ("weight", "bias")}


# -- deaths of units ---------------------------------------------------------------------------------------------------


def layers_of(timeline: Timeline) -> tuple[str, ...]:
    """The layers of a timeline in forward order, such as were read under two names once.

    The activation at the end of a block is the block's output, and the last block's output may be what is pooled: of
    two neighbours with the same dead units at every reading the second name stays, where it is one of these.
    """
    pairs = itertools.pairwise([*timeline.layers, ""])
    return tuple(layer for layer, after in pairs if not (_renames(layer, after) and _equal(timeline, layer, after)))


def _renames(layer: str, after: str) -> bool:
    return after == "prepool" or (_is_output(after) and not _is_output(layer))


def _is_output(layer: str) -> bool:
    return layer == "prepool" or layer.endswith("/output")


def _equal(timeline: Timeline, one: str, other: str) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(timeline.raster(one), timeline.raster(other), strict=True))


def firsts(timelines: Mapping[str, Timeline], share: float = 1.0) -> pd.DataFrame:
    """The first layer of each run to lose at least a share of its units, in (0, 1].

    One row for each entry, in their order. Columns: `run`, its name; `layer`; `depth`, its number in the forward pass
    from 1 on, of `layers`; `alive_before` and `step`, which enclose the loss (steps of readings; `alive_before` is
    missing where the first reading shows it); `at_once`, layers that reached the share at this very reading, itself
    included, of which it is the first in the forward pass. Missing where no layer lost that share. Raises ValueError
    for a share out of its range.
    """
    columns = ["run", "layer", "depth", "layers", "alive_before", "step", "at_once"]
    found: list[dict[str, Any]] = []
    for run, timeline in timelines.items():
        names = layers_of(timeline)
        deaths = [death for death in timeline.order(share) if death.layer in names]
        row: dict[str, Any] = {"run": run, "layers": len(names)}
        if deaths:
            first = deaths[0]
            row |= {"layer": first.layer, "depth": names.index(first.layer) + 1, "step": first.step}
            row |= {"alive_before": first.alive_before if first.alive_before >= 0 else None}
            row |= {"at_once": sum(death.step == first.step for death in deaths)}
        found.append(row)
    return pd.DataFrame(found, columns=columns).astype(dict.fromkeys(columns[2:], "Int64"))


def raster(
    timelines: Mapping[str, Timeline],
    layers: Mapping[str, str] | None = None,
    source: Source = "batch",
    note: str = "",
) -> Figure:
    """Units by steps: when each unit of one layer was dead, sorted by the reading at which it first was.

    `layers`: for each entry the layer to draw; left out, the pre-pool layer, or the last one where there is no such.
    `source`: what the timelines were read on, for the caption. Raises InputError where there are no readings, KeyError
    for an unknown layer.
    """
    _demand_readings(timelines)
    chosen = layers or {words: _prepool(timeline) for words, timeline in timelines.items()}
    names = {words: _short(layer) for words, layer in chosen.items()}
    caption = (
        "One line a unit (channel), in order of the reading at which it first was dead, that is zero at every position "
        f"of {_SETS[source]}. A reading holds until the next one."
    )
    counts = [_count(timeline, chosen[words]) for words, timeline in timelines.items()]
    caption += f" Dead at the last reading{', from left to right' if len(counts) > 1 else ''}: {', '.join(counts)}."
    looks = {"alive so far": _ALIVE, "dead": _DEAD, "alive again": _REVIVED}
    legend = [(word, Patch(facecolor=tone, edgecolor=style.MUTED, linewidth=0.5)) for word, tone in looks.items()]
    with style.applied():
        figure, grid = _grid(timelines, 1, 2.4, "Deaths of units", f"{caption} {note}", legend)
        for axis, (words, timeline) in zip(grid[0], timelines.items(), strict=True):
            steps, states = unit_states(timeline, chosen[words])
            _mesh(axis, steps, states, ListedColormap(list(looks.values())), 2)
            axis.set_ylim(len(states), 0)
            axis.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            if axis is grid[0, 0] or len(set(names.values())) > 1:
                axis.set_ylabel(f"units of {names[words]}")
        _label_steps(grid)
    return figure


def _count(timeline: Timeline, layer: str) -> str:
    (_, dead), revivals = timeline.raster(layer), timeline.deaths(layer).revivals
    units = f"{np.count_nonzero(dead[:, -1]):,} of {style.count(len(dead), 'unit')} of {_short(layer)}"
    return f"{units} ({np.count_nonzero(revivals):,} revived at least once)"


def unit_states(timeline: Timeline, layer: str) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Steps (R,) and the state of each unit at each, (C, R): 0 alive so far, 1 dead, 2 alive again.

    Units in order of the reading at which they first were dead, the longest dead first, those that never were at the
    end. Raises KeyError for an unknown layer.
    """
    (steps, dead), deaths = timeline.raster(layer), timeline.deaths(layer)
    order = np.lexsort((-deaths.dead_steps, deaths.onset, deaths.onset < 0))
    dead = dead[order]
    states = np.where(dead, 1, 2 * np.logical_or.accumulate(dead, axis=1))
    return steps, states.astype(np.int8)


def share_map(timelines: Mapping[str, Timeline], source: Source = "batch", note: str = "") -> Figure:
    """Layers by steps: the share of dead units of every layer, layers in forward order from the top.

    `source`: what the timelines were read on, for the caption. Raises InputError where there are no readings.
    """
    _demand_readings(timelines)
    caption = (
        "Share of a layer's units (channels) that are dead: zero at every position of "
        f"{_SETS[source]}. A reading holds until the next one."
    )
    names = {words: layers_of(timeline) for words, timeline in timelines.items()}
    if any(_is_output(layer) for found in names.values() for layer in found):
        caption += " b01, b02, ... are the outputs of blocks."
    height = min(6.5, max(1.5, 0.115 * max(map(len, names.values()))))
    with style.applied():
        figure, grid = _grid(timelines, 1, height, "Dead units, layer by layer", f"{caption} {note}")
        for axis, (words, timeline) in zip(grid[0], timelines.items(), strict=True):
            steps, shares = dead_shares(timeline, names[words])
            _mesh(axis, steps, shares, style.SHARES, 1)
            labelled = _labelled(names[words])
            axis.set_ylim(len(shares), 0)
            axis.set_yticks([row + 0.5 for row in labelled], [_short(names[words][row]) for row in labelled])
            axis.tick_params(axis="y", labelsize=7)
            if axis is not grid[0, 0] and names[words] == next(iter(names.values())):
                axis.tick_params(axis="y", labelleft=False)
        grid[0, 0].set_ylabel("layer, in forward order from the top")
        _label_steps(grid)
        bar = figure.colorbar(ScalarMappable(cmap=style.SHARES), ax=grid, aspect=28, pad=0.02, ticks=[0, 0.5, 1])
        bar.set_label("dead units / units of the layer")
        bar.outline.set_visible(False)
    return figure


def dead_shares(timeline: Timeline, layers: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
    """Steps (R,) at which some of the layers were read, and the share of dead units of each layer then, (layers, R).

    At a step at which a layer was not read its last reading holds; NaN before its first.
    """
    read = [timeline.dead_share(layer) for layer in layers]
    steps = np.unique(np.concatenate([each for each, _ in read]))
    last = [np.searchsorted(each, steps, side="right") for each, _ in read]
    return steps, np.stack([np.append(np.nan, shares)[place] for (_, shares), place in zip(read, last, strict=True)])


def _demand_readings(timelines: Mapping[str, Timeline]) -> None:
    if not timelines or not all(timeline.layers for timeline in timelines.values()):
        raise InputError(["no readings of layers; the presets blocks and full have them"])


def _prepool(timeline: Timeline) -> str:
    return "prepool" if "prepool" in timeline.layers else timeline.layers[-1]


def _short(layer: str) -> str:
    """A layer's name without what all of its kind have in common."""
    return re.sub(r"^(layer|block)/|/output$|\.activation$|/?up_projection\.(weight|bias)$", "", layer) or layer


def _labelled(layers: Sequence[str]) -> list[int]:
    """Which lines of a map are labelled: all, of many the blocks' outputs, or as many as there is room for."""
    outputs = [row for row, layer in enumerate(layers) if _is_output(layer)]
    rows = list(range(len(layers))) if len(layers) <= _MOST_LABELS or not outputs else outputs
    return [rows[number] for number in _evenly(len(rows), _MOST_LABELS)]


def _evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


# -- drawing -----------------------------------------------------------------------------------------------------------


def _grid(
    panels: Mapping[str, Any], rows: int, height: float, title: str, caption: str, *legend: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure with a column of panels, each `height` inches high, for each entry; its words stand above it."""
    titles = [textwrap.fill(words, 32) for words in panels]
    room = 0.17 * max(words.count("\n") + 1 for words in titles)
    width = max(5.2, 1.2 + 2.45 * len(panels))
    figure = style.figure(width, rows * (height + 0.12) + room + 0.5, title, caption.strip(), *legend)
    grid = figure.subplots(rows, len(panels), squeeze=False)
    for axis, words in zip(grid[0], titles, strict=True):
        axis.set_title(words)
    for axis in grid[:-1].flat:
        axis.tick_params(labelbottom=False)
    return figure, grid


def _look(tones: Sequence[str], number: int, marked: bool = True) -> dict[str, Any]:
    """Colour, dashes and mark of one of several lines; the last one is the plainest."""
    place = len(tones) - 1 - number
    look: dict[str, Any] = {"color": tones[number], "linestyle": style.DASHES[place % len(style.DASHES)]}
    return look | ({"marker": style.MARKS[place % len(style.MARKS)], "markersize": 3} if marked else {})


def _draw_line(axis: Axes, x: NDArray[Any], y: Floats, log: bool, look: Mapping[str, Any]) -> None:
    """A line; on a log scale zeros and infinities are open triangles at the panel's edges."""
    drawn = np.isfinite(y) & ((y > 0) | (not log))
    axis.plot(x, np.where(drawn, y, np.nan), linewidth=1.2, **look)
    for these, edge, mark in ((y == 0, 0.0, "v"), (np.isposinf(y), 1.0, "^")):
        if log and these.any():
            face: dict[str, Any] = {"color": look["color"], "markerfacecolor": style.PAPER, "clip_on": False}
            axis.plot(
                x[these], np.full(int(these.sum()), edge), linestyle="none", marker=mark, markersize=4, zorder=4,
                transform=axis.get_xaxis_transform(), **face,
            )  # fmt: skip


def _edge_words(values: Iterable[Floats]) -> str:
    """What the triangles mean that `_draw_line` draws for such values; nothing where it draws none."""
    ends = np.concatenate([np.empty(0), *values])
    words = [word for word, some in (("zero", ends == 0), ("infinite", np.isposinf(ends))) if some.any()]
    return f" Triangles at a panel's edge: exactly {' or '.join(words)}." if words else ""


def _one_scale(row: Sequence[Axes], log: bool) -> None:
    """Give the panels of a row one scale, of at least a decade where it is logarithmic, numbered at the first."""
    for axis in row[1:]:
        axis.sharey(row[0])
        axis.tick_params(labelleft=False)
    if not log:
        return
    row[0].set_yscale("log")
    drawn = [line.get_ydata() for axis in row for line in axis.get_lines() if line.get_transform() == axis.transData]
    ends = np.concatenate([np.asarray(values, dtype=np.float64) for values in drawn] or [np.empty(0)])
    ends = ends[np.isfinite(ends) & (ends > 0)]
    low, high = (ends.min(), ends.max()) if ends.size else (1.0, 1.0)
    middle, half = np.sqrt(low * high), max(1.1 * np.log10(high / low), 1.0) / 2
    row[0].set_ylim(middle * 10**-half, middle * 10**half)
    row[0].yaxis.set_major_locator(LogLocator(subs=(1.0,) if half > 1 else (1.0, 3.0), numticks=5))
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    row[0].yaxis.set_minor_formatter(NullFormatter())


def _mesh(axis: Axes, steps: NDArray[np.int64], values: NDArray[Any], colours: Colormap, top: float) -> None:
    """A cell for each line and reading; readings that change nothing are one cell with the one before."""
    changes = np.append(True, (values[:, 1:] != values[:, :-1]).any(axis=0))
    end = steps[-1] + max(1, int(np.diff(steps[-2:]).sum()))
    edges = np.append(steps[changes], end)
    masked = np.ma.masked_invalid(values[:, changes])
    axis.pcolormesh(edges, np.arange(len(values) + 1), masked, cmap=colours, vmin=0, vmax=top, rasterized=True)
    axis.grid(visible=False)
    _step_axis(axis, np.append(steps, end))


def _step_axis(axis: Axes, steps: NDArray[Any]) -> None:
    """Steps from the first to the last, by their logarithm where half of the readings lie in the first eighth."""
    if len(steps) > 3 and np.median(steps) < steps.max() / 8:
        axis.set_xscale("symlog", linthresh=1, linscale=0.5)
        axis.xaxis.set_major_formatter(
            FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")
        )
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axis.set_xlim(steps.min(), max(steps.max(), steps.min() + 1))


def _label_steps(grid: NDArray[Any]) -> None:
    for axis in grid[-1]:
        axis.set_xlabel(_STEP)
