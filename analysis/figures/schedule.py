"""The learning rate, and the delay of asynchronous gradients, against the step, drawn before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures import style


def schedule_figure(rates: Sequence[float], caption: str, delays: Sequence[int] | None = None) -> Figure:
    """The learning rate of every update, `rates` in order of step; logarithmic where they span more than a decade.

    delays: of every update, updates between its gradient's parameters and its use; in a panel below, None for no panel.
    """
    with style.applied():
        title = f"Learning rate {'' if delays is None else 'and delay '}over {style.count(len(rates), 'update')}"
        figure = style.figure(7.0, 2.8 if delays is None else 4.4, title, caption)
        panel, *below = figure.subplots(1 if delays is None else 2, 1, sharex=True, squeeze=False)[:, 0]
        panel.plot(range(len(rates)), rates, color=style.BLUE, drawstyle="steps-post")
        if min(rates) > 0 and max(rates) > 10 * min(rates):
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, 1.05 * max(rates))
        panel.set_ylabel("learning rate")
        panel.set_xlim(0, max(1, len(rates) - 1))
        for lower in below:
            lower.plot(range(len(rates)), delays, color=style.VERMILION, drawstyle="steps-post", linewidth=0.8)
            lower.set_ylabel("delay of the gradient\n(updates)")
            lower.set_ylim(bottom=0)
        [panel, *below][-1].set_xlabel("step (updates of the weights)")
    return figure
