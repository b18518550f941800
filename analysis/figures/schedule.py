"""The learning rate against the step, drawn before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures import style


def schedule_figure(rates: Sequence[float], caption: str) -> Figure:
    """The learning rate of every update, `rates` in order of step; logarithmic where they span more than a decade."""
    with style.applied():
        figure = style.figure(7.0, 2.8, f"Learning rate over {style.count(len(rates), 'update')}", caption)
        panel = figure.subplots()
        panel.plot(range(len(rates)), rates, color=style.BLUE, drawstyle="steps-post")
        if min(rates) > 0 and max(rates) > 10 * min(rates):
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, 1.05 * max(rates))
        panel.set_xlabel("step (updates of the weights)")
        panel.set_ylabel("learning rate")
        panel.set_xlim(0, max(1, len(rates) - 1))
    return figure
