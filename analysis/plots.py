"""Figures of what the other modules estimate: one for each question, with its uncertainty and its n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from analysis import axes, dose, growth, style
from analysis.dose import LethalDose
from analysis.estimates import Estimate
from analysis.phase import UNFINISHED, event_words, explain_event
from analysis.sensitivity import Sensitivity
from harness.located import InputError

_SMALL = 7.5
_MOST_TICKS = 9
_LABELS = {
    "prepool/units": "pre-pool filters",
    "model.residual_scale": "residual scale α",
    "optim.lr": "learning rate",
    "model.width": "width (factor on all filters)",
}


def dose_response(runs: pd.DataFrame, column: str, colour: str | None = None, rising: bool = True) -> Figure:
    """The share of runs that died against a dose, the fitted curve, and the lethal dose with its interval.

    `column` is a numeric column of a frame of `load`, such as `prepool/units` or `optim.lr`; `colour` another, each
    level of which has a curve; left out, the one that varies and tells most. `rising` as in `dose.lethal_dose`. Runs
    that differ in further fields are counted together. Raises InputError as that does where no level has a lethal dose.
    """
    others = [name for name in axes.candidates(runs) if name != column and not _one_to_one(runs, name, column)]
    colour = colour or (others[0] if others else None)
    found: dict[str, LethalDose] = {}
    problems: list[str] = []
    for words, part in axes.pieces(runs, [colour] if colour else []):
        try:
            found[words] = dose.lethal_dose(part, column, rising)
        except InputError as error:
            problems += [f"{words}: {problem}" if words else problem for problem in error.problems]
    if not found:
        raise InputError(problems)
    word = event_words(runs)
    notes = [
        f"Marks: share of finished runs that {word}, with its 95 % Wilson interval. Curves: logistic in the logarithm.",
        "Bar at one half: 95 % interval of the dose at which half of the runs do; an arrow where it is open.",
        explain_event(runs),
    ]
    if pooled := [name for name in others if name != colour]:
        notes.append(f"Runs that differ in {', '.join(pooled)} are counted together.")
    notes += [f"Without a curve: {problem}." for problem in problems] + _left_out(runs)
    tones = style.colours(len(found))
    legend = [
        (f"{words}{': ' if words else ''}{_lethal(each)}, n = {each.estimate.n}", Line2D([], [], **_look(place, tones)))
        for place, (words, each) in enumerate(found.items())
    ]
    with style.applied():
        total = sum(each.estimate.n for each in found.values())
        label = _LABELS.get(column, column)
        title = f"Runs that {word} against {label.split(' (')[0]}, {style.count(total, 'finished run')}"
        figure = style.figure(6.4, 3.0, title, " ".join(notes), legend[::-1], f"half of the runs {_verb(word)} at")
        axis = figure.subplots()
        tested = sorted({float(value) for each in found.values() for value in each.doses["dose"]})
        axis.set(xscale="log", xlim=(tested[0] / 1.25, tested[-1] * 1.25), ylim=(-0.04, 1.04))
        if len(tested) <= _MOST_TICKS:
            axis.xaxis.set_major_locator(FixedLocator(tested))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticklabels([f"{value:.4g}" for value in tested])
        axis.axhline(0.5, color=style.MUTED, linewidth=0.8)
        for place, each in enumerate(found.values()):
            _draw_dose(axis, each, place - (len(found) - 1) / 2, _look(place, tones))
        axis.set(xlabel=label, ylabel=f"share that {word}")
    return figure


def _draw_dose(axis: Axes, found: LethalDose, shift: float, look: dict[str, Any]) -> None:
    """One curve with its marks, those and the interval moved aside by `shift` places for others."""
    tone, mark, left, right = look["color"], look["marker"], *axis.get_xlim()
    grid = np.geomspace(*found.tested, 200)
    axis.plot(grid, found.share(grid), color=tone, linestyle=look["linestyle"], linewidth=1.4)
    beside = found.doses["dose"] * (right / left) ** (0.012 * shift)
    axis.vlines(beside, found.doses["low"], found.doses["high"], color=tone, linewidth=1, alpha=0.7)
    axis.plot(beside, found.doses["share"], linestyle="none", marker=mark, color=tone, markersize=5)
    low, high = found.estimate.low, found.estimate.high
    if low == 0 and high == math.inf:
        return
    height = 0.5 + 0.03 * shift
    ends = max(low, left), min(high, right)
    axis.plot(ends, [height, height], color=tone, linewidth=4, alpha=0.45, solid_capstyle="butt")
    for end, arrow, is_open in ((ends[0], "<", low == 0), (ends[1], ">", high == math.inf)):
        axis.plot([end], [height], marker=arrow if is_open else "|", color=tone, markersize=7, clip_on=False)
    if found.located:
        axis.plot([found.estimate.value], [height], marker=mark, color=tone, markerfacecolor=style.PAPER, markersize=7)


def warning_curve(table: pd.DataFrame) -> Figure:
    """How well death is predicted against the step of the prediction, from the table of `early_warning`."""
    lines = [
        ("auc", "readings of the first steps", style.VERMILION, "o", "solid"),
        ("baseline", "width, residual scale and learning rate alone", style.BLUE, "s", style.DASHES[1]),
        ("within", "readings, among seeds of one cell", style.GREEN, "^", style.DASHES[2]),
    ]
    lines = [line for line in lines if table[line[0]].notna().any()]
    legend = [
        (label, Line2D([], [], color=tone, marker=mark, linestyle=dash, markersize=4))
        for _, label, tone, mark, dash in lines
    ]
    n = f"{table['n'].max():.0f} runs of {table['groups'].max():.0f} cells"
    caption = (
        "Area under the ROC curve: of pairs of runs alive at the step, one that died later and one that did not, the "
        "share ranked the right way round; 0.5 is chance. Cross-validated over cells; bars: 95 % intervals from "
        "bootstrap samples of the cells. Below: runs known to be alive at the step, and those of them that died later."
    )
    with style.applied():
        figure = style.figure(6.4, 3.3, f"Death foretold, {n}", caption, legend)
        axis, strip = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 0.55])
        steps = table["step"].to_numpy(dtype=float)
        width = float(np.ptp(steps)) or 1.0
        for place, (name, _, tone, mark, dash) in enumerate(lines):
            beside = steps + 0.008 * width * (place - (len(lines) - 1) / 2)
            axis.vlines(beside, table[f"{name}_low"], table[f"{name}_high"], color=tone, linewidth=1.1, alpha=0.75)
            axis.plot(beside, table[name], color=tone, marker=mark, linestyle=dash, markersize=4.5)
        axis.axhline(0.5, color=style.MUTED, linewidth=0.8)
        axis.set(ylim=(min(0.4, float(table[[line[0] for line in lines]].min().min()) - 0.05), 1.02), ylabel="AUC")
        for row, name in enumerate(("died", "n")):
            for step, count in zip(steps, table[name], strict=True):
                strip.text(step, row, f"{count:.0f}", ha="center", va="center", fontsize=_SMALL)
        strip.set(ylim=(-0.6, 1.6), xlabel="step of the prediction (updates of the weights)")
        strip.set_yticks([0, 1], ["died later", "alive"], fontsize=_SMALL)
        strip.grid(visible=False)
        strip.tick_params(length=0)
        strip.spines[["left", "bottom"]].set_visible(False)
    return figure


def loss_against_rate(found: Mapping[str, Sensitivity], metric: str = "val/loss") -> Figure:
    """The last loss against the learning rate, for each named set of runs: each seed, and their mean."""
    tones = style.colours(len(found))
    legend = [
        (f"{name}: {_short(each.estimate)}, {each.estimate.counted}", Line2D([], [], **_look(place, tones)))
        for place, (name, each) in enumerate(found.items())
    ]
    caption = (
        f"min({metric} at the end, loss at initialisation), one small mark a seed, the line their mean; dotted: the "
        "loss at initialisation. Sensitivity: the mean over the learning rates of the distance from the seed's best "
        "loss, with the 95 % interval over seeds."
    )
    with style.applied():
        figure = style.figure(6.4, 3.0, "Loss against the learning rate", caption, legend, "sensitivity")
        axis = figure.subplots()
        for place, each in enumerate(found.values()):
            look = _look(place, tones)
            rates = each.losses.index.to_numpy(dtype=float)
            axis.plot(rates, each.losses, linestyle="none", marker=look["marker"], color=look["color"], markersize=2.5)
            axis.plot(rates, each.losses.mean(axis=1), **look)
            axis.axhline(each.initial, color=look["color"], linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="learning rate", ylabel=f"{metric} (nats)")
    return figure


def variance_growth(table: pd.DataFrame) -> Figure:
    """The growth of the stream's variance over a stage against L * alpha², from the table of `growth.variances`."""
    grown = table[(table["growth"] > 0) & (table["alpha"] > 0)]
    fits = growth.growth(table)
    scales = sorted(grown["alpha"].unique())
    tones = style.colours(len(scales))
    looks = {alpha: _look(place, tones) | {"linestyle": "none", "markersize": 4} for place, alpha in enumerate(scales)}
    legend = [(f"{alpha:g}", Line2D([], [], **look)) for alpha, look in looks.items()]
    shrunk = sum(each.shrunk for each in fits)
    caption = (
        "Variance of the residual sum (per channel, mean over channels) at initialisation, less that at the stage's "
        "start, one mark a block and run; L: blocks of the stage until then. Line: least squares, proportional to "
        "L·α², and its R²; exponents: least squares of the logarithms; means over seeds with 95 % intervals."
    ) + (f" Of {len(table)} points {shrunk} did not grow and have no logarithm: not shown." if shrunk else "")
    with style.applied():
        seeds = style.count(table["seed"].nunique(), "seed")
        figure = style.figure(2.2 + 2.7 * len(fits), 3.0, f"Variance at initialisation, {seeds}", caption, legend, "α")
        grid = figure.subplots(1, len(fits), squeeze=False, sharey=True)
        for axis, each in zip(grid.flat, fits, strict=True):
            part = grown[grown["stage"] == each.stage]
            for alpha in scales:
                points = part[part["alpha"] == alpha]
                axis.plot(points["block"] * alpha**2, points["growth"], **looks[alpha])
            reach = part["block"] * part["alpha"] ** 2
            ends = np.array([reach.min(), reach.max()])
            axis.plot(ends, each.slope.value * ends, color=style.INK, linewidth=1)
            axis.set(xscale="log", yscale="log")
            axis.set_title(f"stage {each.stage}")
            words = f"R² {_short(each.explained)}\nexponent of L {_short(each.blocks)}\nof α² {_short(each.scale)}"
            axis.text(0.03, 0.97, words, transform=axis.transAxes, va="top", fontsize=_SMALL)
        style.trim(grid, len(fits), "L·α²", "growth of the variance")
    return figure


