"""Where networks die: the share of runs that died over two axes of the configuration.

Death is one of `analysis.frames.events.EVENTS`. Divergence competes with it: a run that diverged counts as not died.
Failed, running and pending runs count for nothing, and are shown.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from analysis.figures import style
from analysis.figures.words import UNFINISHED, event_words, explain_event
from analysis.frames import columns
from analysis.frames.events import EVENTS
from analysis.statistics import dose
from analysis.statistics.dose import LethalDose
from analysis.statistics.estimates import wilson
from harness.located import InputError

MOST_PANELS = 6
"""A map with more combinations of further axes than this pools them."""
MOST_DETAILED = 8
"""A map with more columns than this has no intervals in its cells."""
_DOSES = ("model.width", "model.trunk_width", "model.branch_width", "model.residual_scale", "optim.lr")
"""Columns of which a map shows the lethal value: more of it is taken to kill no less."""


def cells(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Counts for every combination of a level of column `y` with one of column `x`, also those without runs.

    Index: the numbers of the levels of `y` and of `x`, as `axes.axis` orders them. Columns: `finished` runs; those
    `died` (or collapsed) and `diverged` among them; `share`, died / finished, missing where none finished; `low` and
    `high`, its 95 % Wilson interval; `failed`, `running` and `pending` runs. Raises InputError for an unknown column.
    """
    return _count(runs, columns.factor(runs, x), columns.factor(runs, y))


def contour(runs: pd.DataFrame, x: str, y: str) -> dict[int, LethalDose]:
    """Where the share of runs that died crosses one half: for each level of column `x`, the lethal value of column `y`.

    By number of the level, as `axes.axis` orders them; levels at which fewer than two positive values of `y` have
    finished runs are left out. Raises InputError for an unknown column.
    """
    across, up = columns.factor(runs, x), columns.factor(runs, y)
    return _contour(runs, across, up.column)


def phase_map(
    runs: pd.DataFrame, x: str | None = None, y: str | None = None, panel: str | None = None, lethal: bool = True
) -> Figure:
    """The share of finished runs that died over two configuration columns, with counts and intervals in the cells.

    Left out, `x` and `y` are those of `axes.choose`. `panel` names a third column, each level of which has a map of its
    own; left out, all further columns that vary have, up to MOST_PANELS maps. What is left is pooled and the caption
    says so. `lethal` also draws the `contour` where `y` is a width, the residual scale or the learning rate and some
    but not all runs of the map died. Raises InputError for an unknown column.
    """
    x, y = columns.pair(runs, x, y)
    across, up = columns.factor(runs, x), columns.factor(runs, y)
    further = [column for column in columns.candidates(runs) if column not in (x, y)]
    divided = further if panel is None else [panel]
    panels = [(words, part) for words, part in columns.pieces(runs, divided) if len(part)]
    if panel is None and len(panels) > MOST_PANELS:
        panels, divided = [("", runs)], []
    pooled = [column for column in further if column not in divided]
    side = min(len(panels), 3 if len(across.levels) <= 5 else 2)
    rows = math.ceil(len(panels) / side)
    counts = [_count(part, across, up) for _, part in panels]
    crossings = [_contour(part, across, y) if lethal and _has_contour(part, up) else {} for _, part in panels]
    with style.applied():
        figure = style.figure(
            max(4.4, side * (0.25 + 0.95 * len(across.levels)) + 1.9),
            max(1.6, rows * (0.3 + 0.72 * len(up.levels)) + 0.6),
            _headline(runs),
            _caption(runs, counts, len(across.levels) <= MOST_DETAILED, pooled, up if any(crossings) else None),
        )
        grid = figure.subplots(rows, side, squeeze=False, sharex=True, sharey=True)
        for place, (words, _), count, crossing in zip(grid.flat, panels, counts, crossings, strict=False):
            _draw(place, count, across, up)
            _draw_contour(place, crossing, _heights(runs, up))
            place.set_title(words)
        style.trim(grid, len(panels), across.label, up.label)
        scale = figure.colorbar(ScalarMappable(cmap=style.SHARES), ax=grid, aspect=28, pad=0.02, ticks=[0, 0.5, 1])
        scale.set_label(f"share of runs that {event_words(runs)}")
        scale.outline.set_visible(False)
    return figure


def _count(runs: pd.DataFrame, across: columns.Factor, up: columns.Factor) -> pd.DataFrame:
    state, outcome = runs["state"], runs["outcome"]
    flags = {"finished": state == "finished", "died": outcome.isin(EVENTS), "diverged": outcome == "diverged"}
    flags |= {unfinished: state == unfinished for unfinished in UNFINISHED}
    levels = [up.codes.loc[runs.index].rename("y"), across.codes.loc[runs.index].rename("x")]
    every = pd.MultiIndex.from_product([range(len(up.levels)), range(len(across.levels))], names=["y", "x"])
    counts = pd.DataFrame(flags).groupby(levels).sum().reindex(every, fill_value=0).astype(int)
    intervals = [wilson(died, n) for died, n in zip(counts["died"], counts["finished"], strict=True)]
    counts.insert(3, "share", counts["died"] / counts["finished"].where(counts["finished"] > 0))
    counts.insert(4, "low", [low for low, _ in intervals])
    counts.insert(5, "high", [high for _, high in intervals])
    return counts


