# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where the networks die
#
# Of all runs of one sweep: the share that died over the number of filters and the residual scale, the dead units on the
# way there, and the step at which each run died.
#
# The committed results of the sweep `filters` are read, or those in the folder that the environment variable
# `HARNESS_OUT` names: the output of `harness sweep`, or compact results.

# %%
"""Where the networks die: maps, curves and steps from the results of one sweep."""

import os

import seaborn

from analysis.figures import course, phase_map, style
from analysis.frames import columns, results
from analysis.report import findings
from analysis.statistics import phase

# %matplotlib inline

sweep = results.read(os.environ.get("HARNESS_OUT", findings.RESULTS / "filters"))
runs = sweep.runs
print(f"{sweep.name}: {len(runs)} runs that differ in {', '.join(columns.varying(runs)) or 'nothing'}")

# %% [markdown]
# ## The map
#
# One map for each learning rate. A cell counts the runs that died among those that finished; below the count stands the
# interval in which the share of all such runs may lie. The dots show the residual scale at which half of the runs die.

# %%
phase_map.phase_map(runs)

# %% [markdown]
# The same as numbers, the learning rates together: one row for each level of the vertical axis (`y`) and of the
# horizontal one (`x`), lowest first.

# %%
x, y = columns.choose(runs)
phase.cells(runs, columns.factor(runs, x), columns.factor(runs, y)).round(3)

# %% [markdown]
# ## The way there
#
# From here on only the runs at the sweep's highest learning rate. A run dies when its line reaches 1 and stays there;
# many others lose most of their units and live on.

# %%
fastest = runs[runs["optim.lr"] == runs["optim.lr"].max()]
print(f"{len(fastest)} runs at learning rate {runs['optim.lr'].max():g}")
course.unit_share(fastest, sweep.rows[sweep.rows["run_id"].isin(fastest["run_id"])])

# %% [markdown]
# The share of units that were dead when each run was last read, at every learning rate of the sweep: at the highest one
# the runs that live on have lost most of theirs too.

# %%
with style.applied():
    left = runs.rename(columns=columns.LABELS | {"prepool/dead_share_batch": "dead units / pre-pool units"})
    grid = seaborn.displot(
        left,
        x="dead units / pre-pool units",
        hue="residual scale α",
        col="learning rate",
        multiple="stack",
        binwidth=0.1,
        binrange=(0, 1),
        palette=style.colours(left["residual scale α"].nunique()),
        height=2.4,
    )
    grid.set_ylabels("runs")

# %% [markdown]
# ## When
#
# The checks are some steps apart, so a death is known to an interval; a survivor is known up to its last check only.

# %%
course.event_steps(fastest)
