"""Which layers a pattern, a predicate or a preset names, functional ReLUs among them, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.models import build_model
from harness.patterns import matcher
from harness.probes import ProbeWarning, observe
from harness.probes.selection import select
from tests.probe_networks import Net

Where = str | Callable[[str, nn.Module], bool] | list[str]


def names(model: nn.Module, where: Where) -> list[str]:
    return [point.name for point in select(model, where).points]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("**.relu*", ["relu", "relu1", "layer1.0.relu", "layer1.0.relu2"], ["layer1.0.prelu", "relu.inner"]),
        ("layer1.*", ["layer1.0"], ["layer1", "layer1.0.conv1", "layer12.0"]),
        ("layer1.**", ["layer1.0", "layer1.0.conv1", "layer1"], ["layer12", "layer12.0"]),
        ("**", ["a", "a.b.c"], []),
        ("*.conv?", ["a.conv1"], ["a.conv", "a.b.conv1"]),
        ("b[02]", ["b0", "b2"], ["b1", "b[02]"]),
        ("a.b", ["a.b"], ["axb", "a.b.c"]),
    ],
)
def test_glob_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    matches = matcher(pattern)
    assert [name for name in matching + others if matches(name)] == matching


def test_patterns_predicates_presets_and_lists() -> None:
    net = Net(blocks=2)
    inner = ["layer/blocks.0.inner", "layer/blocks.1.inner"]
    assert names(net, "**.inner") == inner
    assert names(net, lambda name, module: isinstance(module, nn.ReLU) and "inner" in name) == inner
    assert names(net, "pool:input") == ["layer/pool:input"]
    assert names(net, "prepool") == ["prepool"]
    blocks = ["block/b01", "block/b01/output", "block/b02", "block/b02/output"]
    assert names(net, "blocks") == [*blocks, "prepool"]
    assert names(net, ["prepool", "**.inner", "blocks.0.*ner"]) == ["prepool", *inner]
    full = select(net, "full")
    assert [point.name for point in full.points if point.name.startswith("layer")] == [
        f"layer/blocks.{block}.{kind}" for block in (0, 1) for kind in ("inner", "activation")
    ]
    assert full.parameters["blocks.1.up_projection.bias"] == "b02/up_projection.bias"
    assert full.parameters["stem.weight"] == "stem.weight"
    assert full.norms == ["blocks.0.norm", "blocks.1.norm"]
    assert set(select(net, "blocks").parameters.values()) == {
        f"b0{block}/up_projection.{kind}" for block in (1, 2) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("**.inneer", "matches none of the 28 modules; near: blocks.0.inner"),
        ("blocsk", "near: blocks.*presets are prepool, blocks, full"),
        ("fulll", "presets are prepool, blocks, full"),
        ("pool:output", "only `input` is known, not 'output'"),
        ([], "where is empty"),
        (lambda name, module: False, "the predicate matches none of the 29 modules"),
    ],
)
def test_what_matches_nothing_is_refused_with_what_is_near(where: Where, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        observe(Net(blocks=3), where)


def test_presets_without_a_place_say_what_to_write() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten())
    with pytest.raises(ValueError, match=r"no global average pooling.*the last modules are 0, 1, 2"):
        observe(plain, "prepool")
    with pytest.raises(ValueError, match="name layers by a pattern"):
        observe(plain, "blocks")
    with pytest.raises(ValueError, match="parameters='x' matches none of the 2 trained ones"):
        observe(plain, "1", parameters="x", optimizer=torch.optim.SGD(plain.parameters(), 0.1))
    with pytest.raises(ValueError, match="pass optimizer="):
        observe(plain, "1", parameters="0.weight")
    with pytest.raises(ValueError, match="DistributedDataParallel"):
        observe(nn.DataParallel(plain), "1")


def test_our_networks_with_and_without_residual_sums() -> None:
    net = build_model("inception_resnet_v2", num_classes=10, image_size=32, width=0.05, repeats=(1, 2, 1))
    found = names(net, "blocks")
    assert found == [f"block/b0{i}{part}" for i in range(1, 5) for part in ("", "/output")] + ["prepool"]
    plain = select(build_model("inception_v4", num_classes=10, image_size=32, width=0.05, repeats=(1, 2, 1)), "blocks")
    modules = [point.module_name for point in plain.points]
    assert [name for name in modules if name.startswith("stages")] == [
        "stages.0.0",
        "stages.1.0",
        "stages.1.1",
        "stages.2.0",
    ]
    assert {"reductions.0", "reductions.1", "pool"} <= set(modules)
    assert all(point.name.startswith("block/b") for point in plain.points[:-1])


# -- ReLUs that are function calls ---------------------------------------------------------------------------------------


class Functional(nn.Module):
    """Every way in which a function's output can be reached: the next child, the module's end, the child before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        x = self.conv2(functional.relu(self.conv1(x), inplace=True))
        x = self.conv3(x).relu().mean(dim=(2, 3), keepdim=True) + x
        return torch.relu(x - 1)


