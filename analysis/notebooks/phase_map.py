# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where the networks die
#
# The figures of `harness report` from one output folder: the share of runs that died over width and residual scale,
# the dead units of every run against the step, and the step at which each run died.
#
# The folder is named in one place, the next cell, or by the environment variable `HARNESS_OUT`.

# %%
"""Where the networks die: the report's figures, from the run folders of one sweep."""

import os

import analysis
from analysis import axes, phase, steps

# %matplotlib inline

out = os.environ.get("HARNESS_OUT", "out/quickstart")
runs = analysis.load(out)
rows = analysis.load_rows(out, runs)
print(f"{len(runs)} runs that differ in {', '.join(analysis.varying(runs)) or 'nothing'}")

# %% [markdown]
# ## The map
# Three seeds a cell are a demonstration: the interval beside each count says how little three runs can show.

# %%
phase.phase_map(runs)

# %% [markdown]
# The same as numbers: one row for each level of the vertical axis (`y`) and of the horizontal one (`x`).

# %%
phase.cells(runs, *axes.choose(runs))

# %% [markdown]
# ## The way there
# A run dies when its line reaches 1 and stays there.

# %%
steps.unit_share(runs, rows)

# %% [markdown]
# ## When
# The checks are some steps apart, so a death is known to an interval; a survivor is known up to its last step only.

# %%
steps.event_steps(runs)
