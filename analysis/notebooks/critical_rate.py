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
# # The critical learning rate
#
# The rate at which half of the nets are functionally dead at their end: by the delay of the gradients, with and
# without momentum, held against the threshold of linear stability; and by width, branch filters and scale.
#
# All from the committed results of the sweeps `critical_rate`, `replicas_width` and `dose`.

# %%
"""The critical learning rate, measured, and as linear stability has it."""

import seaborn

from analysis.figures import style
from analysis.figures.critical_rate import critical_rate
from analysis.frames import results
from analysis.report import findings
from analysis.statistics import critical

# %matplotlib inline

sweeps = results.read_all(findings.RESULTS / name for name in ("critical_rate", "replicas_width", "dose"))
delayed = sweeps["critical_rate"].runs
print("\n".join(f"{name}: {len(sweep.runs)} runs" for name, sweep in sweeps.items()))

# %% [markdown]
# ## By delay and momentum
#
# N asynchronous replicas in turn apply gradients that are N - 1 updates old. A mark is the rate at which half of the
# runs of one delay and momentum are lost; `censored` says on which side of the rates tested it lies where it is not
# among them.

# %%
critical.critical_rates(delayed, [critical.MOMENTUM, critical.REPLICAS]).round(4)

# %% [markdown]
# On a quadratic of curvature λ momentum m and a delay of τ updates are stable up to lr · λ = `threshold(m, τ)`. The
# curves are that, each over one constant λ, fitted to the runs of one momentum.

# %%
critical_rate(delayed)

# %%
slow, heavy = (delayed[delayed["optim.momentum"] == momentum] for momentum in (0.0, 0.9))
laws = {
    "momentum 0": critical.against_threshold(slow),
    "momentum 0.9": critical.against_threshold(heavy),
    "momentum 0, delayed only": critical.against_threshold(slow[slow["optim.replicas"] > 1]),
    "momentum 0.9, delayed only": critical.against_threshold(heavy[heavy["optim.replicas"] > 1]),
}
print("\n".join(f"{name}: λ {law.curvature}; exponent {law.exponent}" for name, law in laws.items()))

# %% [markdown]
# An exponent of 1 says that the critical rate follows the threshold. The ratio of the measured rate to the law's
# tells where it does not: in step and with momentum nets are lost at rates that linear stability calls harmless.

# %%
measured = critical.critical_rates(heavy, [critical.REPLICAS])
delays = (measured["optim.replicas"] - 1).astype(int)
predicted = laws["momentum 0.9, delayed only"].rates(0.9, delays)
with style.applied():
    grid = seaborn.relplot(
        measured.assign(delay=delays, ratio=measured["rate"] / predicted),
        x="delay",
        y="ratio",
        color=style.BLUE,
        s=45,
        height=2.6,
        aspect=1.5,
    )
    grid.refline(y=1, color=style.MUTED)
    grid.set(yscale="log", xlabel="delay (updates)", ylabel="critical rate / law of delayed nets")

# %% [markdown]
# ## By width
#
# With 20 replicas, all filters in their published ratios. The exponent is that of the critical rate in the width; 0
# says that the rate at which half are lost does not move.

# %%
wide = sweeps["replicas_width"].runs
print(f"exponent of the critical rate in the width: {critical.power_law(wide, 'model.width')}")
critical.critical_rates(wide, ["model.width"]).round(4)

# %% [markdown]
# ## By branch filters, trunk filters and scale, in step
#
# At momentum 0.9 and without delay. Two seeds a rate: the intervals are wide, and many rates are censored, which is
# told and not left out.

# %%
in_step = sweeps["dose"].runs
in_step = in_step[in_step["optim.momentum"] == 0.9]
shapes = ["model.branch_width", "model.trunk_width", "model.residual_scale"]
by_shape = critical.critical_rates(in_step, shapes)
print(f"{(by_shape['censored'] != '').sum()} of {len(by_shape)} critical rates lie beyond the rates tested")
print("\n".join(f"exponent in {name}: {critical.power_law(in_step, name)}" for name in shapes))
by_shape.round(4)

# %%
with style.applied():
    located = by_shape[by_shape["censored"] == ""].rename(
        columns={
            "model.residual_scale": "residual scale α",
            "rate": "critical learning rate",
            "model.branch_width": "branch filters / width",
            "model.trunk_width": "trunk filters / width",
        }
    )
    grid = seaborn.relplot(
        located,
        x="residual scale α",
        y="critical learning rate",
        hue="branch filters / width",
        style="trunk filters / width",
        palette=style.colours(located["branch filters / width"].nunique()),
        height=2.8,
        aspect=1.4,
    )
    grid.set(xscale="log", yscale="log")
    grid.ax.minorticks_off()
    grid.ax.set_xticks([0.15, 0.4, 1], ["0.15", "0.4", "1"])
    grid.ax.set_yticks([0.1, 0.2, 0.4], ["0.1", "0.2", "0.4"])
