"""The share that died against a dose, and the dose at which half die."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.figures import style
from analysis.figures.facets import facets
from analysis.figures.style import Look
from analysis.figures.words import event_words, explain_event, not_counted, together
from analysis.frames import columns
from analysis.statistics import dose
from analysis.statistics.dose import LethalDose
from harness.located import InputError

_MOST_TICKS = 9


@dataclass(frozen=True)
class Fate:
    """What the outcome `died` stands for where it is something else: `were lost`, `are lost`, and a sentence."""

    was: str
    does: str
    explained: str


def dose_response(
    runs: pd.DataFrame, column: str, colour: str | None = None, rising: bool = True, fate: Fate | None = None
) -> Figure:
    """The share of runs that died against a dose, the fitted curve, and the lethal dose with its interval.

    `column` is a numeric column of a frame of `load`, such as `prepool/units` or `optim.lr`; `colour` another, each
    level of which has a curve; left out, the one that varies and tells most. `rising` as in `dose.lethal_dose`. Runs
    that differ in further fields are counted together. Raises InputError as that does where no level has a lethal dose.
    """
    others = [name for name in columns.candidates(runs) if name != column and not _one_to_one(runs, name, column)]
    colour = colour or (others[0] if others else None)
    found: dict[str, LethalDose] = {}
    problems: list[str] = []
    for words, part in columns.pieces(runs, [colour] if colour else []):
        try:
            found[words] = dose.lethal_dose(part, column, rising)
        except InputError as error:
            problems += [f"{words}: {problem}" if words else problem for problem in error.problems]
    if not found:
        raise InputError(problems)
    word = event_words(runs)
    fate = fate or Fate(word, _verb(word), explain_event(runs))
    notes = [
        f"Marks: share of finished runs that {fate.was}, with its 95 % Wilson interval.",
        "Curves: logistic in the logarithm.",
        "Bar at one half: 95 % interval of the dose at which half of the runs do; an arrow where it is open.",
        fate.explained,
    ]
    notes += together([name for name in others if name != colour])
    notes += [*(f"Without a curve: {problem}." for problem in problems), *not_counted(runs)]
    looks = style.looks(len(found))
    names = [
        f"{words}{': ' if words else ''}{each.estimate.short}, {each.estimate.counted}" for words, each in found.items()
    ]
    with style.applied():
        total = sum(each.estimate.n for each in found.values())
        label = columns.LABELS.get(column, column)
        figure, [axes] = facets(
            [""],
            (5.0, 2.6),
            f"Runs that {fate.was} against {label.split(' (')[0]}, {style.count(total, 'finished run')}",
            " ".join(notes),
            style.key(names, looks)[::-1],
            f"half of the runs {fate.does} at",
            x=label,
            y=f"share that {fate.was}",
        )
        tested = sorted({float(value) for each in found.values() for value in each.doses["dose"]})
        axes.set(xscale="log", xlim=(tested[0] / 1.25, tested[-1] * 1.25), ylim=(-0.04, 1.04))
        if len(tested) <= _MOST_TICKS:
            axes.xaxis.set_major_locator(FixedLocator(tested))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([f"{value:.4g}" for value in tested])
        axes.axhline(0.5, color=style.MUTED, linewidth=0.8)
        for place, (each, look) in enumerate(zip(found.values(), looks, strict=True)):
            _draw_dose(axes, each, place - (len(found) - 1) / 2, look)
    return figure


def _draw_dose(axes: Axes, found: LethalDose, shift: float, look: Look) -> None:
    """One curve with its marks, those and the interval moved aside by `shift` places for others."""
    tone, mark, left, right = look.colour, look.mark, *axes.get_xlim()
    grid = np.geomspace(*found.tested, 200)
    axes.plot(grid, found.share(grid), linewidth=1.4, **look.line(size=0))
    beside = found.doses["dose"] * (right / left) ** (0.012 * shift)
    axes.vlines(beside, found.doses["low"], found.doses["high"], color=tone, linewidth=1, alpha=0.7)
    axes.plot(beside, found.doses["share"], linestyle="none", marker=mark, color=tone, markersize=5)
    low, high = found.estimate.low, found.estimate.high
    if low == 0 and high == math.inf:
        return
    height = 0.5 + 0.03 * shift
    ends = max(low, left), min(high, right)
    axes.plot(ends, [height, height], color=tone, linewidth=4, alpha=0.45, solid_capstyle="butt")
    for end, arrow, is_open in ((ends[0], "<", low == 0), (ends[1], ">", high == math.inf)):
        axes.plot([end], [height], marker=arrow if is_open else "|", color=tone, markersize=7, clip_on=False)
    if found.located:
        axes.plot([found.estimate.value], [height], marker=mark, color=tone, markerfacecolor=style.PAPER, markersize=7)


def _one_to_one(runs: pd.DataFrame, field: str, column: str) -> bool:
    """Whether a field and a column of the runs say the same, as width and filters of one architecture do."""
    if column not in runs:
        return False
    both = runs[[field, column]].dropna().astype(str).drop_duplicates()
    return len(both) == both[field].nunique() == both[column].nunique()


def _verb(word: str) -> str:
    return {"died": "die", "collapsed": "collapse"}.get(word, "die or collapse")
