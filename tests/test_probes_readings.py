"""What the instruments read of an activation: closed forms, an independent reimplementation, and residual sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.probes import ProbeWarning, observe
from harness.probes.layouts import declared_axis, usual_axis
from harness.probes.readings import READINGS
from tests.probe_networks import Block, Net, ResidualSum


def read(x: Tensor, **options: Any) -> dict[str, Any]:
    """The row of a layer whose output is `x`, without the layer's name."""
    model = nn.Sequential(nn.Identity())
    with observe(model, "0", **{"unit_axis": 1, **options}) as probe:
        model(x)
    return {name.removeprefix("layer/0/"): value for name, value in probe.rows[0].items()}


def test_unit_gaussians_through_a_relu_read_their_closed_forms() -> None:
    count = 400_000
    x = torch.randn(count // 400, 4, 10, 10, generator=torch.Generator().manual_seed(0)).relu()
    row = read(x)
    assert row["zero_fraction"] == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 4 / count))
    assert row["mean"] == pytest.approx(
        1 / math.sqrt(2 * math.pi), abs=4 * math.sqrt((1 / 2 - 1 / (2 * math.pi)) / count)
    )
    assert row["rms"] ** 2 == pytest.approx(1 / 2, abs=4 * math.sqrt((3 / 2 - 1 / 4) / count))
    assert row["channel_mean_square"] + row["channel_variance"] == pytest.approx(row["rms"] ** 2)
    assert (row["dead_units_batch"], row["inert_units_batch"], row["dormant_units_batch"]) == (0, 0, 0)


# -- an independent reimplementation -------------------------------------------------------------------------------------


def common_mode(means: list[float], variances: list[float]) -> float:
    mean = sum(means) / len(means)
    deviation = math.sqrt(sum(v + (m - mean) ** 2 for m, v in zip(means, variances, strict=True)) / len(means))
    return mean / deviation if deviation else math.copysign(math.inf, mean) if mean else math.nan


def reference(x: np.ndarray[Any, Any], dormant_below: float) -> dict[str, float]:
    """Every reading of an array (N, C, ...), from its definition, one unit after the other."""
    units = [x[:, channel].astype(np.float64).ravel().tolist() for channel in range(x.shape[1])]
    finite = [all(map(math.isfinite, unit)) for unit in units]
    means = [math.fsum(unit) / len(unit) if good else math.nan for unit, good in zip(units, finite, strict=True)]
    variances = [
        math.fsum((value - mean) ** 2 for value in unit) / len(unit) if good else math.nan
        for unit, mean, good in zip(units, means, finite, strict=True)
    ]
    squares = [
        math.fsum(value**2 for value in unit) / len(unit) if good else math.nan
        for unit, good in zip(units, finite, strict=True)
    ]
    active = [sum(value != 0 for value in unit) for unit in units]
    known = sorted(variance for variance in variances if not math.isnan(variance))
    size, positions = len(units), len(units[0])
    counts = {
        "dead": sum(number == 0 for number in active),
        "inert": sum(variance <= 1e-12 for variance in variances),
        "dormant": sum(number < dormant_below * positions for number in active),
        "tau_dormant": sum(abs(mean) <= 0.025 * sum(map(abs, means)) / size for mean in means),
    }
    row: dict[str, float] = {
        "mean": sum(means) / size,
        "common_mode": common_mode(means, variances),
        "rms": math.sqrt(sum(squares) / size),
        "channel_mean_square": sum(mean**2 for mean in means) / size,
        "channel_variance": sum(variances) / size,
        "channel_variance_min": known[0] if known else math.nan,
        "channel_variance_max": known[-1] if known else math.nan,
        "zero_fraction": sum(value == 0 for unit in units for value in unit) / (size * positions),
        "nonfinite_units": size - sum(finite),
        "nonfinite_share": 1 - sum(finite) / size,
    }
    for word, number in counts.items():
        row |= {f"{word}_units_batch": number, f"{word}_share_batch": number / size}
    return row


