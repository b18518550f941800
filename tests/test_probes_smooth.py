"""Activations that hardly ever give an exact zero (GELU, SiLU, ...): elements near zero, and units that are dead there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from harness.architectures import ARCHITECTURES
from harness.models import build_model
from harness.probes import Cadence, Probe, observe
from harness.probes.selection import select
from tests.probe_networks import Net, Train, set_bias

SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu, tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
}


class GivenGELU(nn.Module):
    """An activation by its name, as other packages have their own; it leaves what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def read(x: Tensor, module: nn.Module) -> dict[str, Any]:
    model = nn.Sequential(module)
    with observe(model, "0", unit_axis=1) as probe:
        model(x)
    return {name.removeprefix("layer/0/"): value for name, value in probe.rows[0].items()}


# -- elements near zero --------------------------------------------------------------------------------------------------


def test_near_zero_is_the_share_of_elements_of_at_most_a_twentieth() -> None:
    x = torch.tensor([[0.05, -0.05, 0.0501], [-0.0501, -0.0, 1e-30], [math.nan, math.inf, -3.0], [0.04, -2.0, 0.0]])
    assert read(x, GivenGELU())["near_zero"] == 6 / 12
    assert "near_zero" not in read(x, nn.ReLU()) | read(x, nn.Identity())


def test_sixteen_bits_are_read_as_they_are() -> None:
    x = torch.tensor([[0.05], [0.0498], [-0.0498], [-0.0503]], dtype=torch.bfloat16)
    assert [float(value) for value in x[:2, 0]] == [0.050048828125, 0.0498046875]
    assert read(x, GivenGELU())["near_zero"] == 2 / 4


def test_gaussians_through_a_gelu_read_their_closed_form() -> None:
    def gelu(z: float) -> float:
        return float(z * stats.norm.cdf(z))

    minimum = optimize.minimize_scalar(gelu, bounds=(-2, 0), method="bounded").x
    left, inner = (optimize.brentq(lambda z: gelu(z) + 0.05, *ends) for ends in ((-9, minimum), (minimum, 0)))
    right = optimize.brentq(lambda z: gelu(z) - 0.05, 0, 1)
    share = stats.norm.cdf(left) + stats.norm.cdf(right) - stats.norm.cdf(inner)
    x = torch.randn(1000, 4, 10, 10, generator=torch.Generator().manual_seed(0))
    assert read(x, nn.GELU())["near_zero"] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / x.numel()))


def test_micro_batches_and_sets_are_merged() -> None:
    train = Train(nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.SiLU()))
    batches = [train.images(2), train.images(6)]
    out = torch.cat([train.model(images) for images in batches])
    share = float((out.abs() <= 0.05).double().mean())
    with observe(train.model, "**", optimizer=train.optimizer) as probe:
        for images in batches:
            train.backward(images)
        train.optimizer.step()
        row = probe.read_set(torch.cat(batches), batch_size=3)
    assert probe.rows[0]["layer/2/near_zero"] == pytest.approx(share) and 0 < share < 1
    after = float((train.model(torch.cat(batches)).abs() <= 0.05).double().mean())
    assert row["layer/2/near_zero_probe"] == row["layer/2/near_zero_probe_eval"] == pytest.approx(after)


# -- dead units ----------------------------------------------------------------------------------------------------------


