"""How the signal passes the blocks of a network, and how large its updates are.

Every figure has a column of panels for each entry of a mapping from words to data, so that runs stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from seaborn import objects as so

from analysis.figures import style
from analysis.figures.facets import add, facets, log_scale, step_scale
from analysis.figures.style import Look
from analysis.figures.words import STEP, evenly, short
from analysis.statistics.signal import blocks, course, profile, spread, steps_read, updated
from harness.located import InputError

READINGS = r"block/b\d+/((skip|scaled|sum|output)/rms|rms_ratio|cosine)|update/.+/ratio"
"""The metrics that `propagation` and `update_ratios` take from rows, as a regular expression."""
DRIFT = r"block/b\d+/((skip|scaled|sum)/mean|output/dead_share_batch)"
"""The metrics that `drift` takes from rows, as a regular expression."""
MOST_LINES_NAMED = 6
"""Lines of one figure that its legend names."""
_WIDTH = 2.45
"""Of a panel, in inches."""


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
    readings = [reading for reading in _PROPAGATION if any(blocks(rows, reading.metric) for rows in panels.values())]
    if not readings:
        raise InputError(["no block/ metrics in these rows; the presets blocks and full have them"])
    if any(reading.metric == "sum/rms" for reading in readings):  # the output is the sum behind its ReLU
        readings = [reading for reading in readings if reading.metric != "output/rms"]
    metrics = [reading.metric for reading in readings]
    steps = spread(steps_read(rows, metrics) for rows in panels.values()) if steps is None else steps
    found = pd.concat(
        profile(rows, reading.metric, steps).assign(panel=panel, line=line, log=reading.log)
        for panel, rows in enumerate(panels.values())
        for line, reading in enumerate(readings)
    )
    looks = dict(zip(steps, style.looks(len(steps)), strict=True))
    caption = ["Of the training batch, over all its elements (RMS: root mean square), after `step` updates."]
    if any(reading.metric.startswith("scaled") for reading in readings):
        caption.append(
            "x: what the skip carries; F: the branch; α: the residual scale; the sum is read before its ReLU."
        )
    if any(rows["run_id"].nunique() > 1 for rows in panels.values()):
        caption.append("Lines: median over the seeds; bands: their range; a run counts until its last reading.")
    caption += [*_edge_words(found.loc[found["log"], "middle"]), note]
    plot = so.Plot()
    for step, part in found.groupby("step"):
        plot = _add_range(plot, part, looks[int(str(step))], "block", size=3)
    with style.applied():
        figure, grid = facets(
            list(panels),
            (_WIDTH, 1.15),
            "Signal against depth",
            " ".join(caption).strip(),
            style.key([f"{step:,}" for step in steps], list(looks.values()), size=3),
            "step (updates)",
            x="block, in forward order",
            y=[reading.label for reading in readings],
            plot=plot,
        )
        for line, reading in zip(grid, readings, strict=True):
            if reading.log:
                log_scale(line)
        _mark_edges(grid, found[found["log"]], looks, "step", "block")
        for place, rows in enumerate(panels.values()):
            deepest = max(len(blocks(rows, metric)) for metric in metrics)
            grid[-1, place].set_xlim(0.5, deepest + 0.5)
            grid[-1, place].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    return figure


def drift(panels: Mapping[str, pd.DataFrame], block: int | None = None, note: str = "") -> Figure:
    """The mean of a residual sum and of its two parts against the step, and the units that its ReLU silences.

    `panels`: words -> rows of runs that differ in their seed. `block` counts from 1; left out, the last one. Raises
    InputError for rows without such readings.
    """
    parts = {"skip x": "skip/mean", "branch αF": "scaled/mean", "sum x + αF": "sum/mean"}
    named = [blocks(rows, "sum/mean") for rows in panels.values()]
    if not all(named):
        raise InputError(["no block/.../mean metrics in these rows; the presets blocks and full have them"])
    looks = dict(zip(parts, style.looks(len(parts)), strict=True))
    which = "last residual sum" if block is None else f"residual sum of block {block}"
    caption = (
        f"Mean over all elements of the {which} and of its two parts, before its ReLU, on the training batch; below, "
        "the share of its units that the ReLU silences for the whole batch. Lines: median over the runs; bands: their "
        f"range; a run counts until its last reading. {note}"
    )
    plot = so.Plot()
    for panel, (rows, names) in enumerate(zip(panels.values(), named, strict=True)):
        place = f"block/{names[-1 if block is None else block - 1]}/"
        for words, metric in reversed(parts.items()):  # the branch ends up on top of the sum, which it becomes
            plot = _add_range(plot, course(rows, place + metric).assign(panel=panel, line=0), looks[words], "step")
        dead = course(rows, f"{place}output/dead_share_batch").assign(panel=panel, line=1)
        plot = _add_range(plot, dead, Look(style.INK, "solid", "o"), "step")
    with style.applied():
        figure, grid = facets(
            list(panels),
            (_WIDTH, 1.9),
            f"What happens to the {which}",
            caption.strip(),
            style.key(list(parts), list(looks.values()), size=0),
            x=STEP,
            y=["mean", "dead units /\nunits"],
            plot=plot,
        )
        for axes in grid[0]:
            axes.axhline(0, color=style.MUTED, linewidth=0.8)
        grid[1, 0].set_ylim(-0.03, 1.04)
    return figure


def update_ratios(panels: Mapping[str, pd.DataFrame], note: str = "") -> Figure:
    """RMS of an update over RMS of what it changed, against the step: one line a layer, weights and biases apart.

    `panels`: words -> rows of one run. The layers are the up-projections, in a network without any all that were read.
    Raises InputError for rows without such readings.
    """
    named = [updated(rows) for rows in panels.values()]
    kinds = [kind for kind in ("weight", "bias") if any(names[kind] for names in named)]
    if not kinds:
        raise InputError(["no update/ metrics in these rows; the presets blocks and full have them"])
    longest = max((names[kind] for names in named for kind in kinds), key=len)
    looks = style.looks(len(longest))
    found = pd.concat(
        rows[["step", f"update/{name}/ratio"]]
        .set_axis(["step", "middle"], axis=1)
        .dropna()
        .assign(panel=panel, line=kinds.index(kind), layer=layer)
        for panel, (rows, names) in enumerate(zip(panels.values(), named, strict=True))
        for kind in kinds
        for layer, name in enumerate(names[kind])
    )
    up = any("up_projection" in name for name in longest)
    what = "up-projections" if up else "layers"
    caption = [
        f"One line for each of the {what}, coloured in forward order: root mean square (RMS) of the optimizer's update "
        "over that of the parameter before it. Not defined while a parameter is all zero"
        + (", as biases are at first." if "bias" in kinds else "."),
        *_edge_words(found["middle"]),
        note,
    ]
    shown = evenly(len(longest), MOST_LINES_NAMED)
    plot = so.Plot()
    for layer, part in found.groupby("layer"):
        plot = _add_line(plot, part.assign(log=True), looks[int(str(layer))], "step")
    with style.applied():
        figure, grid = facets(
            list(panels),
            (_WIDTH, 1.9),
            f"Size of updates, {what if up else 'every layer'}",
            " ".join(caption).strip(),
            style.key([short(longest[layer]) for layer in shown], [looks[layer] for layer in shown], size=0),
            "layer",
            x=STEP,
            y=[f"RMS of update /\nRMS of {kind}" for kind in kinds],
            plot=plot,
        )
        for line in grid:
            log_scale(line)
        _mark_edges(grid, found, dict(enumerate(looks)), "layer", "step")
        for axes, rows in zip(grid[-1], panels.values(), strict=True):
            step_scale(axes, rows["step"])
    return figure


def _add_range(plot: so.Plot, part: pd.DataFrame, look: Look, x: str, size: float = 0) -> so.Plot:
    """The plot with the medians of one level as a line, and their ranges as a band where there are any."""
    part = part if "log" in part else part.assign(log=False)
    band = part[part["low"].map(np.isfinite) & part["high"].map(np.isfinite) & (~part["log"] | (part["low"] > 0))]
    if (band["low"] < band["high"]).any():
        area = so.Band(color=look.colour, alpha=style.BAND, edgewidth=0)
        plot = add(plot, area, band, x=x, ymin="low", ymax="high")
    return _add_line(plot, part, look, x, size)


def _add_line(plot: so.Plot, part: pd.DataFrame, look: Look, x: str, size: float = 0) -> so.Plot:
    """The plot with the medians of one level as a line, broken where a logarithm cannot show them."""
    shown = part["middle"].map(np.isfinite) & (~part["log"] | (part["middle"] > 0))
    every = max(1, part[x].nunique() // 10) if size else 1
    path = so.Path(**look.path(size), linewidth=1.2, artist_kws={"markevery": every})
    return add(plot, path, part.assign(middle=part["middle"].where(shown)), x=x, y="middle")


def _mark_edges(grid: NDArray[Any], found: pd.DataFrame, looks: Mapping[int, Look], by: str, x: str) -> None:
    """Zeros and infinities, which a logarithm cannot show, as open triangles at the edges of their panels."""
    for these, edge, mark in ((found["middle"] == 0, 0.0, "v"), (found["middle"] == np.inf, 1.0, "^")):
        for place, part in found[these].groupby(["line", "panel", by]):
            line, panel, level = (int(str(number)) for number in place)
            axes: Axes = grid[line, panel]
            axes.plot(
                part[x], np.full(len(part), edge), linestyle="none", marker=mark, markersize=4, zorder=4, clip_on=False,
                transform=axes.get_xaxis_transform(), color=looks[level].colour, markerfacecolor=style.PAPER,
            )  # fmt: skip


def _edge_words(values: Iterable[float]) -> list[str]:
    """What the triangles mean that `_mark_edges` draws for such values, in a sentence, if it draws any."""
    ends = np.fromiter(values, dtype=np.float64)
    words = [word for word, some in (("zero", ends == 0), ("infinite", np.isposinf(ends))) if some.any()]
    return [f"Triangles at a panel's edge: exactly {' or '.join(words)}."] if words else []
