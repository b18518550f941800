"""The stream's variance against depth and scale at initialisation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.statistics import growth


def variance_growth(table: pd.DataFrame) -> Figure:
    """The growth of the stream's variance over a stage against L * alpha², from the table of `growth.variances`."""
    grown = table[(table["growth"] > 0) & (table["alpha"] > 0)]
    fits = growth.by_stage(table)
    scales = sorted(grown["alpha"].unique())
    tones = style.colours(len(scales))
    looks = {
        alpha: style.line_look(place, tones) | {"linestyle": "none", "markersize": 4}
        for place, alpha in enumerate(scales)
    }
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
            words = f"R² {each.explained.short}\nexponent of L {each.blocks.short}\nof α² {each.scale.short}"
            axis.text(0.03, 0.97, words, transform=axis.transAxes, va="top", fontsize=style.SMALL)
        style.trim(grid, len(fits), "L·α²", "growth of the variance")
    return figure