class Recorder(TorchFunctionMode):
    """Every output of a functional ReLU, as it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Tensor:
        out: Tensor = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "relu":
            self.outputs.append(out.detach().clone())
        return out


@pytest.mark.parametrize("where", ["**.relu*", "block.relu()*", "full"])
def test_functional_relus_read_what_the_function_returned(where: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("block", Functional())
    images = torch.randn(4, 3, 5, 5)
    with Recorder() as truth:
        model(images)
    with observe(model, where) as probe:
        model(images)
    (row,) = probe.rows
    layers = [f"layer/block.relu(){suffix}" for suffix in ("", "#2", "#3")]
    assert set(layers) <= set(probe.layers)
    assert len(truth.outputs) == 3
    for layer, output in zip(layers, truth.outputs, strict=True):
        assert row[f"{layer}/zero_fraction"] == pytest.approx(float((output == 0).double().mean())), layer
        assert row[f"{layer}/rms"] == pytest.approx(float(output.double().square().mean().sqrt()), rel=1e-5), layer


def test_what_cannot_be_traced_is_said() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.conv(x)) if x.sum() > 0 else x

    class Lost(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(x + 1) + 1

    model = nn.Sequential(Branching())
    with pytest.raises(ValueError, match=r"matches none of the 2 modules.*Branching"):
        observe(model, "**.relu*")
    model.add_module("relu", nn.ReLU())
    with pytest.warns(ProbeWarning, match=r"functions in 0 \(Branching\) are not read: torch.fx cannot trace"):
        observe(model, "**.relu*").__enter__().__exit__(None, None, None)
    with observe(nn.Sequential(Lost(), nn.ReLU()), "full") as probe:
        pass
    assert probe.notes == ["1 of the 1 ReLUs called as functions in 0 touch no module: not read"]


# -- other people's networks -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchvision_resnet18_in_three_lines() -> None:
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    with observe(model, "**.relu*", every=1) as probe:
        model(torch.randn(2, 3, 64, 64)).sum().backward()
    row = probe.rows[0]
    # each block calls its one ReLU module twice
    assert {"layer/relu", "layer/layer1.0.relu", "layer/layer1.0.relu#2", "layer/layer4.1.relu#2"} <= set(probe.layers)
    assert len(probe.layers) == 17
    assert 0.2 < row["layer/layer1.0.relu/zero_fraction"] < 0.8
    assert probe.frame()["layer/layer4.1.relu#2/dead_units_batch"].tolist() == [
        row["layer/layer4.1.relu#2/dead_units_batch"]
    ]
    with observe(model, "blocks") as probe:
        model(torch.randn(2, 3, 64, 64))
    assert [layer for layer in probe.layers if layer.startswith("block")] == [
        f"block/b0{i}/output" for i in range(1, 9)
    ]


@pytest.mark.slow
def test_torchvision_googlenet_has_functional_relus_only() -> None:
    from torchvision.models import googlenet

    model = googlenet(num_classes=10, aux_logits=False, init_weights=False)
    with observe(model, "**.relu*") as probe, Recorder() as truth:
        model(torch.randn(2, 3, 64, 64))
    assert len(probe.layers) == len(truth.outputs) == 57
    for layer, output in zip(probe.layers, truth.outputs, strict=True):
        assert probe.rows[0][f"{layer}/zero_fraction"] == pytest.approx(float((output == 0).double().mean())), layer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where", "layers"),
    [
        ("inception_resnet_v2", "full", 100),
        ("vit_tiny_patch16_224", "blocks", 12),
        ("convnext_atto", "**.act", 12),
        ("resnet18", ["blocks", "prepool"], 9),
    ],
)
def test_timm_networks(name: str, where: str | list[str], layers: int) -> None:
    import timm

    model = timm.create_model(name, num_classes=3)
    size = 96 if name == "inception_resnet_v2" else 224 if name.startswith("vit") else 64
    with observe(model, where) as probe:
        model(torch.randn(2, 3, size, size))
    assert len(probe.layers) >= layers
    row = probe.rows[0]
    assert all(row[f"{layer}/rms"] > 0 for layer in probe.layers)
    assert all(row[f"{layer}/nonfinite_units"] == 0 for layer in probe.layers)
