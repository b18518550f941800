"""What happened at which step: the share of dead units in every run, and when each run died.

Both figures take one panel for each level of one column and one colour for each level of another, all runs in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.words import event_words, explain_event
from analysis.frames import columns
from harness.located import InputError
from harness.patterns import suggestion

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

    panels: columns.Factor
    lines: columns.Factor
    colours: list[str]

    def mark(self, line: int) -> str:
        """The mark of a colour; the highest level has the plainest."""
        return style.MARKS[(len(self.colours) - 1 - line) % len(style.MARKS)]

    def dash(self, line: int) -> Any:
        """The dashes of a colour; the highest level's line is solid."""
        return style.DASHES[(len(self.colours) - 1 - line) % len(style.DASHES)]

    def parts(self, runs: pd.DataFrame) -> Iterator[tuple[int, int, pd.DataFrame]]:
        """Panel, colour and their runs, in order of the seed, for each panel and colour that has runs."""
        ordered = runs.sort_values(["seed", "run_id"])
        panels, lines = self.panels.codes.loc[ordered.index], self.lines.codes.loc[ordered.index]
        for panel in range(len(self.panels.levels)):
            for line in range(len(self.lines.levels)):
                part = ordered[(panels == panel) & (lines == line)]
                if len(part):
                    yield panel, line, part


def _layout(runs: pd.DataFrame, panel: str | None, colour: str | None) -> _Layout:
    panel, colour = columns.pair(runs, panel, colour)
    lines = columns.factor(runs, colour)
    return _Layout(columns.factor(runs, panel), lines, style.colours(len(lines.levels)))


def _pooled(runs: pd.DataFrame, layout: _Layout) -> str:
    """What else the runs of one panel and colour differ in, as a sentence of a caption."""
    others = [name for name in columns.candidates(runs) if name not in (layout.panels.column, layout.lines.column)]
    return f" Runs that differ in {', '.join(others)} are shown together." if others else ""


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
        metrics = [name for name in map(str, rows.columns) if "/" in name]
        raise InputError([f"no metric {batch!r} in these rows{suggestion(batch, metrics)}"])
    layout = _layout(runs, panel, colour)
    rows = rows[rows["run_id"].isin(runs["run_id"])]
    curves, readings = _curves(rows, batch), _curves(rows, probe)
    crowd = int(layout.panels.codes.value_counts().max())
    caption = (
        f"{_DEFINITIONS[definition]}. Lines: of the training batch; marks: of the fixed probe set (train-mode "
        f"batch-norm). One line a run; it ends with the run's last reading.{_pooled(runs, layout)}"
    )
    legend = [
        (level, Line2D([], [], color=tone, marker=layout.mark(line), markersize=4, linestyle=layout.dash(line)))
        for line, (level, tone) in enumerate(zip(layout.lines.levels, layout.colours, strict=True))
    ]
    with style.applied():
        title = f"{definition.capitalize()} units while training, {style.count(len(curves), 'run')}"
        figure, grid = _panels(layout, 2.2, title, caption, legend[::-1], layout.lines.label)
        for panel_code, line, part in layout.parts(runs):
            axis, of_runs = grid.flat[panel_code], part["run_id"]
            look: dict[str, Any] = {"color": layout.colours[line], "alpha": max(0.4, min(0.9, 25 / crowd))}
            lines = LineCollection([curves[run] for run in of_runs if run in curves], linewidths=1.3, **look)
            lines.set_linestyle(layout.dash(line))
            lines.set_rasterized(len(rows) > _SHOWN_ONE_BY_ONE)
            axis.add_collection(lines)
            seen = np.concatenate([np.empty((0, 2)), *(readings[run] for run in of_runs if run in readings)])
            axis.plot(*seen.T, linestyle="none", marker=layout.mark(line), markersize=4, markeredgewidth=0, **look)
        grid.flat[0].set(xlim=(0, _reach(rows["step"])), ylim=(-0.03, 1.05))
        style.trim(grid, len(layout.panels.levels), _STEP, f"{definition} units / pre-pool units")
    return figure


def event_steps(runs: pd.DataFrame, panel: str | None = None, colour: str | None = None) -> Figure:
    """When each finished run died: the interval that the checks left open, or the step to which it was followed.

    One row a run, rows of one level of column `colour` together, in order of the seed. Left out, `panel` and `colour`
    are those of `axes.choose`. Raises InputError for an unknown column.
    """
    layout = _layout(runs, panel, colour)
    finished = runs[runs["state"] == "finished"]
    left_out = len(runs) - len(finished)
    caption = (
        "One row a run. A bar leads from the last check at which it was alive to the first that decided its end; "
        f"open marks: alive when last seen (right-censored). {explain_event(runs)}{_pooled(runs, layout)}"
    ) + (f" Without an outcome and not shown: {left_out}." if left_out else "")
    legend = [
        (outcome, Line2D([], [], color=style.MUTED, linestyle="none", marker=mark, markerfacecolor=_fill(outcome)))
        for outcome, mark in _MARKS.items()
        if (finished["outcome"] == outcome).any()
    ]
    with style.applied():
        title = f"When runs {event_words(runs)}, {style.count(len(finished), 'finished run')}"
        height = max(0.9, (0.5 if len(layout.lines.levels) <= 6 else 0.3) * len(layout.lines.levels))
        figure, grid = _panels(layout, height, title, caption, legend)
        for panel_code, line, part in layout.parts(finished):
            _draw_events(grid.flat[panel_code], part, line, layout.colours[line])
        for axis in grid.flat[: len(layout.panels.levels)]:
            axis.grid(visible=False, axis="y")
            for border in range(1, len(layout.colours)):
                axis.axhline(border - 0.5, color=style.GRID, linewidth=0.6)
        grid.flat[0].set(ylim=(-0.5, len(layout.colours) - 0.5), xlim=(0, _reach(finished["last_step"])))
        grid.flat[0].set_yticks(range(len(layout.colours)), layout.lines.levels)
        style.trim(grid, len(layout.panels.levels), _STEP, layout.lines.label)
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


def _curves(rows: pd.DataFrame, metric: str) -> dict[str, np.ndarray[Any, Any]]:
    """The readings of each run that has some, as an array of (step, value)."""
    if metric not in rows:
        return {}
    read = rows[["run_id", "step", metric]].dropna()
    points = read[["step", metric]].to_numpy(dtype=np.float64)
    return {str(run_id): points[places] for run_id, places in read.groupby("run_id").indices.items()}


def _reach(steps: pd.Series[Any]) -> float:
    return 1.03 * max(1.0, float(steps.max()) if steps.notna().any() else 1.0)


def _panels(layout: _Layout, height: float, title: str, caption: str, *legend: Any) -> tuple[Figure, Any]:
    """A figure with one panel for each level, each `height` inches high."""
    count = len(layout.panels.levels)
    columns = min(count, 4 if count > 9 else 2 if count == 4 else 3)
    rows = -(-count // columns)
    figure = style.figure(1.4 + 2.6 * columns, rows * (height + 0.3) + 0.4, title, caption, *legend)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for code, axis in enumerate(grid.flat[:count]):
        axis.set_title(layout.panels.words(code))
    return figure, grid
