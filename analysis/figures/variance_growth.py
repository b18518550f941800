"""The stream's variance against depth and scale at initialisation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from seaborn import objects as so

from analysis.figures import style
from analysis.figures.facets import add_dots, facets
from analysis.statistics import growth

WORDS: dict[growth.Quantity, tuple[str, str]] = {
    "growth": (
        "growth of the variance",
        "Variance of the residual sum (per channel, mean over channels) at initialisation, less that at the "
        "stage's start",
    ),
    "added_until": (
        "variance added by branches",
        "Variance (per channel, mean over channels) of the residual sum less that of the skip connection, "
        "cumulated over "
        "the stage's blocks, at initialisation",
    ),
}
"""The label and the words of what is drawn."""


def variance_growth(table: pd.DataFrame, quantity: growth.Quantity = "growth") -> Figure:
    """How a quantity of the table of `growth.variances` grows over a stage, against L * alpha²."""
    label, words = WORDS[quantity]
    table = table.assign(grown=table[quantity])
    grown = table[(table["grown"] > 0) & (table["alpha"] > 0)]
    grown = grown.assign(panel=grown["stage"] - grown["stage"].min(), reach=grown["block"] * grown["alpha"] ** 2)
    fits = growth.by_stage(table, quantity)
    scales = sorted(grown["alpha"].unique())
    looks = style.looks(len(scales))
    shrunk = sum(each.shrunk for each in fits)
    caption = (
        f"{words}, one mark a block and run; L: blocks of the stage until then. Line: least squares, proportional to "
        "L·α², and its R²; exponents: least squares of the logarithms; means over seeds with 95 % intervals."
    ) + (f" Of {len(table)} points {shrunk} did not grow and have no logarithm: not shown." if shrunk else "")
    by_scale = dict(zip(scales, looks, strict=True))
    plot = add_dots(so.Plot(), grown, "alpha", by_scale, fillalpha=0.6, stroke=0.4, x="reach", y="grown")
    with style.applied():
        figure, grid = facets(
            [f"stage {each.stage}" for each in fits],
            (2.7, 2.55),
            f"Variance at initialisation, {style.count(table['seed'].nunique(), 'seed')}",
            caption,
            [
                (f"{alpha:g}", Line2D([], [], linestyle="none", marker=look.mark, color=look.colour, markersize=4))
                for alpha, look in by_scale.items()
            ],
            "α",
            x="L·α²",
            y=label,
            plot=plot,
            wide=len(fits),
        )
        for axes, each in zip(grid, fits, strict=True):
            reach = grown.loc[grown["stage"] == each.stage, "reach"]
            ends = np.array([reach.min(), reach.max()])
            axes.plot(ends, each.slope.value * ends, color=style.INK, linewidth=1)
            axes.set(xscale="log", yscale="log")
            words = f"R² {each.explained.short}\nexponent of L {each.blocks.short}\nof α² {each.scale.short}"
            axes.text(0.03, 0.97, words, transform=axes.transAxes, va="top", fontsize=style.SMALL)
    return figure
