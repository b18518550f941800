"""Ranks and norms of matrices in closed form, and what `observe` reads of a set with them on any network."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.probes import definitions, observe
from harness.probes.prepool import PrePool
from harness.probes.spectra import effective_rank, spectral_norm
from tests.probe_networks import Net, ResidualSum, Train


def test_as_many_equal_directions_so_much_rank() -> None:
    basis = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    for count in (1, 2, 7, 30):
        assert effective_rank(basis[:, :count] @ basis[:count]).item() == pytest.approx(count)


def test_unequal_directions_count_by_the_entropy_of_their_shares() -> None:
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    expected = math.exp(-sum(share * math.log(share) for share in shares.tolist()))
    assert effective_rank(3 * torch.diag(shares)).item() == pytest.approx(expected)


def test_features_with_one_common_mean_have_little_rank() -> None:
    features = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    assert effective_rank(features).item() > 50 > 20 > effective_rank(features + 100).item()


def test_dead_features_have_no_rank_and_diverged_ones_none_that_is_known() -> None:
    assert effective_rank(torch.zeros(8, 4)).item() == 0
    assert math.isnan(effective_rank(torch.full((8, 4), math.inf)).item())
    assert math.isnan(spectral_norm(torch.full((8, 4, 1, 1), math.nan)).item())


@pytest.mark.parametrize("shape", [(5, 9, 1, 1), (9, 5, 1, 1), (6, 6), (4, 3, 3, 3), (1, 7)])
def test_a_spectral_norm_is_the_largest_singular_value(shape: tuple[int, ...]) -> None:
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.matrix_norm(kernel.flatten(1).double(), 2).item()
    assert spectral_norm(kernel).item() == pytest.approx(expected, rel=1e-12)


def test_units_far_below_their_layers_mean_are_tau_dormant() -> None:
    x = torch.ones(2, 5, 3, 3)
    x[:, 0], x[:, 1], x[:, 2] = 0.0, 0.0100, 0.0103  # 0.025 times the mean over the units is 0.0101
    assert definitions.tau_dormant_units(x).tolist() == [True, True, False, False, False]
    assert definitions.tau_dormant_units(torch.zeros(2, 3, 1, 1)).all()
    reading = definitions.UnitReading()
    for part in x.tensor_split(2):
        reading.add(part)
    assert reading.tau_dormant.tolist() == [True, True, False, False, False]
    assert torch.equal(reading.pooled, x.mean(dim=(2, 3)))


def test_the_pre_pool_row_has_the_rank_of_the_pooled_features() -> None:
    torch.manual_seed(0)
    net, images = Net(), torch.randn(20, 3, 6, 6)
    features = (
        net.pool(net.blocks(net.stem(images[:10]))).flatten(1),
        net.pool(net.blocks(net.stem(images[10:]))).flatten(1),
    )
    expected = effective_rank(torch.cat(features)).item()
    with PrePool(net.pool) as prepool:
        row = prepool.read_set(net, images, batch_size=10)
    assert row["prepool/feature_rank_probe"] == pytest.approx(expected, rel=1e-5)


# -- up-projections -----------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    """x + layer(x), of any layer that keeps the shape."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.up_projection = layer
        self.residual_sum = ResidualSum()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual_sum(x, self.up_projection(x))
        return out


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "conv2d": (nn.Conv2d(5, 5, 1), (8, 5, 3, 4), 1),
    "conv2d without bias": (nn.Conv2d(5, 5, 1, bias=False), (8, 5, 3, 4), 1),
    "conv1d": (nn.Conv1d(5, 5, 1), (8, 5, 7), 1),
    "linear": (nn.Linear(5, 5), (8, 5), -1),
    "linear on tokens": (nn.Linear(5, 5), (8, 7, 5), -1),
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_share_that_the_mean_of_the_input_makes(case: str) -> None:
    layer, shape, axis = LAYERS[case]
    torch.manual_seed(0)
    x = torch.randn(shape) + 0.7
    others = [dimension for dimension in range(x.ndim) if dimension != axis % x.ndim]
    matrix = layer.get_parameter("weight").flatten(1).double()
    rows = x.movedim(axis, -1).flatten(0, -2).double()
    expected = (matrix @ x.double().mean(others)).square().sum() / (rows @ matrix.T).square().sum(1).mean()
    with observe(Branch(layer), "blocks") as probe:
        row = probe.read_set(x, batch_size=3)
    assert row["block/b01/up_projection/mean_share_probe"] == pytest.approx(expected.item(), rel=1e-5)
    assert row["block/b01/up_projection/spectral_norm"] == pytest.approx(
        torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-9
    )


def test_a_constant_input_makes_all_and_a_centred_one_nothing() -> None:
    layer = nn.Conv2d(4, 4, 1)
    x = torch.randn(16, 4, 3, 3)
    for shifted, expected in ((torch.full_like(x, 2.0), 1.0), (x - x.mean(dim=(0, 2, 3), keepdim=True), 0.0)):
        with observe(Branch(layer), "blocks") as probe:
            row = probe.read_set(shifted, batch_size=16)
        assert row["block/b01/up_projection/mean_share_probe"] == pytest.approx(expected, abs=1e-6)


def test_a_network_without_sums_or_pool_is_read_without_them() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with observe(model, "1", unit_axis=1) as probe:
        row = probe.read_set(torch.randn(8, 3), batch_size=8)
    assert not any(word in name for name in row for word in ("feature_rank", "mean_share", "spectral_norm"))


@pytest.mark.parametrize("readings", [["feature_rank"], ["mean_share"], ["spectral_norm"]])
def test_only_the_readings_of_a_set_that_are_wanted(readings: list[str]) -> None:
    with observe(Net(), "blocks", readings=readings) as probe:
        row = probe.read_set(torch.randn(8, 3, 6, 6), batch_size=4)
    assert {name.split("/")[-1].partition("_probe")[0] for name in row} - {"step", "probe"} == {*readings, "time"} - {
        "time"
    }


def test_averaged_weights_have_a_rank_and_no_shares_of_the_current_ones() -> None:
    train = Train()
    weights: dict[str, Any] = {name: 0 * value for name, value in train.net.named_parameters()}
    with observe(train.model, "blocks") as probe:
        row = probe.read_set(train.images(8), batch_size=4, weights=weights)
    assert row["prepool/feature_rank_averaged"] == 0
    assert not any("up_projection" in name for name in row)


def test_reading_a_set_leaves_no_hook() -> None:
    net = Net()
    with observe(net, "blocks") as probe:
        before = [len(module._forward_hooks) for module in net.modules()]
        probe.read_set(torch.randn(8, 3, 6, 6), batch_size=4)
        assert [len(module._forward_hooks) for module in net.modules()] == before
