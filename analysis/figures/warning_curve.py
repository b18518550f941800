"""How well early readings foretell death."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.facets import facets, table_below, table_height

_LINES = {
    "auc": "readings of the first steps",
    "baseline": "width, residual scale and learning rate alone",
    "within": "readings, among seeds of one cell",
}
"""What is predicted from: columns of the table, and their words."""


def warning_curve(table: pd.DataFrame, event: tuple[str, str] = ("Death", "died")) -> Figure:
    """How well death is predicted against the step of the prediction, from the table of `early_warning.by_step`.

    event: what the table's deaths are called, and did.
    """
    what, did = event
    named = dict(zip(_LINES, reversed(style.looks(len(_LINES))), strict=True))
    looks = {name: look for name, look in named.items() if table[name].notna().any()}
    n = f"{table['n'].max():.0f} runs of {table['groups'].max():.0f} cells"
    caption = (
        f"Area under the ROC curve: of pairs of runs alive at the step, one that {did} later and one that did not, the "
        "share ranked the right way round; 0.5 is chance. Cross-validated over cells; bars: 95 % intervals from "
        "bootstrap samples of the cells. Below: runs known to be alive at the step, and those of them that "
        f"{did} later."
    )
    with style.applied():
        key = style.key([_LINES[name] for name in looks], list(looks.values()), size=4)
        label = "step of the prediction (updates of the weights)"
        figure, [axes] = facets(
            [""], (5.0, 2.6 + table_height(2)), f"{what} foretold, {n}", caption, key, x=label, y="AUC"
        )
        steps = table["step"].to_numpy(dtype=float)
        width = float(np.ptp(steps)) or 1.0
        for place, (name, look) in enumerate(looks.items()):
            beside = steps + 0.008 * width * (place - (len(looks) - 1) / 2)
            axes.vlines(
                beside, table[f"{name}_low"], table[f"{name}_high"], color=look.colour, linewidth=1.1, alpha=0.75
            )
            axes.plot(beside, table[name], **look.line(size=4.5))
        axes.axhline(0.5, color=style.MUTED, linewidth=0.8)
        axes.set(ylim=(min(0.4, float(table[list(looks)].min().min()) - 0.05), 1.02))
        counts = {words: list(table[name].astype(int)) for words, name in (("alive", "n"), (f"{did} later", "died"))}
        table_below(axes, list(steps), counts, "runs")
    return figure
