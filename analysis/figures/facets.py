"""A figure in panels, laid out by seaborn.objects: a panel for each level of one factor, or lines of panels for two."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from seaborn import objects as so

from analysis.figures import style
from analysis.figures.style import Look

_LETTER, _LINE = 0.076, 0.17
"""Width of a letter and height of a line of a panel's title, in inches."""
_SMALL_LETTER = 0.064
"""Width of a letter of the label below a panel, in inches."""
_ROW = 0.15
"""Height of a line of numbers below a panel, in inches."""
_NARROWEST = 5.2
"""Width of a figure that has room for its words, in inches."""
_LABELS = 0.3
"""Room between two panels, in inches."""


def facets(
    titles: Sequence[str],
    size: tuple[float, float],
    title: str,
    caption: str,
    legend: style.Legend = (),
    legend_title: str = "",
    *,
    x: str,
    y: str | Sequence[str],
    plot: so.Plot | None = None,
    share_y: bool = True,
    wide: int | None = None,
    margin: float = 1.4,
) -> tuple[Figure, NDArray[Any]]:
    """A figure with a panel of `size`, in inches, for each of `titles`, and its panels.

    With one label `y` the panels have the same scales, are wrapped into lines of `wide`, and come as (N,). With a list
    of labels there is a line of panels for each, below the titles; steps are those of a column, heights those of a line
    or, without `share_y`, a panel's own; and they come as (labels, N). `plot`, made by `add`, is drawn into them;
    without it they are empty. `margin`: inches beside the panels for labels.
    """
    lines = [y] if isinstance(y, str) else list(y)
    wrapped = isinstance(y, str)
    across = min(len(titles), wide or _across(len(titles))) if wrapped else len(titles)
    down = math.ceil(len(titles) / across) if wrapped else len(lines)
    filled = [textwrap.fill(words, max(12, int(size[0] / _LETTER))) for words in titles]
    below = textwrap.fill(x, max(12, int((size[0] + _LABELS / 2) / _SMALL_LETTER)))
    words = _LINE * max((words.count("\n") for words in filled), default=0) * (down if wrapped else 1)
    words += _LINE * below.count("\n")
    width = max(_NARROWEST, margin + size[0] * across)
    made = style.figure(width, down * (size[1] + _LABELS) + words + 0.3, title, caption, legend, legend_title)
    plot = plot or so.Plot()
    if wrapped:  # every mark brings its own numbers of panels; [0] says only that there are some
        plot = plot.facet(col=[0], order=range(len(titles)), wrap=across)
    else:
        order = {"col": range(len(titles)), "row": range(len(lines))}
        plot = plot.facet(col=[0], row=[0], order=order).share(x="col", y="row" if share_y else False)
    plot.label(x=below, y=lines[0]).theme(style.THEME).on(made).plot()
    grid = np.array(made.axes, dtype=object)
    grid = grid if wrapped else grid.reshape(len(lines), len(titles))
    for place, axes in enumerate(grid.flat):
        axes.set_title(filled[place] if place < len(titles) else "", loc="left").set_visible(True)
        for each in (axes.xaxis, axes.yaxis):  # an inner label is hidden: say that there is none
            each.set_label_text(each.get_label_text() if each.get_label().get_visible() else "").set_visible(True)
    for first, label in zip(np.atleast_2d(grid)[:, 0], lines, strict=True):
        first.set_ylabel(label)
    return made, grid


def add(plot: so.Plot, mark: so.Mark, frame: pd.DataFrame, **variables: str) -> so.Plot:
    """A plot for `facets` with a mark for what a tidy frame holds, if it holds anything.

    The frame's column `panel` is the number of a title, `line`, if it has it, that of a label.
    """
    places = {"col": "panel", "row": "line"} if "line" in frame else {"col": "panel"}
    frame = frame.reset_index(drop=True)  # seaborn joins layers by it
    return plot.add(mark, data=frame, legend=False, **places, **variables) if len(frame) else plot


def add_dots(
    plot: so.Plot, frame: pd.DataFrame, by: str, looks: Mapping[Any, Look], x: str, y: str, **mark: float
) -> so.Plot:
    """The plot with a dot for each row of a frame, colour and mark those of its level in column `by`."""
    levels = list(looks)
    plot = plot.scale(
        color=so.Nominal([look.colour for look in looks.values()], order=levels),
        marker=so.Nominal([look.mark for look in looks.values()], order=levels),
    )
    return add(plot, so.Dots(pointsize=4, **mark), frame, x=x, y=y, color=by, marker=by)


def _across(count: int) -> int:
    """How many panels stand in a line."""
    return 4 if count > 9 else 2 if count == 4 else 3


def table_height(lines: int) -> float:
    """How many inches `table_below` takes for so many lines of numbers."""
    return _ROW * (lines + 1.3)


def table_below(
    axes: Axes, places: Sequence[float], lines: Mapping[str, Sequence[object]], heading: str, named: bool = True
) -> None:
    """Numbers below a panel, under its ticks at `places`: a line for each entry, the first at the top.

    `named`: write the lines' names, and the heading above them, left of the panel.
    """
    axes.set(xticks=places, xticklabels=[f"{float(f'{place:.3g}'):g}" for place in places])
    axes.tick_params(axis="x", pad=72 * table_height(len(lines)))
    small: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": style.SMALL}
    names = [heading, *lines] if named else []
    for number, name in enumerate(names):
        color = style.INK if number else style.MUTED
        below = (-8, -72 * _ROW * (number + 0.8))
        axes.annotate(name, (0, 0), below, xycoords="axes fraction", ha="right", color=color, **small)
    for number, values in enumerate(lines.values(), 1):
        for place, value in zip(places, values, strict=False):
            below = (0, -72 * _ROW * (number + 0.8))
            at: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "color": style.INK}
            axes.annotate(f"{value}", (place, 0), below, **at, **small)


def share_bar(figure: Figure, grid: NDArray[Any], label: str) -> None:
    """What the colours of shares mean, beside the panels."""
    bar = figure.colorbar(ScalarMappable(cmap=style.SHARES), ax=list(grid.flat), aspect=28, pad=0.02, ticks=[0, 0.5, 1])
    bar.set_label(label)
    bar.outline.set_visible(False)


def log_scale(line: Sequence[Axes]) -> None:
    """Make the common vertical scale of some panels logarithmic, over at least a decade."""
    drawn = [each.get_ydata() for axes in line for each in axes.get_lines() if each.get_transform() == axes.transData]
    ends = np.concatenate([np.asarray(values, dtype=np.float64) for values in drawn] or [np.empty(0)])
    ends = ends[np.isfinite(ends) & (ends > 0)]
    low, high = (ends.min(), ends.max()) if ends.size else (1.0, 1.0)
    middle, half = np.sqrt(low * high), max(1.1 * np.log10(high / low), 1.0) / 2
    for axes in line:
        axes.set(yscale="log", ylim=(middle * 10**-half, middle * 10**half))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if half > 1 else (1.0, 3.0), numticks=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def step_scale(axes: Axes, steps: Iterable[float]) -> None:
    """Steps from the first to the last, by their logarithm where half of the readings lie in the first eighth."""
    read = np.fromiter(steps, dtype=np.float64)
    if len(read) > 3 and np.median(read) < read.max() / 8:
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")
        )
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.set_xlim(read.min(), max(read.max(), read.min() + 1))
