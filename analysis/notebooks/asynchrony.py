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
# # What asynchronous replicas change
#
# The paper's nets were trained on 20 replicas, in a year in which that meant asynchronously: a gradient is applied
# when the parameters have moved on. `optim.replicas` does this exactly and repeatably on one device. Here is what it
# does to a quadratic, to nets, and to the paper's cures.
#
# All from committed results. To have your own: `harness sweep experiments/claims/replicas.yaml`, then the folder that
# it names in place of `findings.RESULTS / "replicas"`.

# %%
"""What asynchronous replicas change: on a quadratic, in nets, and for the paper's cures."""

import numpy as np
import pandas as pd
import seaborn
from scipy import signal

from analysis.figures import health, instruments, style
from analysis.frames import results
from analysis.report import findings
from analysis.statistics.health import ACCURACY, DEAD_SHARE, functionally_dead
from harness.optim.stability import threshold

# %matplotlib inline

sweeps = results.read_all(findings.RESULTS / name for name in ("replicas", "replicas_remedies", "stability_margin"))
print("\n".join(f"{name}: {len(sweep.runs)} runs" for name, sweep in sweeps.items()))

# %% [markdown]
# ## On a quadratic
#
# Gradient descent with momentum m on a quadratic, whose gradient is of the parameters τ updates ago: x[t+1] = x[t] +
# m (x[t] - x[t-1]) - c x[t-τ], c being the rate times the curvature. The largest stable c:

# %%
delays, momenta = (0, 1, 2, 5, 10, 19), (0.0, 0.5, 0.9)
limits = pd.DataFrame([[threshold(m, delay) for delay in delays] for m in momenta], momenta, delays)
limits.rename_axis(index="momentum", columns="delay").round(4)

# %% [markdown]
# Five per cent below that limit and above it, at momentum 0.9 and a delay of three updates, from x = 1. The recursion
# is a linear filter, so scipy's answers to an impulse are its course.

# %%
momentum, delay, updates = 0.9, 3, 600
limit = threshold(momentum, delay)
filters = {
    "95 % of the limit": [1, -(1 + momentum), momentum, 0, 0.95 * limit],
    "105 % of the limit": [1, -(1 + momentum), momentum, 0, 1.05 * limit],
}
courses = pd.DataFrame({name: signal.lfilter([1], past, np.eye(1, updates)[0]) for name, past in filters.items()})
with style.applied():
    long = courses.rename_axis("update").reset_index().melt("update", var_name="rate times curvature", value_name="x")
    seaborn.relplot(
        long,
        x="update",
        y="x",
        col="rate times curvature",
        kind="line",
        color=style.BLUE,
        height=2.3,
        aspect=1.4,
        facet_kws={"sharey": False},
    )

# %% [markdown]
# ## In nets, at the paper's rate
#
# Unscaled nets and scaled ones at 0.045 and momentum 0.9, by the number of replicas. Left the runs that died, in the
# middle the dead units at their end, right what they have learnt.

# %%
health.health_map(sweeps["replicas"].runs, "optim.replicas", "model.residual_scale")

# %% [markdown]
# Functionally dead (at most 1.5 times chance, or 99 % of the units dead), of the runs of each arm:

# %%
runs = sweeps["replicas"].runs
runs.assign(lost=functionally_dead(runs)).pivot_table(
    index="model.residual_scale", columns="optim.replicas", values="lost", aggfunc="sum"
)

# %% [markdown]
# ## The paper's cures, under 20 replicas
#
# A tenth of the rate, a warm-up at 1e-5, a batch-norm before the pool: one mark a run, dead units and accuracy at its
# end.

# %%
cured = sweeps["replicas_remedies"].runs
remedy = np.select(
    [cured["optim.warmup.name"] == "constant", cured["optim.lr"] < 0.045, cured["model.batch_norm"] == "pre_pool"],
    ["warm-up", "a tenth of the rate", "batch-norm before the pool"],
    "none",
)
single = (cured["model.batch_norm"] == "paper") | (remedy == "batch-norm before the pool")
with style.applied():
    grid = seaborn.relplot(
        cured.assign(remedy=remedy)[single].rename(
            columns={
                DEAD_SHARE: "dead units / pre-pool units",
                ACCURACY: "held-out accuracy",
                "model.residual_scale": "residual scale α",
            }
        ),
        x="dead units / pre-pool units",
        y="held-out accuracy",
        hue="residual scale α",
        style="residual scale α",
        palette=style.colours(2),
        col="remedy",
        col_wrap=2,
        height=2.2,
        aspect=1.3,
    )
    grid.set_titles("{col_name}")

# %% [markdown]
# ## What the instruments read
#
# The margin to linear instability (rate times preconditioned sharpness over the limit above) and what else the preset
# `curvature` reads, in the course of nets with and without delay. The scale lowers the sharpness, and with it the
# margin.

# %%
instruments.instruments(sweeps["stability_margin"].runs, sweeps["stability_margin"].rows)
