"""Figures of time to an event: who is still alive, how fast runs train, and what ended them; numbers at risk below.

One panel for each level of one column, one colour for each level of another, all finished runs in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.words import UNFINISHED, event_words, explain_event
from analysis.frames import columns
from analysis.statistics import estimates, survival
from analysis.statistics.survival import AGAINST, Against, Curve

MOST_BANDS, MOST_BARS = 2, 6
"""A figure with more colours than the first has intervals at some times instead of bands, which would hide each other;
with more than the second, at the last time only."""
_MOMENTS = 5
"""Times at which the numbers at risk are written, and intervals drawn."""


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

    def look(self, line: int) -> dict[str, Any]:
        """Colour and dashes; the highest level is solid."""
        count = len(self.levels)
        dashes = style.DASHES[(count - 1 - line) % len(style.DASHES)]
        return {"color": style.colours(count)[line], "linestyle": dashes}

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
    `colour` name columns of `runs`, left out those of `axes.choose`. A panel's p is that of the log-rank test between
    its colours, by Holm over the panels. Raises InputError for an unknown column and where no run has finished.
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
    pooled = [column for column in columns.candidates(runs) if column != picked]
    notes = [f"Cumulative incidence: the share of all runs that had {word}, or diverged.", explain_event(runs)]
    if pooled:
        notes.append(f"Runs that differ in {', '.join(pooled)} are counted together.")

    def curves(end: str) -> Callable[[pd.DataFrame], Curve]:
        return lambda part: survival.cumulative_incidence(part["time"], part["end"], end)

    with style.applied():
        title = f"How runs ended, {style.count(len(times), 'finished run')}"
        figure, grid, strips = _panels(plan, list(causes.values()), title, _caption(runs, notes))
        for place, end in enumerate(causes):
            _draw(grid.flat[place], strips.flat[place], plan, 0, curves(end))
        _label(grid, strips, plan, len(causes), "share of runs", AGAINST[against])
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
        figure, grid, strips = _panels(plan, plan.titles, title, _caption(runs, notes))
        for place, words in enumerate(plan.titles):
            _draw(grid.flat[place], strips.flat[place], plan, place, curve, rising)
            if words in adjusted:
                p = f"p = {adjusted[words]:.2g}" if adjusted[words] >= 1e-4 else "p < 0.0001"
                grid.flat[place].set_title(p, loc="right", fontsize=style.SMALL, color=style.MUTED)
        _label(grid, strips, plan, len(plan.titles), share, label)
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
    text = " ".join(notes) + " Bands and bars: 95 %, at each time. Below: runs followed until then without an end."
    left_out = [f"{count} {state}" for state in UNFINISHED if (count := int((runs["state"] == state).sum()))]
    return text + (f" Not counted: {', '.join(left_out)}." if left_out else "")


def _panels(plan: _Plan, titles: list[str], title: str, caption: str) -> tuple[Figure, Any, Any]:
    """A figure with a panel for each title, and below each a strip for the numbers at risk."""
    columns = min(len(titles), 4 if len(titles) > 9 else 2 if len(titles) in (2, 4) else 3)
    rows = -(-len(titles) // columns)
    strip = 0.25 + 0.15 * len(plan.levels)
    legend = [(level, Line2D([], [], **plan.look(line))) for line, level in enumerate(plan.levels)]
    height = rows * (2.1 + strip) + 0.4
    figure = style.figure(1.9 + 2.6 * columns, height, title, caption, legend[::-1], plan.label)
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.025, hspace=0)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.1, strip] * rows)
    for axis, words in zip(grid[::2].flat, titles, strict=False):
        axis.set_title(words)
    return figure, grid[::2], grid[1::2]


def _draw(
    axis: Axes, strip: Axes, plan: _Plan, panel: int, curve: Callable[[pd.DataFrame], Curve], rising: bool = False
) -> None:
    """One panel's curves, and its numbers at risk."""
    reach = float(plan.times["held"].max()) or 1.0
    moments = np.linspace(0, reach, _MOMENTS)
    for line, part in plan.parts(panel):
        look, found = plan.look(line), curve(part)
        if rising:
            found = replace(found, share=1 - found.share, low=1 - found.high, high=1 - found.low)
        end = float(found.time[-1]) if (part["end"] == "censored").any() else reach  # nobody is left to change it
        time, low, share, high = (np.append(v, v[-1]) for v in (found.time, found.low, found.share, found.high))
        time[-1] = end
        axis.step(time, share, where="post", linewidth=1.6, **look)
        if len(plan.levels) <= MOST_BANDS:
            axis.fill_between(time, low, high, step="post", color=look["color"], alpha=0.2, linewidth=0)
        else:
            drawn = moments[1:] if len(plan.levels) <= MOST_BARS else moments[-1:]
            spread = [(moment, found.at(moment)) for moment in drawn if moment <= end]
            places = [moment + reach * 0.02 * (line - (len(plan.levels) - 1) / 2) for moment, _ in spread]
            ends = [each.low for _, each in spread], [each.high for _, each in spread]
            axis.vlines(places, *ends, color=look["color"], linewidth=1.1, alpha=0.75)
        for moment, count in zip(moments, survival.numbers_at_risk(part["time"], moments), strict=True):
            strip.text(moment, line, f"{count}", ha="center", va="center", fontsize=style.SMALL, color=style.INK)
    axis.set(xlim=(-0.03 * reach, 1.05 * reach), ylim=(-0.03, 1.04), xticks=moments, xticklabels=[])
    strip.set(xlim=axis.get_xlim(), ylim=(-0.6, len(plan.levels) - 0.4), xticks=moments)
    strip.set_xticklabels([f"{moment:.3g}" for moment in moments])


def _label(grid: Any, strips: Any, plan: _Plan, used: int, y: str, x: str) -> None:
    """Words at the outer panels; blank panels where there is nothing."""
    columns = grid.shape[1]
    for place, (axis, strip) in enumerate(zip(grid.flat, strips.flat, strict=True)):
        if place >= used:
            axis.set_axis_off()
            strip.set_axis_off()
            continue
        strip.grid(visible=False)
        strip.tick_params(length=0)
        strip.spines[["left", "bottom"]].set_visible(False)
        strip.set_yticks(range(len(plan.levels)), plan.levels, fontsize=style.SMALL)
        if place % columns:
            axis.set_yticklabels([])
            strip.set_yticklabels([])
        else:
            axis.set_ylabel(y)
            strip.set_ylabel("at risk", fontsize=style.SMALL)
        if place + columns >= used:
            strip.set_xlabel(x)
