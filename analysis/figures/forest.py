"""Estimates with their intervals, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.statistics.estimates import Estimate


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
        axes = figure.subplots()
        if reference is not None:
            axes.axvline(reference, color=style.MUTED, linewidth=0.9)
            if margin is not None:
                axes.axvspan(reference - margin, reference + margin, color=style.GRID, alpha=0.5, linewidth=0)
        for row, (_, each) in enumerate(estimates):
            if not math.isfinite(each.value):
                continue
            if each.has_interval:
                low, high = (end if math.isfinite(end) else each.value for end in (each.low, each.high))
                axes.hlines(row, low, high, color=style.BLUE, linewidth=1.8)
            face = style.BLUE if each.has_interval else style.PAPER
            axes.plot([each.value], [row], marker="o", color=style.BLUE, markerfacecolor=face, markersize=6)
        words = [f"{each.short}, {each.counted}" for _, each in estimates]
        axes.set(xlabel=label, ylim=(len(estimates) - 0.5, -0.5))
        axes.set_yticks(range(len(estimates)), [name for name, _ in estimates])
        axes.grid(visible=False, axis="y")
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(estimates)), words, fontsize=style.SMALL)
        for side in (axes, right):
            side.tick_params(axis="y", length=0)
        for spine in (axes.spines["left"], right.spines["right"]):
            spine.set_visible(False)
    return figure