def forest(
    estimates: Sequence[tuple[str, Estimate]],
    label: str,
    title: str,
    caption: str,
    reference: float | None = 0.0,
    margin: float | None = None,
) -> Figure:
    """Estimates below each other with their intervals and n; a line at `reference` and a band of +-`margin` around it.

    An estimate without an interval is an open mark. An end that is not finite is not drawn, and the words say it.
    """
    with style.applied():
        height = 0.75 + 0.3 * len(estimates)
        figure = style.figure(6.8, height, title, caption)
        axis = figure.subplots()
        if reference is not None:
            axis.axvline(reference, color=style.MUTED, linewidth=0.9)
            if margin is not None:
                axis.axvspan(reference - margin, reference + margin, color=style.GRID, alpha=0.5, linewidth=0)
        for row, (_, each) in enumerate(estimates):
            if not math.isfinite(each.value):
                continue
            if each.has_interval:
                low, high = (end if math.isfinite(end) else each.value for end in (each.low, each.high))
                axis.hlines(row, low, high, color=style.BLUE, linewidth=1.8)
            face = style.BLUE if each.has_interval else style.PAPER
            axis.plot([each.value], [row], marker="o", color=style.BLUE, markerfacecolor=face, markersize=6)
        words = [f"{_short(each)}, {each.counted}" for _, each in estimates]
        axis.set(xlabel=label, ylim=(len(estimates) - 0.5, -0.5))
        axis.set_yticks(range(len(estimates)), [name for name, _ in estimates])
        axis.grid(visible=False, axis="y")
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(estimates)), words, fontsize=_SMALL)
        for side in (axis, right):
            side.tick_params(axis="y", length=0)
        for spine in (axis.spines["left"], right.spines["right"]):
            spine.set_visible(False)
    return figure


