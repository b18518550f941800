"""Maps of cells over two factors: a colour for a share, and lines of text in every cell."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import seaborn
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.frames.columns import Factor

LINE = 0.17
"""Height of a line of a cell, in inches."""


@contextlib.contextmanager
def _alone(axes: Axes) -> Iterator[None]:
    """Draw nothing else of the figure, nor lay it out: seaborn draws it whole to see whether labels overlap."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "panels are in a figure"
    engine, others = (
        figure.get_layout_engine(),
        [each for each in figure.axes if each is not axes and each.get_visible()],
    )
    figure.set_layout_engine("none")
    for each in others:
        each.set_visible(False)
    try:
        yield
    finally:
        for each in others:
            each.set_visible(True)
        figure.set_layout_engine(engine)


def draw_cells(axes: Axes, shares: pd.Series[float], across: Factor, up: Factor) -> None:
    """A cell for each combination of levels, index (y, x), the lowest at the bottom left; hatched without a share."""
    labels = {"xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel()}
    look: dict[str, Any] = {"cmap": style.SHARES, "vmin": 0, "vmax": 1, "cbar": False}
    below = [level.replace(" to ", "\nto ") for level in across.levels]
    with _alone(axes):
        seaborn.heatmap(shares.unstack(), ax=axes, xticklabels=below, yticklabels=up.levels, **look)
    axes.set(ylim=(0, len(up.levels)), **labels)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
    axes.grid(visible=False)
    axes.patch.set(hatch="////", edgecolor=style.GRID)
    borders: dict[str, Any] = {"color": style.PAPER, "linewidth": 4}
    axes.hlines(range(len(up.levels) + 1), 0, len(across.levels), **borders)
    axes.vlines(range(len(across.levels) + 1), 0, len(up.levels), **borders)


def write(axes: Axes, shares: pd.Series[float], texts: Sequence[Sequence[str]], line: float, size: float) -> None:
    """The lines of every cell, `line` times as high as a cell; with a share, the first has letters of `size` points."""
    for (row, column), lines, share in zip(shares.index, texts, shares, strict=True):
        ink = style.MUTED if math.isnan(share) else style.on(style.SHARES(share))
        for number, text in enumerate(lines):
            height = row + 0.5 + line * ((len(lines) - 1) / 2 - number)
            first = not number and not math.isnan(share)
            letters = {"fontsize": size, "fontweight": "bold"} if first else {"fontsize": 0.58 * size}
            axes.text(column + 0.5, height, text, ha="center", va="center", color=ink, **letters)
