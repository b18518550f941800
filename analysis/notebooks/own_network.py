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
# # The instruments on your own network
#
# `observe` reads any torch network while it trains, and leaves the training bitwise as it is. Put it around the loop
# that you have; nothing inside the loop changes:
#
# ```python
# from harness.probes import observe
#
# with observe(model, "**.relu*", every=50, optimizer=optimizer) as probe:
#     for images, labels in loader:
#         loss = cross_entropy(model(images), labels)
#         optimizer.zero_grad()
#         loss.backward()
#         optimizer.step()
#
# probe.frame()                        # a row for each reading
# probe.timeline().first_to_lose(0.5)  # the first layer to lose half of its units
# ```
#
# `"**.relu*"` names modules: here every module whose own name begins with `relu`, at any depth. Without `optimizer`
# every forward pass in training mode is a step. With `torch.compile`, give what it returned, before its first call.
#
# This notebook does it with torchvision's resnet18 on scikit-learn's handwritten digits, and this loop:

# %%
"""The instruments on one's own network: torchvision's resnet18, for one epoch on handwritten digits."""

import inspect

import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torchvision.models import resnet18

from analysis.figures import dead_units, signal
from harness.probes import observe
from harness.probes.example import train

# %matplotlib inline

print(inspect.getsource(train))

# %%
torch.manual_seed(0)
digits = load_digits()
scans = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
images = interpolate(scans, size=32, mode="bilinear").expand(-1, 3, -1, -1)
labels = torch.tensor(digits.target)
print(f"{len(images)} images of shape {tuple(images.shape[1:])}")

# %% [markdown]
# ## Three lines
#
# The learning rate is far too high, so that units die. `parameters` asks for the updates of some weights too.

# %%
model = resnet18(num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
with observe(model, "**.relu*", every=5, optimizer=optimizer, parameters="layer?.?.conv2.weight") as probe:
    train(model, optimizer, images, labels)

# %% [markdown]
# ## The readings
#
# One row for each step that was read. `#2` is the second call of the same module in a forward pass: in a torchvision
# block that is the ReLU after the addition. After a sudden rise of the dead units every step is read for a while.

# %%
frame = probe.frame()
print(f"{len(frame)} readings of {len(probe.layers)} layers, {len(frame.columns)} metrics")
last = "layer/layer4.1.relu#2"
frame[[f"{last}/rms", f"{last}/zero_fraction", f"{last}/dead_units_batch", f"{last}/dead_share_batch"]].round(3)

# %% [markdown]
# The metrics of one layer:

# %%
print(*frame.filter(like=f"{last}/").columns, sep="\n")

# %% [markdown]
# ## Which layers lose their units first
#
# A unit is a channel, and dead where it is zero at every position of every image of the training batch. The layers that
# lost at least half of their units, in the order in which they did; `depth` is their place in the forward pass from 0.

# %%
timeline = probe.timeline()
pd.DataFrame(timeline.order(0.5))

# %%
dead_units.share_map({"resnet18": timeline})

# %% [markdown]
# Unit by unit, in the layer that lost half of its units first:

# %%
dead_units.raster({"resnet18": timeline}, {"resnet18": timeline.order(0.5)[0].layer})

# %% [markdown]
# ## How fast the weights move
#
# The updates of the second convolution of every block, relative to its weights.

# %%
signal.update_ratios({"resnet18": frame.reset_index()})
