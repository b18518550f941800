"""Loss against the learning rate."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import seaborn
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.facets import facets
from analysis.statistics import estimates
from analysis.statistics.sensitivity import Sensitivity


def loss_against_rate(found: Mapping[str, Sensitivity], metric: str = "val/loss") -> Figure:
    """The last loss against the learning rate, for each named set of runs: each seed, and their mean."""
    looks = style.looks(len(found))
    names = [f"{name}: {each.estimate.short}, {each.estimate.counted}" for name, each in found.items()]
    caption = (
        f"min({metric} at the end, loss at initialisation): small marks, one a seed; line and band, their mean and its "
        "95 % interval; dotted, the loss at initialisation. Sensitivity: the mean over the learning rates of the "
        "distance from the seed's best loss, with the 95 % interval over seeds."
    )
    with style.applied():
        title, key = "Loss against the learning rate", style.key(names, looks)
        x, y = "learning rate", f"{metric} (nats)"
        figure, [axes] = facets([""], (5.0, 2.6), title, caption, key, "sensitivity", x=x, y=y)
        axes.set(xscale="log")
        for look, each in zip(looks, found.values(), strict=True):
            losses = each.losses.melt(ignore_index=False, value_name="loss").reset_index()
            line = look.line() | {"markeredgecolor": look.colour}
            seaborn.lineplot(losses, x="optim.lr", y="loss", errorbar=_interval, ax=axes, **line)
            axes.plot(losses["optim.lr"], losses["loss"], linestyle="none", marker=look.mark, color=look.colour, ms=2.5)
            axes.axhline(each.initial, color=look.colour, linewidth=0.8, linestyle=":")
        axes.set(xlabel=x, ylabel=y)
    return figure


def _interval(losses: pd.Series[float]) -> tuple[float, float]:
    each = estimates.mean(losses)
    return each.low, each.high
