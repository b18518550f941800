"""What happened at which step: the share of dead units in every run, and when each run died.

Both figures take one panel for each level of one column and one colour for each level of another, all runs in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import axes, style
from analysis.phase import definition, event_words
from harness.located import InputError

Definition = Literal["dead", "inert"]

_DEFINITIONS = {
    "dead": "A unit (channel of the layer before the pool) is dead where it is zero at every position of every image",
    "inert": "A unit (channel of the layer before the pool) is inert where its value does not vary: dead or constant",
}
_MARKS = {"died": "o", "collapsed": "s", "diverged": "X", "survived": ">"}
_STEP = "step (updates of the weights)"
_SHOWN_ONE_BY_ONE = 60_000
"""Points of all curves together beyond which a vector file holds them as a picture."""


@dataclass(frozen=True)
class _Layout:
    """The runs of a figure sorted into panels and colours."""

    panels: axes.Axis
    lines: axes.Axis
    colours: list[str]

    def mark(self, line: int) -> str:
        """The mark of a colour; the highest level has the plainest."""
        return style.MARKS[(len(self.colours) - 1 - line) % len(style.MARKS)]

    def dash(self, line: int) -> Any:
        """The dashes of a colour; the highest level's line is solid."""
        return style.DASHES[(len(self.colours) - 1 - line) % len(style.DASHES)]

    def part(self, runs: pd.DataFrame, panel: int, line: int) -> pd.DataFrame:
        """The runs of one panel and one colour, in order of their seed."""
        panels, lines = (axis.codes.loc[runs.index] for axis in (self.panels, self.lines))
        return runs[(panels == panel) & (lines == line)].sort_values(["seed", "run_id"])


def _layout(runs: pd.DataFrame, panel: str | None, colour: str | None) -> _Layout:
    panel, colour = axes.pair(runs, panel, colour)
    lines = axes.axis(runs, colour)
    return _Layout(axes.axis(runs, panel), lines, style.colours(len(lines.levels)))


def unit_share(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    definition: Definition = "dead",
    panel: str | None = None,
    colour: str | None = None,
) -> Figure:
    """The share of dead (or inert) pre-pool units against the step, one line a run.

    Lines are the readings of the training batch, marks those of the fixed probe set. `runs` and `rows` are frames of
    `load` and `load_rows`; `panel` and `colour` name columns of `runs`, left out those of `axes.choose`. Raises
    InputError for an unknown column and for rows without these readings.
    """
    batch, probe = (f"prepool/{definition}_share_{source}" for source in ("batch", "probe"))
    if batch not in rows:
        metrics = ", ".join(name for name in rows if "/" in name) or "none"
        raise InputError([f"no metric {batch!r} in these rows; there are: {metrics}"])
    layout = _layout(runs, panel, colour)
    curves = {str(run_id): part for run_id, part in rows.groupby("run_id")}
    with style.applied():
        figure, grid = _panels(layout, 2.5, f"{definition.capitalize()} units while training, {style.count(len(curves), 'run')}")
        crowd = max(len(runs[layout.panels.codes == code]) for code in range(len(layout.panels.levels)))
        for code, axis in enumerate(grid.flat[: len(layout.panels.levels)]):
            for line, tone in enumerate(layout.colours):
                parts = [curves[run] for run in layout.part(runs, code, line)["run_id"] if run in curves]
                look = {"color": tone, "alpha": max(0.25, min(0.9, 12 / crowd))}
                lines = LineCollection([_points(part, batch) for part in parts], linewidths=1.3, **look)
                lines.set_linestyle(layout.dash(line))
                lines.set_rasterized(len(rows) > _SHOWN_ONE_BY_ONE)
                axis.add_collection(lines)
                seen = np.concatenate([_points(part, probe) for part in parts] or [np.empty((0, 2))])
                axis.plot(*seen.T, linestyle="none", marker=layout.mark(line), markersize=4, markeredgewidth=0, **look)
            axis.set(xlim=(0, _reach(rows["step"])), ylim=(-0.03, 1.05))
        style.trim(grid, len(layout.panels.levels), _STEP, f"{definition} units / pre-pool units")
        handles = [
            Line2D([], [], color=tone, marker=layout.mark(line), markersize=4, linestyle=layout.dash(line))
            for line, tone in enumerate(layout.colours)
        ]
        _legend(figure, handles[::-1], layout.lines.levels[::-1], layout.lines.label)
        style.caption(
            figure,
            f"{_DEFINITIONS[definition]}. Lines: of the training batch; marks: of the fixed probe set (train-mode "
            "batch-norm). One line a run; a line ends where its run stopped.",
        )
    return figure


