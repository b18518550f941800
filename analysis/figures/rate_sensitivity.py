"""Loss against the learning rate."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.statistics.sensitivity import Sensitivity


def loss_against_rate(found: Mapping[str, Sensitivity], metric: str = "val/loss") -> Figure:
    """The last loss against the learning rate, for each named set of runs: each seed, and their mean."""
    tones = style.colours(len(found))
    legend = [
        (f"{name}: {each.estimate.short}, {each.estimate.counted}", Line2D([], [], **style.line_look(place, tones)))
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
            look = style.line_look(place, tones)
            rates = each.losses.index.to_numpy(dtype=float)
            axis.plot(rates, each.losses, linestyle="none", marker=look["marker"], color=look["color"], markersize=2.5)
            axis.plot(rates, each.losses.mean(axis=1), **look)
            axis.axhline(each.initial, color=look["color"], linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="learning rate", ylabel=f"{metric} (nats)")
    return figure
