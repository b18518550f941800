"""Figures of time to an event: who is still alive, how fast runs train, and what ended them; numbers at risk below.

One panel for each level of one column, one colour for each level of another, all finished runs in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.facets import facets, table_below, table_height
from analysis.figures.style import Look
from analysis.figures.words import event_words, explain_event, not_counted, together
from analysis.frames import columns
from analysis.statistics import estimates, survival
from analysis.statistics.survival import AGAINST, Against, Curve

MOST_BANDS, MOST_BARS = 2, 6
"""A figure with more colours than the first has intervals at some times instead of bands, which would hide each other;
with more than the second, at the last time only."""
_MOMENTS = 5
"""Times at which the numbers at risk are written, and intervals drawn."""
_SIZE = (2.6, 2.1)
"""Of a panel, in inches."""


@dataclass(frozen=True)
class _Plan:
    """The times of runs sorted into panels (their titles) and colours.

    panels, lines: for each time, by the frame's index, the number of its panel and colour.
    """

    times: pd.DataFrame
    titles: list[str]
    panels: pd.Series[int]
    levels: list[str]
    lines: pd.Series[int]
    label: str

    @property
    def looks(self) -> list[Look]:
        """How the curves look."""
        return style.looks(len(self.levels))

    def parts(self, panel: int) -> Iterator[tuple[int, pd.DataFrame]]:
        """Each colour of a panel that has runs, with their times."""
        for line in range(len(self.levels)):
            part = self.times[(self.panels == panel) & (self.lines == line)]
            if len(part):
                yield line, part


def survival_curves(
    runs: pd.DataFrame,
    rows: pd.DataFrame | None = None,
    panel: str | None = None,
    colour: str | None = None,
    against: Against = "step",
) -> Figure:
    """The share of runs that have not died (or collapsed) against time, by Kaplan and Meier, with 95 % bands.

    `runs` and `rows` are frames of `load` and `load_rows` (rows only for the cumulative learning rate); `panel` and
    `colour` name columns of `runs`, left out those of `columns.choose`. A panel's p is that of the log-rank test
    between its colours, by Holm over the panels. Raises InputError for an unknown column and where no run has finished.
    """
    times = survival.times(runs, rows, against)
    word = event_words(runs)
    cadence = runs.loc[times.index, "train.check_every"].dropna().unique()
    dated = f"Dated to the check that found it ({' or '.join(f'{steps:g}' for steps in sorted(cadence))} steps apart)."
    diverged = int((times["end"] == "competing").sum())
    notes = [explain_event(runs), dated]
    if diverged:
        notes.append(f"{style.count(diverged, 'run')} diverged, can no longer die, and stay among those that did not.")
    title = f"Runs that have not {word}, {style.count(len(times), 'finished run')}"
    return _kaplan_meier(runs, times, panel, colour, title, f"share not {word}", AGAINST[against], notes)


def speed_curves(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    metric: str,
    target: float,
    panel: str | None = None,
    colour: str | None = None,
    against: Against = "step",
) -> Figure:
    """The share of runs in which a metric has been at least `target` against time; frames and columns as in
    `survival_curves`."""
    times = survival.reached(runs, rows, metric, target, against)
    notes = [f"Reached: a reading of {metric} was at least {target:g}, dated to the first such reading."]
    if lost := int((times["end"] == "competing").sum()):
        notes.append(f"{style.count(lost, 'run')} died or diverged before and stay among those that did not.")
    title = f"Runs that have reached {metric} = {target:g}, {style.count(len(times), 'finished run')}"
    label = "share that reached it"
    return _kaplan_meier(runs, times, panel, colour, title, label, AGAINST[against], notes, rising=True)


def incidence_curves(
    runs: pd.DataFrame, rows: pd.DataFrame | None = None, colour: str | None = None, against: Against = "step"
) -> Figure:
    """The share of runs that died, and that diverged, against time: competing ends, by Aalen and Johansen.

    One panel for each end, one colour for each level of a column; runs that differ in others are counted together.
    """
    times = survival.times(runs, rows, against)
    word = event_words(runs)
    picked = colour or columns.pair(runs, None, None)[1]
    plan = _plan(runs, times, None, picked)
    causes = {"event": word, "competing": "diverged"}
    notes = [
        f"Cumulative incidence: the share of all runs that had {word}, or diverged.",
        explain_event(runs),
        *together([column for column in columns.candidates(runs) if column != picked]),
    ]

    def curves(end: str) -> Callable[[pd.DataFrame], Curve]:
        return lambda part: survival.cumulative_incidence(part["time"], part["end"], end)

    with style.applied():
        title = f"How runs ended, {style.count(len(times), 'finished run')}"
        caption = _caption(runs, notes)
        figure, grid = _panels(plan, list(causes.values()), title, caption, AGAINST[against], "share of runs")
        for axes, end in zip(grid, causes, strict=True):
            _draw(axes, axes is grid[0], plan, 0, curves(end))
    return figure


def _kaplan_meier(
    runs: pd.DataFrame,
    times: pd.DataFrame,
    panel: str | None,
    colour: str | None,
    title: str,
    share: str,
    label: str,
    notes: list[str],
    rising: bool = False,
) -> Figure:
    panel, colour = columns.pair(runs, panel, colour)
    plan = _plan(runs, times, panel, colour)
    tests = {words: _test(plan, place) for place, words in enumerate(plan.titles)}
    tested = {words: p for words, p in tests.items() if not math.isnan(p)}
    adjusted = estimates.holm(tested)
    if tested:
        notes.append("p: log-rank test between the colours of a panel" + ("." if len(tested) == 1 else ", by Holm."))

    def curve(part: pd.DataFrame) -> Curve:
        return survival.kaplan_meier(part["held"], part["end"] == "event")

    with style.applied():
        figure, grid = _panels(plan, plan.titles, title, _caption(runs, notes), label, share)
        for place, (axes, words) in enumerate(zip(grid, plan.titles, strict=True)):
            _draw(axes, axes is grid[0], plan, place, curve, rising)
            if words in adjusted:
                p = f"p = {adjusted[words]:.2g}" if adjusted[words] >= 1e-4 else "p < 0.0001"
                axes.set_title(p, loc="right", fontsize=style.SMALL, color=style.MUTED)
    return figure


def _plan(runs: pd.DataFrame, times: pd.DataFrame, panel: str | None, colour: str) -> _Plan:
    lines = columns.factor(runs, colour)
    levels = [" ".join(level.split()) for level in lines.levels]
    if panel is None:
        return _Plan(times, [""], pd.Series(0, times.index), levels, lines.codes.loc[times.index], lines.label)
    panels = columns.factor(runs, panel)
    titles = [panels.words(code) for code in range(len(panels.levels))]
    return _Plan(times, titles, panels.codes.loc[times.index], levels, lines.codes.loc[times.index], lines.label)


def _test(plan: _Plan, panel: int) -> float:
    here = plan.times[plan.panels == panel]
    if here.empty:
        return math.nan
    return survival.logrank(here["held"], here["end"] == "event", plan.lines[here.index]).p


def _caption(runs: pd.DataFrame, notes: list[str]) -> str:
    bands = "Bands and bars: 95 %, at each time. Below: runs followed until then without an end."
    return " ".join([*notes, bands, *not_counted(runs)])


def _panels(plan: _Plan, titles: list[str], title: str, caption: str, x: str, y: str) -> tuple[Figure, NDArray[Any]]:
    """A figure with a panel for each title, with room below it for the numbers at risk."""
    legend = style.key(plan.levels, plan.looks, size=0)[::-1]
    width, height = _SIZE
    size = width, height + table_height(len(plan.levels))
    return facets(titles, size, title, caption, legend, plan.label, x=x, y=y, margin=1.9)


def _draw(
    axes: Axes, first: bool, plan: _Plan, panel: int, curve: Callable[[pd.DataFrame], Curve], rising: bool = False
) -> None:
    """One panel's curves, and the numbers at risk below it, their lines named at the first panel."""
    reach = float(plan.times["held"].max()) or 1.0
    moments = np.linspace(0, reach, _MOMENTS)
    at_risk: dict[str, Sequence[int]] = dict.fromkeys(reversed(plan.levels), ())
    for line, part in plan.parts(panel):
        look, found = plan.looks[line], curve(part)
        if rising:
            found = replace(found, share=1 - found.share, low=1 - found.high, high=1 - found.low)
        end = float(found.time[-1]) if (part["end"] == "censored").any() else reach  # nobody is left to change it
        time, low, share, high = (np.append(v, v[-1]) for v in (found.time, found.low, found.share, found.high))
        time[-1] = end
        axes.step(time, share, where="post", linewidth=1.6, **look.line(size=0))
        if len(plan.levels) <= MOST_BANDS:
            axes.fill_between(time, low, high, step="post", color=look.colour, alpha=style.BAND, linewidth=0)
        else:
            drawn = moments[1:] if len(plan.levels) <= MOST_BARS else moments[-1:]
            spread = [(moment, found.at(moment)) for moment in drawn if moment <= end]
            places = [moment + reach * 0.02 * (line - (len(plan.levels) - 1) / 2) for moment, _ in spread]
            ends = [each.low for _, each in spread], [each.high for _, each in spread]
            axes.vlines(places, *ends, color=look.colour, linewidth=1.1, alpha=0.75)
        at_risk[plan.levels[line]] = list(survival.numbers_at_risk(part["time"], moments))
    table_below(axes, list(moments), at_risk, "at risk", named=first)
    axes.set(xlim=(-0.03 * reach, 1.05 * reach), ylim=(-0.03, 1.04))