def event_steps(runs: pd.DataFrame, panel: str | None = None, colour: str | None = None) -> Figure:
    """When each finished run died: the interval that the checks left open, or the step to which it was followed.

    One row a run, rows of one level of column `colour` together, in order of the seed. Left out, `panel` and `colour`
    are those of `axes.choose`. Raises InputError for an unknown column.
    """
    layout = _layout(runs, panel, colour)
    finished = runs[runs["state"] == "finished"]
    happened = [outcome for outcome in _MARKS if (finished["outcome"] == outcome).any()]
    with style.applied():
        title = f"When runs {event_words(runs)}, {style.count(len(finished), 'run')}"
        figure, grid = _panels(layout, max(1.6, 0.55 * len(layout.lines.levels)), title)
        for code, axis in enumerate(grid.flat[: len(layout.panels.levels)]):
            for line, tone in enumerate(layout.colours):
                _draw_events(axis, layout.part(finished, code, line), line, tone)
            axis.set(ylim=(-0.5, len(layout.colours) - 0.5), xlim=(0, _reach(finished["last_step"])))
            axis.set_yticks(range(len(layout.colours)), layout.lines.levels)
            axis.grid(visible=False, axis="y")
            for border in range(1, len(layout.colours)):
                axis.axhline(border - 0.5, color=style.GRID, linewidth=0.6)
        style.trim(grid, len(layout.panels.levels), _STEP, layout.lines.label)
        handles = [
            Line2D([], [], color=style.MUTED, linestyle="none", marker=_MARKS[outcome], markerfacecolor=_fill(outcome))
            for outcome in happened
        ]
        _legend(figure, handles, happened)
        left_out = len(runs) - len(finished)
        style.caption(
            figure,
            "One row a run. A bar leads from the last check at which it was alive to the first that decided its end; "
            f"open marks: alive when last seen (right-censored). {definition(runs)}"
            + (f" Without an outcome and not shown: {left_out}." if left_out else ""),
        )
    return figure


def _draw_events(axis: Axes, part: pd.DataFrame, line: int, tone: str) -> None:
    """One level's runs in one panel, spread over the level's band."""
    heights = line + np.linspace(0.32, -0.32, len(part)) if len(part) > 1 else np.array([float(line)])
    steps = part["outcome_step"].to_numpy(dtype=float, na_value=np.nan)
    alive = part["outcome_last_live_step"].to_numpy(dtype=float, na_value=0.0)
    small = min(6.0, max(2.0, 60 / max(len(part), 1)))
    for outcome, mark in _MARKS.items():
        these = (part["outcome"] == outcome).to_numpy(dtype=bool)
        if not these.any():
            continue
        if outcome == "survived":
            axis.hlines(heights[these], 0, steps[these], color=tone, linewidth=0.6, alpha=0.45)
        else:
            axis.hlines(heights[these], alive[these], steps[these], color=tone, linewidth=min(2.5, small / 2))
        face = _fill(outcome) or tone
        points: dict[str, Any] = {"marker": mark, "markersize": small, "color": tone, "markerfacecolor": face}
        axis.plot(steps[these], heights[these], linestyle="none", clip_on=False, zorder=3, **points)


def _fill(outcome: str) -> str | None:
    return style.PAPER if outcome == "survived" else None


def _points(part: pd.DataFrame, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The readings of one run as (step, value), steps without one left out."""
    if metric not in part:
        return np.empty((0, 2))
    points = part[["step", metric]].to_numpy(dtype=float)
    return points[~np.isnan(points[:, 1])]


def _reach(steps: pd.Series[Any]) -> float:
    return 1.03 * max(1.0, float(steps.max()) if steps.notna().any() else 1.0)


def _panels(layout: _Layout, height: float, title: str) -> tuple[Figure, np.ndarray[Any, Any]]:
    count = len(layout.panels.levels)
    columns = min(count, 3 if count != 4 else 2)
    rows = math.ceil(count / columns)
    figure = style.figure(5.2 if columns == 1 else 1.2 + 2.6 * columns, rows * height + 0.9, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for code, axis in enumerate(grid.flat[:count]):
        axis.set_title(layout.panels.words(code))
    return figure, grid


def _legend(figure: Figure, handles: list[Line2D], labels: Sequence[str], title: str = "") -> None:
    """A legend between title and panels, in as many columns as fit."""
    if handles:
        fitting = int(figure.get_figwidth() / (0.6 + 0.075 * max(map(len, labels))))
        words = {"title": title, "alignment": "left"} if title else {}
        figure.legend(handles, labels, loc="outside upper left", ncols=max(1, fitting), columnspacing=1.4, **words)
