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
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from seaborn import objects as so

from analysis.figures import style
from analysis.figures.facets import add, add_dots, facets
from analysis.figures.style import Look
from analysis.figures.words import STEP, event_words, explain_event, together
from analysis.frames import columns
from analysis.frames.columns import Factor
from harness.located import InputError
from harness.patterns import suggestion

Definition = Literal["dead", "inert"]
_DEFINITIONS = {
    "dead": "A unit (channel of the layer before the pool) is dead where it is zero at every position of every image",
    "inert": "A unit (channel of the layer before the pool) is inert where its value does not vary: dead or constant",
}
_MARKS = {"died": "o", "collapsed": "s", "diverged": "X", "survived": ">"}
_SHOWN_ONE_BY_ONE = 60_000
"""Points of all curves together beyond which a vector file holds them as a picture."""


@dataclass(frozen=True)
class Layout:
    """The runs of a figure sorted into panels and colours."""

    panels: Factor
    lines: Factor

    @property
    def titles(self) -> list[str]:
        """What stands above the panels."""
        return [self.panels.words(code) for code in range(len(self.panels.levels))]

    @property
    def looks(self) -> list[Look]:
        """How the lines look."""
        return style.looks(len(self.lines.levels))

    def pooled(self, runs: pd.DataFrame) -> list[str]:
        """What else the runs of one panel and colour differ in, as a sentence of a caption."""
        own = self.panels.column, self.lines.column
        return together([name for name in columns.candidates(runs) if name not in own], "shown")


def layout_of(runs: pd.DataFrame, panel: str | None, colour: str | None) -> Layout:
    """The runs by two columns, left out those of `columns.choose`. Raises InputError for an unknown one."""
    panel, colour = columns.pair(runs, panel, colour)
    return Layout(columns.factor(runs, panel), columns.factor(runs, colour))


def unit_share(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    definition: Definition = "dead",
    panel: str | None = None,
    colour: str | None = None,
) -> Figure:
    """The share of dead (or inert) pre-pool units against the step, one line a run.

    Lines are the readings of the training batch, marks those of the fixed probe set. `runs` and `rows` are frames of
    `load` and `load_rows`; `panel` and `colour` name columns of `runs`, left out those of `columns.choose`. Raises
    InputError for an unknown column and for rows without these readings.
    """
    batch, probe = (f"prepool/{definition}_share_{source}" for source in ("batch", "probe"))
    if batch not in rows:
        metrics = [name for name in map(str, rows.columns) if "/" in name]
        raise InputError([f"no metric {batch!r} in these rows{suggestion(batch, metrics)}"])
    layout = layout_of(runs, panel, colour)
    of_run = pd.DataFrame({"panel": layout.panels.codes, "level": layout.lines.codes, "run_id": runs["run_id"]})
    of_run["curve"] = of_run.groupby(["panel", "level"]).cumcount()  # seaborn looks for every curve in every panel
    read = rows.reindex(columns=["run_id", "step", batch, probe]).merge(of_run, on="run_id")
    curves, marks = read[read[batch].notna()], read[read[probe].notna()]
    caption = [
        f"{_DEFINITIONS[definition]}. Lines: of the training batch; marks: of the fixed probe set (train-mode "
        "batch-norm). One line a run; it ends with the run's last reading.",
        *layout.pooled(runs),
    ]
    faint = max(0.4, min(0.9, 25 / int(of_run["panel"].value_counts().max())))
    kept: dict[str, Any] = {"rasterized": len(read) > _SHOWN_ONE_BY_ONE, "capstyle": "butt"}
    plot = so.Plot()
    for level, look in enumerate(layout.looks):
        line = so.Paths(color=look.colour, linestyle=look.dash, alpha=faint, linewidth=1.3, artist_kws=kept)
        plot = add(plot, line, curves[curves["level"] == level], x="step", y=batch, group="curve")
    looks = dict(enumerate(layout.looks))
    plot = add_dots(plot, marks, "level", looks, alpha=faint, fillalpha=faint, stroke=0, x="step", y=probe)
    with style.applied():
        figure, grid = facets(
            layout.titles,
            (2.6, 2.2),
            f"{definition.capitalize()} units while training, {style.count(curves['run_id'].nunique(), 'run')}",
            " ".join(caption),
            style.key(layout.lines.levels, layout.looks, size=4)[::-1],
            layout.lines.label,
            x=STEP,
            y=f"{definition} units / pre-pool units",
            plot=plot,
        )
        grid[0].set(xlim=(0, _reach(rows["step"])), ylim=(-0.03, 1.05))
    return figure