def _look(place: int, tones: list[str]) -> dict[str, Any]:
    """Colour, mark and dashes of one of several levels; the highest has the plainest."""
    turn = len(tones) - 1 - place
    dashes = style.DASHES[turn % len(style.DASHES)]
    return {"color": tones[place], "marker": style.MARKS[turn % len(style.MARKS)], "linestyle": dashes, "markersize": 5}


def _one_to_one(runs: pd.DataFrame, field: str, column: str) -> bool:
    """Whether a field and a column of the runs say the same, as width and filters of one architecture do."""
    if column not in runs:
        return False
    both = runs[[field, column]].dropna().astype(str).drop_duplicates()
    return len(both) == both[field].nunique() == both[column].nunique()


def _lethal(found: LethalDose) -> str:
    """The lethal dose in a few words."""
    lowest, highest = (f"{end:.3g}" for end in found.tested)
    value, low, high = found.estimate.value, found.estimate.low, found.estimate.high
    if low == 0 and high == math.inf:
        return "not located"
    start = f"{low:.3g}" if low else f"below {lowest}"
    end = f"{high:.3g}" if high < math.inf else f"above {highest}"
    where = f"{value:.3g}" if found.located else f"below {lowest}" if value == 0 else f"above {highest}"
    return f"{where} ({start} to {end})" if found.located else f"{where}, beyond the range tested"


def _verb(word: str) -> str:
    return {"died": "die", "collapsed": "collapse"}.get(word, "die or collapse")


def _short(each: Estimate) -> str:
    if not each.has_interval:
        return f"{each.value:.3g} (no interval)"
    return f"{each.value:.3g} ({each.low:.3g} to {each.high:.3g})"


def _left_out(runs: pd.DataFrame) -> list[str]:
    counts = [f"{count} {state}" for state in UNFINISHED if (count := int((runs["state"] == state).sum()))]
    return [f"Not counted: {', '.join(counts)}."] if counts else []
