"""What the figures of single networks share: runs side by side, layers coloured in forward order."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from analysis.figures import style
from analysis.statistics.unit_deaths import is_output

Floats = NDArray[np.float64]
STEP = "step (updates of the weights)"
MOST_LABELS = 36
MOST_LINES_NAMED = 6


def short(layer: str) -> str:
    """A layer's name without what all of its kind have in common."""
    return re.sub(r"^(layer|block)/|/output$|\.activation$|/?up_projection\.(weight|bias)$", "", layer) or layer


def labelled(layers: Sequence[str]) -> list[int]:
    """Which lines of a map are labelled: all, of many the blocks' outputs, or as many as there is room for."""
    outputs = [row for row, layer in enumerate(layers) if is_output(layer)]
    rows = list(range(len(layers))) if len(layers) <= MOST_LABELS or not outputs else outputs
    return [rows[number] for number in evenly(len(rows), MOST_LABELS)]


def evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def side_by_side(
    panels: Mapping[str, Any], rows: int, height: float, title: str, caption: str, *legend: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure with a column of panels, each `height` inches high, for each entry; its words stand above it."""
    titles = [textwrap.fill(words, 32) for words in panels]
    room = 0.17 * max(words.count("\n") + 1 for words in titles)
    width = max(5.2, 1.2 + 2.45 * len(panels))
    figure = style.figure(width, rows * (height + 0.12) + room + 0.5, title, caption.strip(), *legend)
    grid = figure.subplots(rows, len(panels), squeeze=False)
    for axis, words in zip(grid[0], titles, strict=True):
        axis.set_title(words)
    for axis in grid[:-1].flat:
        axis.tick_params(labelbottom=False)
    return figure, grid


def line_look(tones: Sequence[str], number: int, marked: bool = True) -> dict[str, Any]:
    """Colour, dashes and mark of one of several lines; the last one is the plainest."""
    place = len(tones) - 1 - number
    look: dict[str, Any] = {"color": tones[number], "linestyle": style.DASHES[place % len(style.DASHES)]}
    return look | ({"marker": style.MARKS[place % len(style.MARKS)], "markersize": 3} if marked else {})


def draw_line(axis: Axes, x: NDArray[Any], y: Floats, log: bool, look: Mapping[str, Any]) -> None:
    """A line; on a log scale zeros and infinities are open triangles at the panel's edges."""
    drawn = np.isfinite(y) & ((y > 0) | (not log))
    axis.plot(x, np.where(drawn, y, np.nan), linewidth=1.2, **look)
    for these, edge, mark in ((y == 0, 0.0, "v"), (np.isposinf(y), 1.0, "^")):
        if log and these.any():
            face: dict[str, Any] = {"color": look["color"], "markerfacecolor": style.PAPER, "clip_on": False}
            axis.plot(
                x[these], np.full(int(these.sum()), edge), linestyle="none", marker=mark, markersize=4, zorder=4,
                transform=axis.get_xaxis_transform(), **face,
            )  # fmt: skip


def edge_words(values: Iterable[Floats]) -> str:
    """What the triangles mean that `_draw_line` draws for such values; nothing where it draws none."""
    ends = np.concatenate([np.empty(0), *values])
    words = [word for word, some in (("zero", ends == 0), ("infinite", np.isposinf(ends))) if some.any()]
    return f" Triangles at a panel's edge: exactly {' or '.join(words)}." if words else ""


def one_scale(row: Sequence[Axes], log: bool) -> None:
    """Give the panels of a row one scale, of at least a decade where it is logarithmic, numbered at the first."""
    for axis in row[1:]:
        axis.sharey(row[0])
        axis.tick_params(labelleft=False)
    if not log:
        return
    row[0].set_yscale("log")
    drawn = [line.get_ydata() for axis in row for line in axis.get_lines() if line.get_transform() == axis.transData]
    ends = np.concatenate([np.asarray(values, dtype=np.float64) for values in drawn] or [np.empty(0)])
    ends = ends[np.isfinite(ends) & (ends > 0)]
    low, high = (ends.min(), ends.max()) if ends.size else (1.0, 1.0)
    middle, half = np.sqrt(low * high), max(1.1 * np.log10(high / low), 1.0) / 2
    row[0].set_ylim(middle * 10**-half, middle * 10**half)
    row[0].yaxis.set_major_locator(LogLocator(subs=(1.0,) if half > 1 else (1.0, 3.0), numticks=5))
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    row[0].yaxis.set_minor_formatter(NullFormatter())


def step_axis(axis: Axes, steps: NDArray[Any]) -> None:
    """Steps from the first to the last, by their logarithm where half of the readings lie in the first eighth."""
    if len(steps) > 3 and np.median(steps) < steps.max() / 8:
        axis.set_xscale("symlog", linthresh=1, linscale=0.5)
        axis.xaxis.set_major_formatter(
            FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")
        )
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axis.set_xlim(steps.min(), max(steps.max(), steps.min() + 1))


def label_steps(grid: NDArray[Any]) -> None:
    """Say below the last row of panels that their axis is the step."""
    for axis in grid[-1]:
        axis.set_xlabel(STEP)