def event_steps(runs: pd.DataFrame, panel: str | None = None, colour: str | None = None) -> Figure:
    """When each finished run died: the interval that the checks left open, or the step to which it was followed.

    One row a run, rows of one level of column `colour` together, in order of the seed. Left out, `panel` and `colour`
    are those of `columns.choose`. Raises InputError for an unknown column.
    """
    layout = layout_of(runs, panel, colour)
    levels = len(layout.lines.levels)
    finished = runs[runs["state"] == "finished"].sort_values(["seed", "run_id"])
    caption = [
        "One row a run. A bar leads from the last check at which it was alive to the first that decided its end; "
        "open marks: alive when last seen (right-censored).",
        explain_event(runs),
        *layout.pooled(runs),
    ]
    if len(runs) > len(finished):
        caption.append(f"Without an outcome and not shown: {len(runs) - len(finished)}.")
    legend = [
        (outcome, Line2D([], [], color=style.MUTED, linestyle="none", marker=mark, markerfacecolor=_fill(outcome)))
        for outcome, mark in _MARKS.items()
        if (finished["outcome"] == outcome).any()
    ]
    with style.applied():
        figure, grid = facets(
            layout.titles,
            (2.6, max(0.9, (0.5 if levels <= 6 else 0.3) * levels)),
            f"When runs {event_words(runs)}, {style.count(len(finished), 'finished run')}",
            " ".join(caption),
            legend,
            x=STEP,
            y=layout.lines.label,
        )
        for place, line, part in _parts(layout, finished):
            _draw_events(grid[place], part, line, layout.looks[line].colour)
        for axes in grid:
            axes.grid(visible=False, axis="y")
            for border in range(1, levels):
                axes.axhline(border - 0.5, color=style.GRID, linewidth=0.6)
        grid[0].set(ylim=(-0.5, levels - 0.5), xlim=(0, _reach(finished["last_step"])))
        grid[0].set_yticks(range(levels), layout.lines.levels)
    return figure


def _parts(layout: Layout, runs: pd.DataFrame) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """Panel, colour and their runs, for each panel and colour that has runs."""
    keys = [layout.panels.codes.loc[runs.index].rename("panel"), layout.lines.codes.loc[runs.index].rename("line")]
    for (panel, line), part in runs.groupby(keys):
        yield int(str(panel)), int(str(line)), part


def _draw_events(axes: Axes, part: pd.DataFrame, line: int, tone: str) -> None:
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
            axes.hlines(heights[these], 0, steps[these], color=tone, linewidth=0.6, alpha=0.45)
        else:
            axes.hlines(heights[these], alive[these], steps[these], color=tone, linewidth=min(2.5, small / 2))
        face = _fill(outcome) or tone
        points: dict[str, Any] = {"marker": mark, "markersize": small, "color": tone, "markerfacecolor": face}
        axes.plot(steps[these], heights[these], linestyle="none", clip_on=False, zorder=3, **points)


def _fill(outcome: str) -> str | None:
    return style.PAPER if outcome == "survived" else None


def _reach(steps: pd.Series[Any]) -> float:
    return 1.03 * max(1.0, float(steps.max()) if steps.notna().any() else 1.0)