@st.composite
def activations(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """(N, C, H, W) or (N, C), with units that are dead, constant, all but constant, sparse, NaN or infinite."""
    shape = draw(st.sampled_from([(3, 5, 2, 2), (1, 4, 3, 1), (6, 3), (2, 1, 5, 5)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.standard_normal(shape) * 10.0 ** draw(st.integers(-8, 8))
    for unit in range(shape[1]):
        kind = draw(st.sampled_from(["plain", "relu", "dead", "constant", "offset", "sparse", "nan", "inf", "-inf"]))
        values = x[:, unit]
        one = tuple(random.integers(0, size) for size in values.shape)
        if kind == "relu":
            values[:] = np.maximum(values, 0)
        elif kind == "dead":
            values[:] = random.choice([0.0, -0.0])
        elif kind == "constant":
            values[:] = values.flat[0]
        elif kind == "offset":
            values[:] = 1000.1 + 1e-3 * random.standard_normal(values.shape)
        elif kind == "sparse":
            kept = values[one]
            values[:] = 0
            values[one] = kept
        elif kind in ("nan", "inf", "-inf"):
            values[one] = float(kind)
    return x.astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(activations(), st.booleans())
def test_every_definition_agrees_with_an_independent_one(x: np.ndarray[Any, Any], channels_last: bool) -> None:
    expected = reference(x, 0.3)
    assume(not any(0.5e-12 < expected[f"channel_variance_{end}"] < 2e-12 for end in ("min", "max")))
    tensor = torch.from_numpy(x)
    if channels_last and tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    row = read(tensor, dormant_below=0.3)
    assert expected.keys() <= row.keys()
    for name, value in expected.items():
        scale = {"mean": expected["rms"], "common_mode": max(1, abs(value))}.get(name, abs(value))
        assert row[name] == pytest.approx(
            value, rel=1e-4, abs=1e-5 * scale if math.isfinite(scale) else 0, nan_ok=True
        ), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floating_types_are_read_as_they_are(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 5, 5).relu().to(dtype)
    expected = reference(x.double().numpy(), 0.01)
    row = read(x)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-5), name


def test_half_of_a_large_sum_is_not_lost_in_half_precision() -> None:
    x = torch.full((2, 1, 200, 200), 1.0, dtype=torch.float16)  # float16 counts to 65504
    row = read(x)
    assert (row["mean"], row["zero_fraction"], row["inert_units_batch"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("shape", "axis", "module"),
    [
        ((4, 5), 1, nn.Identity()),
        ((4, 7, 5), 2, nn.Identity()),
        ((4, 5, 7), 1, nn.Conv1d(1, 1, 1)),
        ((4, 5, 7), 1, nn.BatchNorm1d(5)),
        ((4, 5, 2, 2), 1, nn.Identity()),
        ((4, 2, 2, 5), 3, nn.LayerNorm(5)),
        ((4, 5, 2, 2, 2), 1, nn.Identity()),
    ],
)
def test_the_axis_of_the_units(shape: tuple[int, ...], axis: int, module: nn.Module) -> None:
    x = torch.zeros(shape)
    declared = declared_axis(module, x)
    assert (usual_axis(x) if declared is None else declared) == axis


def test_sequences_and_declared_axes() -> None:
    x = torch.rand(4, 7, 5)
    x[:, :, 2] = 0
    with pytest.warns(ProbeWarning, match="which is a guess: give unit_axis"):
        assert read(x, unit_axis=None)["dead_units_batch"] == 1
    y = torch.rand(4, 2, 2, 5)
    y[..., :3] = 0
    assert read(y)["dead_units_batch"] == 0
    assert read(y, unit_axis=-1)["dead_units_batch"] == 3
    assert read(y, unit_axis=lambda name, module: 3)["dead_share_batch"] == 3 / 5


def test_only_the_readings_that_are_wanted() -> None:
    row = read(torch.rand(2, 3, 2, 2), readings=["rms", "dead_units", "channel_variance_max"])
    assert set(row) == {"step", "rms", "dead_units_batch", "dead_share_batch", "channel_variance_max", "time/probe"}
    with pytest.raises(ValueError, match="'dead_unit' is unknown; did you mean 'dead_units'"):
        observe(Net(), "blocks", readings=["dead_unit"])
    assert len(READINGS) == len(set(READINGS))


# -- residual sums ------------------------------------------------------------------------------------------------------


class Capture(nn.Module):
    """A block whose skip and branch are given."""

    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.residual_sum = ResidualSum(scale)

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        out: Tensor = self.residual_sum(skip, branch)
        return out.relu()


class Around(nn.Module):
    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.block = Capture(scale)

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        out: Tensor = self.block(skip, branch)
        return out


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.0, torch.tensor(0.2), nn.Parameter(torch.tensor([0.7]))])
def test_every_part_of_a_residual_sum(scale: float | Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    skip = torch.randn(6, 5, 4, 4, generator=generator).relu()
    branch = torch.randn(6, 5, 4, 4, generator=generator) - 0.5 * skip - 0.4
    model = Around(scale)
    with observe(model, "blocks") as probe:
        model(skip, branch)
    (row,) = probe.rows
    alpha = scale if isinstance(scale, float) else scale.detach().item()
    total = skip + alpha * branch
    parts = {"skip": skip, "branch": branch, "scaled": alpha * branch, "sum": total, "output": total.relu()}
    for part, tensor in parts.items():
        expected = reference(tensor.numpy(), 0.01)
        for reading in ("mean", "rms", "channel_mean_square", "channel_variance", "inert_units_batch"):
            found = row[f"block/b01/{part}/{reading}"]
            assert found == pytest.approx(expected[reading], rel=1e-5, abs=1e-7), (part, reading)
    x, f = skip.double().flatten(), branch.double().flatten()
    assert row["block/b01/rms_ratio"] == pytest.approx(float(alpha * f.norm() / x.norm()), rel=1e-5)
    assert row["block/b01/cosine"] == pytest.approx(float(x @ f / x.norm() / f.norm()), rel=1e-5)
    assert row["block/b01/output/zero_fraction"] == pytest.approx(float((total <= 0).double().mean()))
    assert "block/b01/skip/dead_units_batch" not in row


def test_a_declared_sum_without_a_scale_is_measured() -> None:
    class Weighted(nn.Module):
        def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
            return skip + branch * torch.arange(1.0, 4.0)[:, None, None]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = Weighted()

        def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
            out: Tensor = self.add(skip, branch)
            return out

    model = Model()
    skip, branch = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    with observe(model, "blocks", sums=lambda name, module: isinstance(module, Weighted)) as probe:
        model(skip, branch)
    scaled = branch * torch.arange(1.0, 4.0)[:, None, None]
    assert probe.rows[0]["block/b01/scaled/rms"] == pytest.approx(float(scaled.square().mean().sqrt()), rel=1e-5)
    assert probe.rows[0]["block/b01/rms_ratio"] == pytest.approx(float(scaled.norm() / skip.norm()), rel=1e-5)


def test_a_wrongly_declared_sum_is_left_out_with_a_word() -> None:
    model = Net()
    with (
        pytest.warns(ProbeWarning, match=r"blocks\.0\.inner was declared a residual sum"),
        observe(model, "blocks", sums=lambda name, module: name == "blocks.0.inner") as probe,
    ):
        model(torch.randn(2, 3, 4, 4))
    assert [name for name in probe.rows[0] if name.endswith("/rms")] == ["block/b01/output/rms", "prepool/rms"]


def test_a_skip_that_was_read_as_the_output_before_is_not_read_anew() -> None:
    """What is remembered equals what is read: with in-place changes in between, too."""

    class Meddling(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2.0))

    torch.manual_seed(0)
    for kind, factor in ((Block, 1.0), (Meddling, 2.0)):
        model = nn.Sequential(Block(4), kind(4))
        with observe(model, "blocks") as probe:
            model(torch.randn(2, 4, 3, 3))
        row = probe.rows[0]
        assert row["block/b02/skip/rms"] == pytest.approx(factor * row["block/b01/output/rms"], rel=1e-6)
