"""Readings of gradients, updates and batch-norm's ranges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.probes import observe
from harness.probes.parameters import ParameterReader
from tests.probe_networks import Train, set_bias


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=np.float64)))))


def test_gradients_and_updates_are_those_of_the_step() -> None:
    train = Train(seed=3)
    with observe(train.model, "full", every=1, optimizer=train.optimizer) as probe:
        train.steps(2)
        before = {name: parameter.detach().clone() for name, parameter in train.model.named_parameters()}
        train.step()
    row = probe.rows[-1]
    labels = {name: name for name in before} | {
        f"blocks.{block}.up_projection.{kind}": f"b0{block + 1}/up_projection.{kind}"
        for block in range(3)
        for kind in ("weight", "bias")
    }
    updates, gradients = [], []
    for name, parameter in train.model.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad.numpy()
        update = (parameter.detach() - before[name]).numpy()
        assert row[f"grad/{labels[name]}/rms"] == pytest.approx(rms(gradient), rel=1e-5)
        assert row[f"grad/{labels[name]}/zero_share"] == pytest.approx(np.mean(gradient == 0))
        assert row[f"grad/{labels[name]}/nonfinite"] == 0
        assert row[f"update/{labels[name]}/rms"] == pytest.approx(rms(update), rel=1e-5)
        assert row[f"update/{labels[name]}/ratio"] == pytest.approx(rms(update) / rms(before[name]), rel=1e-5)
        updates.append(update.ravel())
        gradients.append(gradient.ravel())
    assert row["update/all/rms"] == pytest.approx(rms(np.concatenate(updates)), rel=1e-5)
    assert row["grad/all/rms"] == pytest.approx(rms(np.concatenate(gradients)), rel=1e-5)
    norm = train.net.block(1).norm
    for key, tensor in (("gamma", norm.weight), ("beta", norm.bias)):
        assert row[f"norm/blocks.1.norm/{key}_min"] == tensor.min().item()
        assert row[f"norm/blocks.1.norm/{key}_max"] == tensor.max().item()


def test_dead_units_give_gradients_that_are_exactly_zero() -> None:
    train = Train(seed=3)
    set_bias(train.net.block(0).norm, -100.0, slice(0, 2))
    with observe(train.model, "full", every=1, optimizer=train.optimizer) as probe:
        train.step()
    # two of the eight inputs of the up-projection are always zero
    assert probe.rows[0]["grad/b01/up_projection.weight/zero_share"] == 2 / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_not_finite_is_counted_and_breaks_nothing(dtype: torch.dtype) -> None:
    layer = nn.Linear(4, 3, dtype=dtype)
    layer.weight.grad = torch.tensor([[math.nan, math.inf, -math.inf, 0.0]] * 3, dtype=dtype)
    layer.bias.grad = torch.zeros_like(layer.bias)
    reader = ParameterReader(layer, {"weight": "w", "bias": "b"}, [])
    reader.before()
    with torch.no_grad():
        layer.weight.sub_(layer.weight.grad)
    reader.after()
    assert reader.pending is not None
    row = reader.row(reader.pending.tolist())
    assert row["grad/w/nonfinite"] == 9 and row["grad/w/zero_share"] == 3 / 12
    assert math.isnan(row["grad/w/rms"]) and math.isnan(row["update/w/rms"])
    assert (row["grad/b/rms"], row["grad/b/zero_share"], row["update/b/rms"], row["update/b/ratio"]) == (0, 1, 0, 0)
    assert row["grad/all/nonfinite"] == 9


def test_parameters_without_a_gradient_and_zero_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD([*model.parameters()], 0.1)
    with observe(model, "0", every=1, optimizer=optimizer, parameters="**") as probe:
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
    row = probe.rows[0]
    assert not [name for name in row if "/1." in name]
    assert math.isnan(row["update/0.bias/ratio"]) and row["update/0.bias/rms"] > 0


def test_the_copy_of_the_weights_lasts_no_longer_than_the_update() -> None:
    train = Train()
    with observe(train.model, "full", every=2, optimizer=train.optimizer) as probe:
        for _ in range(4):
            train.step()
            assert not probe._parameters._copies
    assert [("update/all/rms" in row) for row in probe.rows] == [True, True, True]
    assert [row["step"] for row in probe.rows] == [0, 1, 2]
