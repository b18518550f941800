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
# # How the signal passes the blocks
#
# At every residual sum the stream x meets the scaled branch αF. How large both are against depth, at initialisation
# and later in the training, how fast the branches' last layers move, and how the variance at initialisation depends
# on the number of blocks L and the residual scale α.

# %%
"""How the signal passes the blocks: readings of every residual sum from committed results."""

import pandas as pd
import seaborn

from analysis.figures import signal, style, variance_growth
from analysis.frames import columns, results
from analysis.report import findings
from analysis.statistics import growth

# %matplotlib inline

sweep = results.read(findings.RESULTS / "first_to_die")
runs = sweep.runs
rows = sweep.rows.merge(runs[["run_id", "seed", "model.residual_scale"]], on="run_id")
print(f"{sweep.name}: {len(runs)} runs, read at steps {rows['step'].min()} to {rows['step'].max()}")
print(pd.crosstab(runs["model.residual_scale"], runs["outcome"]))

# %% [markdown]
# ## Against depth
#
# A column for each residual scale, a colour for each step. Step 0 is the initialisation. A run that died is read no
# longer, so a late step is missing where no run lived to see it. Watch the ratio of branch to stream: below 1 the
# stream carries the signal on, above it each block replaces most of what it was given.

# %%
panels = dict(columns.pieces(rows, ["model.residual_scale"]))
signal.propagation(panels)

# %% [markdown]
# ## The last residual sum
#
# What the ReLU after the last sum is given, and the units that it then silences. The mean of the sum is that of the
# skip connection and of the branch together. The skip connection comes out of a ReLU and is never negative: only the
# branch can pull the sum below zero.

# %%
signal.drift(panels)

# %% [markdown]
# ## How fast the branches move
#
# The size of each update of the up-projections, the last convolution of every branch, relative to what it changes.
# One seed of each scale.

# %%
signal.update_ratios(dict(columns.pieces(rows[rows["seed"] == rows["seed"].min()], ["model.residual_scale"])))

# %% [markdown]
# ## The variance at initialisation
#
# Theory for normalised branches: every block adds a constant times α² to the stream's variance, so that the growth is
# proportional to L·α². It leaves out the ReLU after the sum and the reductions between the stages; hence one panel
# for each stage. Where the statement holds, the marks lie on the line, and both exponents are 1.

# %%
untrained = results.read(findings.RESULTS / "variance")
points = growth.variances(untrained.runs, untrained.rows)
print(f"{untrained.name}: {len(untrained.runs)} runs, {len(points)} residual sums")
variance_growth.variance_growth(points)

# %% [markdown]
# The statement is of what the branches add: the sum's variance less the skip connection's, cumulated over the blocks.
# What every ReLU takes away is not in it (claim C7).

# %%
variance_growth.variance_growth(points, "added_until")

# %% [markdown]
# What a single block adds, the sum's variance less that of the skip connection, divided by α²: the median over runs
# and, as a band, their range. It would be one level line in each panel, whatever the α, if the theory held for every
# block.

# %%
with style.applied():
    added = points.assign(ratio=points["added"] / points["alpha"] ** 2).rename(columns={"alpha": "α"})
    grid = seaborn.relplot(
        added,
        x="block",
        y="ratio",
        hue="α",
        style="α",
        col="stage",
        kind="line",
        estimator="median",
        errorbar=("pi", 100),
        palette=style.colours(added["α"].nunique()),
        facet_kws={"sharex": False},
        height=2.4,
    )
    grid.set_axis_labels("block of the stage", "variance added / α²")
