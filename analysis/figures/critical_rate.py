"""The critical learning rate against the delay, measured, and as linear stability has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.facets import facets
from analysis.statistics import critical


def critical_rate(runs: pd.DataFrame) -> Figure:
    """The rate at which half of the runs are functionally dead, with its 95 % interval, by delay and momentum.

    The curves are the threshold of linear stability divided by one constant for each momentum, fitted to it.
    """
    momenta = sorted(runs[critical.MOMENTUM].dropna().unique())
    laws = {momentum: critical.against_threshold(runs[runs[critical.MOMENTUM] == momentum]) for momentum in momenta}
    looks = style.looks(len(momenta))
    fitted = {momentum: law.curvature for momentum, law in laws.items() if law.curvature.located}
    caption = [
        "Marks: rate at which half of the runs are functionally dead, and its 95 % interval; an arrow leads beyond the "
        "rates tested."
    ]
    if fitted:
        constants = " and ".join(f"{each.short} at momentum {momentum:g}" for momentum, each in fitted.items())
        caption.append(f"Curves: largest stable rate of a quadratic whose curvature is {constants}, fitted.")
    caption += [f"At momentum {momentum:g} no one curvature fits." for momentum in laws if momentum not in fitted]
    with style.applied():
        figure, grid = facets(
            [""],
            (5.2, 3.2),
            "The critical learning rate falls with the delay",
            " ".join(caption),
            style.key([f"momentum {momentum:g}" for momentum in momenta], looks),
            x="delay (updates; replicas - 1)",
            y="critical learning rate",
        )
        axes = grid[0]
        delays = np.arange(int(runs[critical.REPLICAS].max()))
        for (momentum, law), look in zip(laws.items(), looks, strict=True):
            axes.plot(
                delays,
                law.rates(float(momentum), map(int, delays)),
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.2,
            )
            for _, point in law.points.iterrows():
                _mark(axes, point, {"color": look.colour, "marker": look.mark})
        axes.set_yscale("log")
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.2, delays[-1] * 1.25 + 0.2)
        ticks = sorted({int(count) - 1 for count in runs[critical.REPLICAS].unique()})
        axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axes.minorticks_off()
    return figure


def _mark(axes: Any, point: pd.Series[Any], look: dict[str, Any]) -> None:
    """A rate with its interval; what lies beyond the rates tested is an arrow at their end."""
    place, lowest, highest = point[critical.REPLICAS] - 1, point["lowest"], point["highest"]
    axes.plot([place] * 2, [max(point["low"], lowest), min(point["high"], highest)], color=look["color"], linewidth=1.4)
    for beyond, end, mark in ((point["low"] < lowest, lowest, "v"), (point["high"] > highest, highest, "^")):
        if beyond:
            axes.plot([place], [end], marker=mark, markersize=5, color=look["color"], linestyle="none")
    if lowest <= point["rate"] <= highest:
        axes.plot([place], [point["rate"]], markersize=6, linestyle="none", **look)