def shares(probe: Probe, definition: Any = "batch") -> dict[str, list[float]]:
    timeline = probe.timeline(definition)
    return {layer: timeline.dead_share(layer)[1].tolist() for layer in timeline.layers}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [-100.0, -30.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_units_pushed_far_below_zero_are_inert_and_dead_in_the_timelines(
    name: str, bias: float, dtype: torch.dtype
) -> None:
    """At -30 SiLU leaves about -3e-12, Mish too, and ELU -1: no exact zero, and none that a later layer could use."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), SMOOTH[name](), nn.Conv2d(8, 6, 1), SMOOTH[name]()).to(dtype)
    set_bias(model[0], bias, slice(3))
    set_bias(model[2], bias)
    x = torch.randn(16, 3, 6, 6).to(dtype)
    with observe(model, "**") as probe:
        model(x)
        row = {**probe.rows[0], **probe.read_set(x, batch_size=5)}
    first = model[:2](x).float()
    still = int(((first.amax((0, 2, 3)) - first.amin((0, 2, 3))) <= 1e-9).sum())
    for source in ("batch", "probe", "probe_eval"):
        assert row[f"layer/1/inert_units_{source}"] == still == 3
        assert row[f"layer/3/inert_units_{source}"] == 6
    for definition in ("batch", "probe"):
        assert shares(probe, definition) == {"layer/0": [0], "layer/1": [3 / 8], "layer/2": [0], "layer/3": [1]}
    first_dead = probe.timeline().first_to_lose(0.5)
    assert first_dead is not None and first_dead.layer == "layer/3"
    if name not in ("elu", "celu", "selu"):  # these saturate at -1 and below
        assert row["layer/3/near_zero"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("module", "dead", "alive"), [(nn.GELU(), -8.5, -6), (nn.SiLU(), -19, -15)])
def test_a_unit_is_inert_from_where_the_gradient_through_it_is_lost(
    module: nn.Module, dead: float, alive: float, dtype: torch.dtype
) -> None:
    spread = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    slopes = {}
    for centre, inert in ((dead, 1), (alive, 0)):
        x = (spread + centre).to(dtype)
        assert read(x, module)["inert_units_batch"] == inert
        wide = x.double().requires_grad_()
        module(wide).sum().backward()
        assert wide.grad is not None
        slopes[inert] = float(wide.grad.abs().mean())
    assert slopes[1] < 1e-6 < slopes[0]


def test_a_constant_unit_is_dead_under_a_gelu_and_alive_under_a_relu() -> None:
    """It tells no inputs apart; a ReLU's dead units are those that are exactly zero, as ever."""
    for activation, constant in ((nn.GELU(), 1), (nn.ReLU(), 0)):
        torch.manual_seed(0)
        linear = nn.Linear(5, 4)
        with torch.no_grad():
            linear.weight[:2] = 0
            linear.bias[:2] = torch.tensor([1.7, -200])
        model = nn.Sequential(linear, activation)
        with observe(model, "1") as probe:
            model(torch.randn(64, 5))
        assert probe.rows[0]["layer/1/inert_units_batch"] == 2
        assert probe.rows[0]["layer/1/dead_units_batch"] == 1
        assert shares(probe) == {"layer/1": [(1 + constant) / 4]}


def test_nan_and_infinity_are_not_dead() -> None:
    x = torch.zeros(4, 3)
    x[0, 0], x[0, 1] = math.nan, math.inf
    model = nn.Sequential(GivenGELU())
    with observe(model, "0") as probe:
        model(x)
    assert shares(probe) == {"layer/0": [1 / 3]}


def test_in_a_relu_net_what_is_dead_is_inert_and_nothing_is_added() -> None:
    train = Train()
    set_bias(train.net.block(1).norm, -100, slice(3))
    with observe(train.model, ["full", "**"], optimizer=train.optimizer) as probe:
        train.step()
        row = {**probe.rows[0], **probe.read_set(train.images(), batch_size=4)}
    assert row["layer/blocks.1.inner/dead_units_batch"] == row["layer/blocks.1.inner/inert_units_batch"] == 3
    assert not [name for name in row if "near_zero" in name]


def test_a_gelu_net_that_loses_units_is_read_densely_for_a_while() -> None:
    model = Net()
    for index in range(3):
        model.block(index).add_module("inner", nn.GELU())
    train = Train(model)
    cadence = Cadence(5, early=False, burst_jump=0.3, burst_steps=2)
    with observe(model, "**.inner", every=cadence, optimizer=train.optimizer) as probe:
        train.steps(5)
        set_bias(model.block(1).norm, -100, slice(4))
        train.steps(6)
    assert [row["step"] for row in probe.rows] == [0, 5, 6, 7, 10]


# -- which layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_convnext(package: str) -> None:
    """Dead units of its GELUs against a direct count; near zero is read of these and of nothing else."""
    library = pytest.importorskip(package)
    torch.manual_seed(0)
    if package == "torchvision":
        model, second, axis = library.models.convnext_tiny(num_classes=4), "features.5.2.block.4", -1
        linear = model.get_submodule("features.5.2.block.3")
    else:
        model, second, axis = library.create_model("convnext_atto", num_classes=4), "stages.2.blocks.1.mlp.act", 1
        linear = model.get_submodule("stages.2.blocks.1.mlp.fc1")
    set_bias(linear, -100, slice(7))
    gelus = {name for name, module in model.named_modules() if type(module).__name__ == "GELU"}
    passed_on = {name for name, module in model.named_modules() if name.endswith(("mlp.drop1", "mlp.norm"))}
    out: dict[str, Tensor] = {}
    for name in gelus:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: out.update({name: output})
        )
    with observe(model, "**") as probe:
        model(torch.randn(4, 3, 64, 64))
    row = probe.rows[0]
    assert {name[6:-10] for name in row if name.endswith("/near_zero")} == gelus | passed_on
    for name in gelus:
        units = out[name].detach().movedim(axis, 0).flatten(1)
        still = int(((units.amax(1) - units.amin(1)) <= 1e-6).sum())
        assert still == (7 if name == second else 0)
        assert row[f"layer/{name}/inert_units_batch"] == still
        assert row[f"layer/{name}/near_zero"] == float((units.abs() <= 0.05).double().mean())
        assert shares(probe)[f"layer/{name}"] == [still / len(units)]


class SwishGate(nn.Module):
    """A linear layer of which an activation's name is a part: no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


def test_a_layer_is_smooth_where_such_an_activation_is_registered_last_before_it() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.1), nn.Identity())
    model = nn.Sequential(block, nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), GivenGELU(), SwishGate())
    points = select(model, ["**", "1:input", "2:input", "5.linear:input", "0.0:input"]).points
    assert [point.name.removeprefix("layer/") for point in points if point.smooth] == [
        "0", "0.2", "0.3", "0.4", "4", "1:input", "5.linear:input",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_what_enters_the_pool_of_the_harnesss_networks(name: str, activation: str) -> None:
    model = build_model(name, num_classes=4, image_size=96, width=0.0625, activation=activation)
    (point,) = select(model, "prepool").points
    assert point.smooth == (activation != "relu")


@pytest.mark.slow
def test_compiled_and_eager_read_the_same() -> None:
    rows = []
    for compiled in (True, False):
        torch.compiler.reset()
        torch.manual_seed(0)
        model = Net(blocks=2)
        for index in (0, 1):
            model.block(index).add_module("inner", nn.GELU())
            model.block(index).add_module("activation", nn.SiLU())
        train = Train(model, seed=1)
        if compiled:
            model.compile(backend="aot_eager", fullgraph=True)
        with observe(model, ["blocks", "full"], optimizer=train.optimizer) as probe:
            torch.manual_seed(2)
            train.step()
        rows.append({name: each for name, each in probe.rows[0].items() if not name.startswith("time/")})
    torch.compiler.reset()
    assert rows[0].keys() == rows[1].keys()
    assert sum(name.endswith("near_zero") for name in rows[0]) == 7
    assert list(rows[0].values()) == pytest.approx(list(rows[1].values()), rel=1e-3, abs=1e-5, nan_ok=True)