def _draw(panel: Axes, counts: pd.DataFrame, across: columns.Factor, up: columns.Factor) -> None:
    detailed = len(across.levels) <= MOST_DETAILED
    for (row, column), cell in zip(counts.index, counts.to_dict("records"), strict=True):
        blank = cell["finished"] == 0
        colour = style.SHARES(0.0 if blank else cell["share"])
        fill = {"facecolor": "none", "hatch": "////", "edgecolor": style.GRID} if blank else {"facecolor": colour}
        panel.add_patch(Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, linewidth=0, **fill))
        ink = style.MUTED if blank else style.on(colour)
        notes = _notes(cell, detailed)
        lines = [] if blank else [(f"{cell['died']:.0f}/{cell['finished']:.0f}", 13.0 if detailed else 8.0, "bold")]
        lines += [(note, 7.5 if detailed else 5.5, "normal") for note in notes]
        for number, (text, size, weight) in enumerate(lines):
            height = row + 0.24 * ((len(lines) - 1) / 2 - number)
            panel.text(column, height, text, ha="center", va="center", color=ink, fontsize=size, fontweight=weight)
    panel.set(xlim=(-0.5, len(across.levels) - 0.5), ylim=(-0.5, len(up.levels) - 0.5))
    panel.set_xticks(range(len(across.levels)), across.levels, rotation=0 if detailed else 45)
    panel.set_yticks(range(len(up.levels)), up.levels)
    panel.tick_params(length=0)
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _notes(cell: Mapping[Any, float], detailed: bool) -> list[str]:
    """Small lines under a cell's count: the interval, and what else became of its runs."""
    notes = []
    if detailed and cell["finished"] > 1:
        notes.append(f"{100 * cell['low']:.0f}–{100 * cell['high']:.0f} %")
    notes += [f"{cell[what]:.0f} {what}" for what in ("diverged", *UNFINISHED) if cell[what]]
    return notes if notes or cell["finished"] else ["no run"]


def _has_contour(runs: pd.DataFrame, up: columns.Factor) -> bool:
    died = runs.loc[runs["state"] == "finished", "outcome"].isin(EVENTS)
    return up.column in _DOSES and len(up.levels) <= columns.MOST_LEVELS and 0 < died.sum() < len(died)


def _contour(runs: pd.DataFrame, across: columns.Factor, column: str) -> dict[int, LethalDose]:
    found = {}
    for code, part in runs.groupby(across.codes.loc[runs.index]):
        with contextlib.suppress(InputError):  # fewer than two values
            found[int(str(code))] = dose.lethal_dose(part, column)
    return found


def _heights(runs: pd.DataFrame, up: columns.Factor) -> dict[float, int]:
    """The number of the level of each positive value of the vertical axis."""
    values = pd.to_numeric(runs[up.column], errors="coerce")
    return {float(value): int(code) for value, code in zip(values, up.codes, strict=True) if value > 0}


def _draw_contour(panel: Axes, crossings: Mapping[int, LethalDose], heights: Mapping[float, int]) -> None:
    """Lethal values at the right edge of their columns, an arrow where one or its interval leaves the range tested."""
    if not crossings:
        return
    values = sorted(heights)
    levels = [heights[value] for value in values]

    def height(value: float) -> float:
        if value == 0 or value == math.inf:
            return levels[0] - 0.46 if value == 0 else levels[-1] + 0.46
        return float(np.interp(math.log(value), np.log(values), levels))

    halo: dict[str, Any] = {"color": style.INK, "path_effects": [withStroke(linewidth=3.2, foreground=style.PAPER)]}
    for code, each in crossings.items():
        low, high = each.estimate.low, each.estimate.high
        if low == 0 and high == math.inf:
            continue
        panel.plot([code + 0.38] * 2, [height(low), height(high)], linewidth=1.3, **halo)
        for end, mark in ((low, "v"), (high, "^")):
            if end == 0 or end == math.inf:
                panel.plot([code + 0.38], [height(end)], marker=mark, markersize=4, clip_on=False, **halo)
    located = {code + 0.38: height(each.estimate.value) for code, each in crossings.items() if each.located}
    place = list(located), list(located.values())
    panel.plot(*place, linewidth=0.9, linestyle=(0, (4, 2)), color=style.INK, zorder=1.5)  # behind the counts
    panel.plot(*place, linestyle="none", marker="o", markersize=5.5, color=style.INK, markerfacecolor=style.PAPER)


def _headline(runs: pd.DataFrame) -> str:
    finished = int((runs["state"] == "finished").sum())
    happened = int(runs["outcome"].isin(EVENTS).sum())
    return f"{happened} of {style.count(finished, 'finished run')} {event_words(runs)}"


def _caption(
    runs: pd.DataFrame, counts: list[pd.DataFrame], detailed: bool, pooled: list[str], lethal: columns.Factor | None
) -> str:
    word = event_words(runs)
    sizes = np.concatenate([part["finished"].to_numpy() for part in counts])
    sizes = sizes[sizes > 0]
    text = f"In a cell: runs that {word} / finished runs"
    if sizes.size == 0:
        text = "No run has finished"
    elif sizes.max() == 1:
        text += "; one run a cell, so no interval"
    else:
        n = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
        text += ", below it the 95 % Wilson interval of that share" if detailed else ""
        text += f" (n = {n} runs a cell)"
    text += f". {explain_event(runs)}"
    if lethal is not None:
        text += (
            f" Dots and bars: the {lethal.label.split(' (')[0]} at which half of a column's runs die, "
            "and its 95 % interval; an arrow leads beyond the range tested."
        )
    if (runs["outcome"] == "diverged").any():
        text += " Runs that diverged count as finished."
    open_runs = [f"{count} {state}" for state in UNFINISHED if (count := int((runs["state"] == state).sum()))]
    if open_runs:
        text += f" Not counted: {', '.join(open_runs)}."
    if pooled:
        text += f" Runs that differ in {', '.join(pooled)} are counted together."
    return text
