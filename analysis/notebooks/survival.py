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
# # When the networks die
#
# The time from the start of the training to the death of the network, in three sweeps. Runs that are alive at the end
# are censored: of them it is known that the death, if there is one, comes later. Runs that diverged can no longer
# die.

# %%
"""When the networks die: survival curves, tests and mean times from committed results."""

import pandas as pd

from analysis.figures import forest, time_to_event
from analysis.frames import columns, results
from analysis.report import findings
from analysis.statistics import survival

# %matplotlib inline

rates = results.read(findings.RESULTS / "learning_rate").runs
bias = results.read(findings.RESULTS / "bias").runs
dose = results.read(findings.RESULTS / "dose").runs
print(f"learning_rate: {len(rates)} runs, {rates['outcome'].eq('died').sum()} died")
print(f"bias: {len(bias)} runs, {bias['outcome'].eq('died').sum()} died")
print(f"dose: {len(dose)} runs, {dose['outcome'].eq('died').sum()} died")

# %% [markdown]
# ## Does a lower learning rate only delay the death?
#
# The share of runs alive, by Kaplan and Meier. The numbers below the curves are the runs still at risk: where they
# are few, a curve says little, and its intervals are wide.

# %%
time_to_event.survival_curves(rates, colour="optim.lr")

# %% [markdown]
# A lower rate moves the weights less in each step, so some delay is to be expected. The same curves against the
# cumulative learning rate, the sum of the rates of all steps so far, take that into account: if the rate did nothing
# but stretch the time, these curves would lie on each other. The rates of this sweep are constant, so the sum grows
# on a straight line from 0 at step 0 to the value that each run has at its last step.

# %%
last = rates[["run_id", "last_step", "optim/cumulative_lr", "optim/lr"]].rename(columns={"last_step": "step"})
clock = pd.concat([last.assign(**{"step": 0, "optim/cumulative_lr": 0.0}), last]).astype({"step": int})
time_to_event.survival_curves(rates, clock, colour="optim.lr", against="cumulative_lr")

# %% [markdown]
# The log-rank tests of the two figures, with the deaths that each learning rate would have had if all had the same
# risk at every time:

# %%
by_step = survival.times(rates)
by_sum = survival.times(rates, clock, "cumulative_lr")
test_by_step = survival.logrank(by_step["held"], by_step["end"] == "event", rates["optim.lr"])
test_by_sum = survival.logrank(by_sum["held"], by_sum["end"] == "event", rates["optim.lr"])
print("against steps:", test_by_step)
print(test_by_step.groups.rename_axis("learning rate").round(1), end="\n\n")
print("against the cumulative learning rate:", test_by_sum)
print(test_by_sum.groups.rename_axis("learning rate").round(1))

# %% [markdown]
# ## The mean time alive
#
# The restricted mean: how long a run lives on average within a fixed time, the area under the curve up to then. First
# in steps, up to the longest run's last; then in the cumulative learning rate, up to the value that every rate
# reached.

# %%
until = by_step["held"].max()
arms = columns.pieces(by_step.join(rates["optim.lr"]), ["optim.lr"])
forest.forest(
    [(name, survival.restricted_mean(arm["held"], arm["end"] == "event", until)) for name, arm in arms],
    "mean steps alive",
    f"Mean time alive within {until:g} steps",
    "Area under the Kaplan-Meier curve, with its 95 % interval; an open mark: no death, so no interval.",
    reference=None,
)

# %%
reach = by_sum["held"].groupby(rates["optim.lr"]).max().min()
arms = columns.pieces(by_sum.join(rates["optim.lr"]), ["optim.lr"])
forest.forest(
    [(name, survival.restricted_mean(arm["held"], arm["end"] == "event", reach)) for name, arm in arms],
    "mean cumulative learning rate alive",
    f"Mean time alive within a cumulative learning rate of {reach:g}",
    "Area under the Kaplan-Meier curve, with its 95 % interval; an open mark: no death, so no interval.",
    reference=None,
)

# %% [markdown]
# ## Does the up-projection's bias matter?
#
# The bias of the last convolution of every branch: trained as usual (on), held at zero (frozen), or absent (off). The
# test below compares the three arms.

# %%
time_to_event.survival_curves(bias, colour="model.up_projection_bias")

# %%
by_arm = survival.times(bias)
of_arms = survival.logrank(by_arm["held"], by_arm["end"] == "event", bias["model.up_projection_bias"])
print(of_arms)
print(of_arms.groups.rename_axis("bias").round(1))

# %% [markdown]
# ## Death and divergence compete
#
# A run that diverges cannot die any more. To treat it as censored would overstate the deaths; the cumulative
# incidence counts each of the two ends as a share of all runs, so that both shares and that of the survivors sum to
# one. Here by the residual scale, over many rates and widths.

# %%
print(pd.crosstab(dose["model.residual_scale"], dose["outcome"]))
time_to_event.incidence_curves(dose, colour="model.residual_scale")
