"""The share of runs that died over two columns of the configuration, as a map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.figures import style
from analysis.figures.cells import LINE, draw_cells, write
from analysis.figures.facets import facets, share_bar
from analysis.figures.words import event_words, explain_event, not_counted, together
from analysis.frames import columns
from analysis.frames.columns import Factor
from analysis.frames.events import EVENTS, UNFINISHED
from analysis.statistics import phase
from analysis.statistics.dose import LethalDose

MOST_PANELS = 6
"""A map with more combinations of further columns than this pools them."""
MOST_DETAILED = 8
"""A map with more cells in a line than this has no intervals in them."""
_DOSES = ("model.width", "model.trunk_width", "model.branch_width", "model.residual_scale", "optim.lr")
"""Columns of which a map shows the lethal value: more of it is taken to kill no less."""


def phase_map(
    runs: pd.DataFrame, x: str | None = None, y: str | None = None, panel: str | None = None, lethal: bool = True
) -> Figure:
    """The share of finished runs that died over two configuration columns, with counts and intervals in the cells.

    Left out, `x` and `y` are those of `columns.choose`. `panel` names a third column, each level of which has a map of
    its own; left out, all further columns that vary have, up to MOST_PANELS maps. What is left is pooled and the
    caption says so. `lethal` also draws the `phase.contour` where `y` is a width, the residual scale or the learning
    rate and some but not all runs of the map died. Raises InputError for an unknown column.
    """
    x, y = columns.pair(runs, x, y)
    across, up = columns.factor(runs, x), columns.factor(runs, y)
    further = [column for column in columns.candidates(runs) if column not in (x, y)]
    divided = further if panel is None else [panel]
    panels = [(words, part) for words, part in columns.pieces(runs, divided) if len(part)]
    if panel is None and len(panels) > MOST_PANELS:
        panels, divided = [("", runs)], []
    pooled = [column for column in further if column not in divided]
    counts = [phase.cells(part, across, up) for _, part in panels]
    detailed = len(across.levels) <= MOST_DETAILED
    texts = [[_lines(cell, detailed) for cell in count.to_dict("records")] for count in counts]
    height = max(0.72, 0.1 + LINE * max(len(lines) for cells in texts for lines in cells))
    crossings = [phase.contour(part, across, y) if lethal and _has_contour(part, up) else {} for _, part in panels]
    with style.applied():
        figure, grid = facets(
            [words for words, _ in panels],
            (max(1.8, 0.95 * len(across.levels)), max(1.0, height * len(up.levels)) + 0.15),
            _headline(runs),
            _caption(runs, counts, detailed, pooled, up if any(crossings) else None),
            x=across.label,
            y=up.label,
            wide=3 if len(across.levels) <= 5 else 2,
            margin=2.3,
        )
        for axes, count in zip(grid, counts, strict=True):  # first, as every heatmap has its whole figure drawn
            draw_cells(axes, count["share"], across, up)
        for axes, count, cells, crossing in zip(grid, counts, texts, crossings, strict=True):
            write(axes, count["share"], cells, LINE / height, 13.0 if detailed else 8.0)
            _draw_contour(axes, crossing, _heights(runs, up))
        share_bar(figure, grid, f"share of runs that {event_words(runs)}")
    return figure


def _lines(cell: Mapping[Any, float], detailed: bool) -> list[str]:
    """What a cell says: its count, the interval, and what else became of its runs."""
    lines = [f"{cell['died']:.0f}/{cell['finished']:.0f}"] if cell["finished"] else []
    if detailed and cell["finished"] > 1:
        lines.append(f"{100 * cell['low']:.0f}–{100 * cell['high']:.0f} %")
    if cell["dead"]:
        lines.append(f"{cell['dead']:.0f} all dead")
    lines += [f"{cell[what]:.0f} {what}" for what in ("diverged", *UNFINISHED) if cell[what]]
    return lines or ["no run"]


def _has_contour(runs: pd.DataFrame, up: Factor) -> bool:
    died = runs.loc[runs["state"] == "finished", "outcome"].isin(EVENTS)
    return up.column in _DOSES and len(up.levels) <= columns.MOST_LEVELS and 0 < died.sum() < len(died)


def _heights(runs: pd.DataFrame, up: Factor) -> dict[float, float]:
    """The height of each positive value of the vertical column: the middle of its cells."""
    values = pd.to_numeric(runs[up.column], errors="coerce")
    return {float(value): int(code) + 0.5 for value, code in zip(values, up.codes, strict=True) if value > 0}


def _draw_contour(axes: Axes, crossings: Mapping[int, LethalDose], heights: Mapping[float, float]) -> None:
    """Lethal values beside the counts of their columns, an arrow where one or its interval leaves the range tested."""
    values = sorted(heights)

    def height(value: float) -> float:
        if value == 0 or value == math.inf:
            return heights[values[0]] - 0.46 if value == 0 else heights[values[-1]] + 0.46
        return float(np.interp(math.log(value), np.log(values), [heights[each] for each in values]))

    halo: dict[str, Any] = {"color": style.INK, "path_effects": [withStroke(linewidth=3.2, foreground=style.PAPER)]}
    for code, each in crossings.items():
        low, high, place = each.estimate.low, each.estimate.high, code + 0.88
        if not (low == 0 and high == math.inf):
            axes.plot([place] * 2, [height(low), height(high)], linewidth=1.3, **halo)
            for end, mark in ((low, "v"), (high, "^")):
                if end == 0 or end == math.inf:
                    axes.plot([place], [height(end)], marker=mark, markersize=4, clip_on=False, **halo)
        if each.located:
            dot: dict[str, Any] = {"marker": "o", "markersize": 5.5, "markerfacecolor": style.PAPER}
            axes.plot([place], [height(each.estimate.value)], color=style.INK, linestyle="none", **dot)


def _headline(runs: pd.DataFrame) -> str:
    finished = int((runs["state"] == "finished").sum())
    happened = int(runs["outcome"].isin(EVENTS).sum())
    return f"{happened} of {style.count(finished, 'finished run')} {event_words(runs)}"


def _caption(
    runs: pd.DataFrame, counts: list[pd.DataFrame], detailed: bool, pooled: list[str], lethal: Factor | None
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
    notes = [f"{text}.", explain_event(runs)]
    if lethal is not None:
        notes.append(
            f"Dots and bars: the {lethal.label.split(' (')[0]} at which half of a column's runs die, "
            "and its 95 % interval; an arrow leads beyond the range tested."
        )
    if any(part["dead"].any() for part in counts):
        notes.append("All dead: survived, but every unit was dead when last seen, too late to be confirmed.")
    if (runs["outcome"] == "diverged").any():
        notes.append("Runs that diverged count as finished.")
    return " ".join([*notes, *not_counted(runs), *together(pooled)])
