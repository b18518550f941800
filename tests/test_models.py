"""The networks: golden counts, what each axis does, that every part of every one is trained."""

from __future__ import annotations

import copy
import io
import math
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.architectures import ARCHITECTURES, ArchitectureName, ModelConfig, minimum_image_size
from harness.architectures.fields import Stem
from harness.located import InputError
from harness.models import Network, build_model, summarise
from harness.models.blocks import InceptionResNetBlock, ResNetBlock
from harness.models.layers import ConvLayer, PaddedShortcut, ResidualSum, batch_norm
from harness.models.summary import Summary, models_table

RELEASED = ("inception_resnet_v1_released", "inception_resnet_v2_released")
INCEPTION_RESNETS = ("inception_resnet_v1", "inception_resnet_v2", *RELEASED)
INCEPTIONS = ("inception_v4", "inception_v3")
# The CIFAR nets differ in their repeats only: at one module a stage they are one net.
FAMILIES = (*INCEPTION_RESNETS, *INCEPTIONS, "resnet20_cifar")
RESIDUAL = (*INCEPTION_RESNETS, "resnet20_cifar")
BLOCKS = (InceptionResNetBlock, ResNetBlock)


@pytest.fixture(autouse=True)
def one_seed() -> None:
    torch.manual_seed(0)


def tiny(name: str, *, image_size: int = 32, num_classes: int = 10, **fields: Any) -> Network:
    """The smallest net with every kind of module: one module a stage (two in the last, for the released last block)."""
    fields = {"width": 1 / 16, "repeats": [1, 1, 2], **fields}
    return build_model(name, num_classes=num_classes, image_size=image_size, **fields)


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def blocks(model: nn.Module) -> Iterator[InceptionResNetBlock | ResNetBlock]:
    for module in model.modules():
        if isinstance(module, BLOCKS):
            yield module


def outputs(model: nn.Module, modules: list[nn.Module], batch: Tensor) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs and output of each of these modules in one pass."""
    seen: dict[nn.Module, tuple[tuple[Tensor, ...], Tensor]] = {}
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: seen.__setitem__(module, (inputs, output)))
    model(batch)
    return [seen[module] for module in modules]


@cache
def published(name: str) -> Summary:
    return summarise(name, num_classes=1000, image_size=299)


# Golden counts (harness/architectures/README.md): parameters with and without BN gamma, MACs, convolutions.


@pytest.mark.parametrize(
    ("name", "params", "params_without_gamma", "macs", "convolutions"),
    [
        ("inception_v4", 42_679_816, 42_648_232, 12_253_974_624, 149),
        ("inception_resnet_v1", 22_756_328, 22_742_808, 6_206_361_696, 127),
        ("inception_resnet_v2", 32_433_928, 32_417_496, 9_257_953_632, 132),
        ("inception_resnet_v2_released", 55_843_464, 55_813_192, 13_155_794_016, 244),
        ("inception_v3", 23_834_568, 23_817_352, 5_713_216_096, 94),
    ],
)
def test_counts_at_299_pixels_and_1000_classes(
    name: str, params: int, params_without_gamma: int, macs: int, convolutions: int
) -> None:
    counted = published(name)
    assert (counted.params, counted.params_without_gamma) == (params, params_without_gamma)
    assert (counted.macs, counted.convolutions) == (macs, convolutions)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("resnet20_cifar", 269_722, 40_551_040),
        ("resnet32_cifar", 464_154, 68_862_592),
        ("resnet44_cifar", 658_586, 97_174_144),
        ("resnet56_cifar", 853_018, 125_485_696),
        ("resnet110_cifar", 1_727_962, 252_887_680),
    ],
)
def test_counts_of_the_cifar_nets(name: str, params: int, macs: int) -> None:
    counted = summarise(name, num_classes=10, image_size=32)
    assert (counted.params, counted.macs) == (params, macs)


@pytest.mark.parametrize(
    ("name", "stem", "a", "reduction_a", "b", "reduction_b", "c", "classifier"),
    [
        ("inception_v4", 605_728, 317_632, 2_306_112, 2_936_256, 2_747_392, 4_553_088, 1_537_000),
        ("inception_resnet_v1", 615_552, 77_440, 1_710_080, 690_048, 3_346_176, 1_600_768, 1_793_000),
        ("inception_resnet_v2", 605_728, 137_568, 2_902_528, 1_171_904, 3_930_112, 2_088_736, 2_145_000),
        ("inception_resnet_v1_released", 615_552, 77_440, 1_710_080, 690_048, 3_346_176, 1_600_768, 1_793_000),
        ("inception_resnet_v2_released", 440_992, 123_168, 2_664_960, 1_126_784, 3_880_960, 2_035_424, 1_537_000),
    ],
)
def test_counts_of_each_stage(
    name: str, stem: int, a: int, reduction_a: int, b: int, reduction_b: int, c: int, classifier: int
) -> None:
    parts = published(name).parts
    one_module = {part.name: part.params / part.modules for part in parts if part.name != "stem"}
    one_module["stem"] = parts[0].params
    assert {place: one_module[place] for place in one_module if place != "last layer"} == {
        "stem": stem,
        "stage 1": a,
        "reduction 1": reduction_a,
        "stage 2": b,
        "reduction 2": reduction_b,
        "stage 3": c,
        "classifier": classifier,
    }
    assert one_module.get("last layer") == (3_197_952 if name == "inception_resnet_v2_released" else None)


def test_counts_of_each_module_of_inception_v3() -> None:
    with torch.device("meta"):
        model = build_model("inception_v3", num_classes=1000, image_size=299)
    counts = [[sum(p.numel() for p in module.parameters()) for module in stage.children()] for stage in model.stages]
    assert counts == [
        [255_904, 277_472, 285_152],
        [1_297_408, 1_691_008, 1_691_008, 2_141_952],
        [5_044_608, 6_076_800],
    ]
    assert [sum(p.numel() for p in each.parameters()) for each in model.reductions] == [1_153_280, 1_698_304]


@pytest.mark.parametrize(
    ("name", "with_gamma", "without_gamma"),
    [
        ("inception_v3", 3_326_696, 3_326_696 - 896),
        ("inception_v4", 3_359_464, 3_358_568),
        ("inception_resnet_v2_released", 3_367_656, 3_366_760),
    ],
)
def test_counts_of_the_auxiliary_heads(name: str, with_gamma: int, without_gamma: int) -> None:
    for gamma, count in ((True, with_gamma), (False, without_gamma)):
        part = summarise(name, num_classes=1000, image_size=299, aux_head=True, bn_gamma=gamma).parts[-1]
        assert (part.name, part.params, part.macs) == ("aux head", count, 0)


def test_a_net_without_gamma_has_the_parameters_of_slim_and_keras() -> None:
    counted = summarise("inception_resnet_v2_released", num_classes=1000, image_size=299, bn_gamma=False)
    assert (counted.params, counted.params_without_gamma) == (55_813_192, 55_813_192)


def test_the_summary_says_what_the_net_is() -> None:
    counted = summarise("inception_resnet_v2", num_classes=10, image_size=32, width=0.125)
    assert (counted.trunk_widths, counted.pre_pool_width, counted.grids) == ((48, 144, 268), 268, (8, 4, 2))
    assert (counted.config.stem, counted.minimum_image_size, counted.death_event) == ("small", 5, "died")
    assert (counted.relu_feeds_pool, counted.bn_before_pool_relu) == (True, False)
    assert counted.params == sum(part.params for part in counted.parts)
    with pytest.raises(ValueError, match=r"width: 0\.001 leaves no filter"):
        summarise("inception_resnet_v2", num_classes=10, image_size=32, width=0.001)


def test_the_table_of_the_command_models() -> None:
    def lines(*arguments: Any) -> list[list[str]]:
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(models_table(*arguments))
        return [line.split() for line in console.export_text().splitlines()]

    _, *rows = lines()
    assert [row[0] for row in rows] == list(ARCHITECTURES)
    assert " ".join(rows[1]) == (
        "inception_resnet_v2 32,433,928 32,417,496 9,257,953,632 132 384/1152/2144 2144 299 75 ReLU died"
    )
    assert rows[2][-3:] == ["no", "ReLU", "collapsed"]
    assert rows[3][-3:] == ["batch-norm,", "ReLU", "collapsed"]
    small = lines(0.125, 32, 10)
    assert small[2][5:9] == ["48/144/268", "268", "32", "5"]
    with pytest.raises(InputError, match=r"inception_v4: width: 0\.001 leaves no filter"):
        models_table(0.001)


# Shapes.


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [32, 75])
def test_the_trunk_is_what_the_table_says(name: str, size: int) -> None:
    model = tiny(name, image_size=size)
    counted = summarise(name, num_classes=10, image_size=size, width=1 / 16, repeats=[1, 1, 2])
    *stages, ((pre_pool,), pooled) = outputs(model, [*model.stages, model.pool], images(2, size))
    shapes = [tuple(output.shape) for _, output in stages]
    grids = zip(counted.trunk_widths, counted.grids, strict=True)
    assert shapes == [(2, width, grid, grid) for width, grid in grids]
    assert tuple(pre_pool.shape) == (2, counted.pre_pool_width, counted.grids[-1], counted.grids[-1])
    assert torch.equal(pooled, pre_pool.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_smallest_image_works_in_training(name: ArchitectureName) -> None:
    stems: tuple[Stem, ...] = ("paper", "small") if name != "resnet20_cifar" else ("paper",)
    for stem in stems:
        size = minimum_image_size(name, stem)
        logits = tiny(name, image_size=size, stem=stem, num_classes=3).train()(images(2, size))
        assert (logits.shape, bool(logits.isfinite().all())) == ((2, 3), True)


@pytest.mark.parametrize(
    ("name", "repeats"),
    [
        ("resnet20_cifar", [0, 1, 1]),  # the later stages reduce: refused, see test_architectures
        *((name, repeats) for name in FAMILIES[:-1] for repeats in ([0, 1, 1], [1, 0, 1], [1, 1, 0])),
    ],
)
def test_a_stage_may_be_empty_where_the_net_still_makes_sense(name: str, repeats: list[int]) -> None:
    model = tiny(name, repeats=repeats)
    assert [len(list(stage.children())) for stage in model.stages] == repeats
    assert model(images()).shape == (4, 10)


def test_inception_v3_takes_its_different_modules_in_order_and_repeats_the_last() -> None:
    def pool_branch(repeats: int) -> list[int]:
        model = build_model("inception_v3", num_classes=10, image_size=32, repeats=[repeats, 1, 1])
        return [module[3][1].conv.out_channels for module in model.stages[0].children()]  # type: ignore[index]

    assert (pool_branch(1), pool_branch(3), pool_branch(5)) == ([32], [32, 64, 64], [32, 64, 64, 64, 64])


# Every parameter is trained, for every architecture and every value of every axis: a few nets take a value of each.

NETS = 5
PAPER_STEM, NOTHING = {"stem": "paper", "image_size": 75}, dict[str, Any]()
AXES: dict[str, tuple[tuple[str, ...], list[dict[str, Any]]]] = {
    # axis: (architectures that have it, the values of the nets, over again)
    "stem": (FAMILIES, [PAPER_STEM, NOTHING, NOTHING, PAPER_STEM, NOTHING]),
    "small_stem": (
        FAMILIES[:-1],
        [NOTHING, {"stem": "small", "image_size": 40}, {"stem": "small", "image_size": 75}, NOTHING, {"stem": "small"}],
    ),
    "width": (FAMILIES, [{"width": 0.11}, NOTHING, {"width": 0.25}]),
    "trunk_width": (RESIDUAL, [{"trunk_width": 0.7}, NOTHING]),
    "branch_width": (RESIDUAL, [NOTHING, {"branch_width": 1.4}]),
    "repeats": (FAMILIES, [{"repeats": [2, 1, 1]}, {"repeats": [1, 2, 3]}]),
    "residual_scale": (
        RESIDUAL,
        [
            {"residual_scale": 0.1},
            {"residual_scale": [1.0, 0.3, 0.1]},
            {"residual_scale": "learned"},
            {"residual_scale": "learned", "residual_scale_init": 0.0},
        ],
    ),
    "batch_norm": (FAMILIES, [{"batch_norm": "paper"}, {"batch_norm": "none"}, NOTHING, NOTHING, NOTHING]),
    "branch_output": (INCEPTION_RESNETS, [NOTHING, NOTHING, {"batch_norm": "branch_output"}, NOTHING, NOTHING]),
    "after_sum": (RESIDUAL, [NOTHING, NOTHING, NOTHING, {"batch_norm": "after_sum"}, NOTHING]),
    "pre_pool": (
        ("inception_resnet_v1", "inception_resnet_v2", "inception_resnet_v1_released", "resnet20_cifar"),
        [NOTHING, NOTHING, NOTHING, NOTHING, {"batch_norm": "pre_pool"}],
    ),
    "bn": (FAMILIES, [{"bn_gamma": False}, NOTHING, {"bn_eps": 1e-5}, {"bn_momentum": 0.0003}]),
    "up_projection_bias": (INCEPTION_RESNETS, [{"up_projection_bias": bias} for bias in ("on", "off", "frozen")]),
    "up_projection_init": (INCEPTION_RESNETS, [{"up_projection_init": init} for init in ("default", "zero", 0.3)]),
    "init": (
        FAMILIES,
        [{"init": init} for init in ("xavier_uniform", "trunc_normal", "he", "variance_scaling")],
    ),
    "activation": (
        FAMILIES,
        [{"activation": activation} for activation in ("relu", "leaky_relu", "gelu", "silu")],
    ),
    "dropout_keep": (FAMILIES, [{"dropout_keep": 0.5}, {"dropout_keep": 1.0}]),
    "figure_order": (  # of v2, with the paper's stem only
        ("inception_resnet_v2", "inception_v4"),
        [{"figure_order": True}, NOTHING, NOTHING, {"figure_order": False}, NOTHING],
    ),
    "aux_head": (
        ("inception_resnet_v2_released", "inception_v4", "inception_v3"),
        [{"aux_head": False}, {"aux_head": True}, {"aux_head": True}, NOTHING, NOTHING],
    ),
}


@pytest.mark.parametrize("number", range(NETS))
@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_gets_a_finite_gradient(name: str, number: int) -> None:
    assert all(len(values) <= NETS for _, values in AXES.values())  # else one would be in no net
    chosen = [values[number % len(values)] for having, values in AXES.values() if name in having]
    fields: dict[str, Any] = {field: value for each in chosen for field, value in each.items()}
    size = fields.pop("image_size", 32)
    model = tiny(name, image_size=size, **fields).train()
    batch = images(3, size)
    logits = model(batch, with_aux=True) if model.aux_head is not None else (model(batch),)
    sum(nn.functional.cross_entropy(each, torch.tensor([0, 1, 2])) for each in logits).backward()  # type: ignore[union-attr]
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all(key.endswith("up_projection.bias") for key in frozen)
    assert bool(frozen) == (fields.get("up_projection_bias") == "frozen")
    for key, parameter in model.named_parameters():
        if key in frozen:
            assert parameter.grad is None, key
        else:
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), (key, fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_axis_that_an_architecture_lacks_is_refused_by_its_name(name: str) -> None:
    for having, values in AXES.values():
        for fields in values if name not in having else ():
            if fields:
                with pytest.raises(ValueError, match=next(iter(fields))):
                    tiny(name, **{"image_size": 32, **fields})


@pytest.mark.parametrize("name", FAMILIES)
def test_no_parameter_is_left_without_influence(name: str) -> None:
    """With a smooth activation nothing is cut off, so every parameter's gradient is more than zero somewhere."""
    model = tiny(name, activation="silu", image_size=75).double().train()
    model(images(4, 75).double()).square().sum().backward()
    # A bias before a batch-norm is cancelled by it: the last up-projection of the released v2, before its 1x1 layer.
    cancelled = ["stages.2.1.up_projection.bias"] if name == "inception_resnet_v2_released" else []
    largest = {
        key: parameter.grad.abs().max().item() if parameter.grad is not None else 0.0
        for key, parameter in model.named_parameters()
    }
    assert [key for key, gradient in largest.items() if gradient < 1e-12] == cancelled


# The residual sum.


@pytest.mark.parametrize("name", RESIDUAL)
def test_scale_zero_makes_every_block_the_identity(name: str) -> None:
    for block in blocks(tiny(name, residual_scale=0.0)):
        if isinstance(block, ResNetBlock) and not isinstance(block.shortcut, nn.Identity):
            continue  # it changes the grid
        conv = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
        x = torch.rand(2, conv.in_channels, 4, 4)
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", RESIDUAL)
def test_learned_scales_of_one_are_the_unscaled_net(name: str) -> None:
    plain = tiny(name, residual_scale=1.0, dropout_keep=1.0)
    learned = tiny(name, residual_scale="learned", residual_scale_init=1.0, dropout_keep=1.0)
    missing = learned.load_state_dict(plain.state_dict(), strict=False)
    scales = [key for key, _ in learned.named_parameters() if key.endswith("residual_sum.scale")]
    assert (sorted(missing.missing_keys), missing.unexpected_keys) == (sorted(scales), [])
    assert len(scales) == sum(learned.config.repeats or ())
    for mode in (False, True):
        assert torch.equal(plain.train(mode)(images()), learned.train(mode)(images()))


def test_the_sum_is_skip_plus_scale_times_branch_and_can_be_watched() -> None:
    model = tiny("inception_resnet_v2", residual_scale=[1.0, 0.3, 0.1])
    sums = [block.residual_sum for block in blocks(model)]
    assert [each.scale for each in sums] == [1.0, 0.3, 0.1, 0.1]
    for (inputs, total), module in zip(outputs(model, list(sums), images()), sums, strict=True):
        skip, branch = inputs
        torch.testing.assert_close(total, skip + module.scale * branch)
        assert branch.abs().max() > 0


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_block_is_relu_of_the_sum(name: str) -> None:
    model = tiny(name)
    for block in blocks(model):
        (_, total), (_, out) = outputs(model, [block.residual_sum, block], images())
        is_last = block is list(blocks(model))[-1]
        linear = name in RELEASED and is_last
        assert torch.equal(out, total if linear else total.relu())
        assert isinstance(block.activation, nn.Identity if linear else nn.ReLU)
        assert bool((total < 0).any())


@pytest.mark.parametrize("name", INCEPTION_RESNETS)
def test_the_up_projection_is_linear_with_bias_and_without_batch_norm(name: str) -> None:
    model = tiny(name)
    for block in blocks(model):
        assert isinstance(block, InceptionResNetBlock)
        assert block.up_projection.kernel_size == (1, 1)
        assert block.up_projection.bias is not None
        (_, projected), ((_, branch), _) = outputs(model, [block.up_projection, block.residual_sum], images())
        assert torch.equal(projected, branch)


@pytest.mark.parametrize("name", RELEASED)
def test_the_last_block_of_a_released_net_is_unscaled(name: str) -> None:
    scales = [block.residual_sum.scale for block in blocks(tiny(name, repeats=[1, 1, 3]))]
    assert scales == [0.17, 0.10, 0.20, 0.20, 1.0]


def test_the_padded_shortcut_subsamples_and_appends_zero_channels() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = PaddedShortcut(1, 3, stride=2)(x)
    assert out.tolist() == [[[[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2]]


# Batch-norm.


@pytest.mark.parametrize(
    ("name", "where", "added"),
    [
        ("inception_resnet_v2", "paper", []),
        (
            "inception_resnet_v2",
            "branch_output",
            ["0.0.branch_norm", "1.0.branch_norm", "2.0.branch_norm", "2.1.branch_norm"],
        ),
        ("inception_resnet_v2", "after_sum", ["0.0.sum_norm", "1.0.sum_norm", "2.0.sum_norm", "2.1.sum_norm"]),
        ("inception_resnet_v2", "pre_pool", ["2.1.sum_norm"]),
        ("inception_resnet_v1_released", "pre_pool", ["2.1.sum_norm"]),
        ("resnet20_cifar", "after_sum", ["0.0.sum_norm", "1.0.sum_norm", "2.0.sum_norm", "2.1.sum_norm"]),
        ("resnet20_cifar", "pre_pool", ["2.1.sum_norm"]),
    ],
)
def test_where_batch_norm_stands(name: str, where: str, added: list[str]) -> None:
    model = tiny(name, batch_norm=where)
    norms = [key for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    on_convolutions = [f"{key}.norm" for key, module in model.named_modules() if isinstance(module, ConvLayer)]
    assert sorted(norms) == sorted([*on_convolutions, *(f"stages.{place}" for place in added)])


@pytest.mark.parametrize("name", FAMILIES)
def test_without_batch_norm_its_bias_moves_into_the_convolution(name: str) -> None:
    model = tiny(name, batch_norm="none")
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(module.conv.bias is not None for module in model.modules() if isinstance(module, ConvLayer))
    usual = tiny(name)
    assert all(module.conv.bias is None for module in usual.modules() if isinstance(module, ConvLayer))


def test_extra_batch_norm_stands_between_the_sum_and_its_relu() -> None:
    model = tiny("inception_resnet_v2", batch_norm="pre_pool").train()
    last = list(blocks(model))[-1]
    (_, total), ((pre_pool,), _) = outputs(model, [last.residual_sum, model.pool], images())
    variance, mean = torch.var_mean(total, dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(pre_pool, ((total - mean) / (variance + 1e-3).sqrt()).relu(), atol=1e-5, rtol=1e-4)


def test_batch_norms_constants_reach_every_batch_norm() -> None:
    model = tiny("inception_resnet_v2", batch_norm="after_sum", bn_eps=1e-4, bn_momentum=0.25, bn_gamma=False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(module.eps, module.momentum) for module in norms} == {(1e-4, 0.25)}
    assert not [key for key, _ in model.named_parameters() if "norm.weight" in key]
    assert all(bool((module.weight == 1).all()) for module in norms)


def test_batch_norm_without_gamma_is_batch_norm_with_gamma_one() -> None:
    x = torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(batch_norm(5, gamma=False)(x), batch_norm(5)(x))


# The activation.

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "silu": nn.SiLU}


NONLINEAR = (*ACTIVATIONS, "relu_", "threshold", "clamp", "clamp_min", "maximum", "where", "sigmoid", "tanh")


class CalledFunctions(TorchFunctionMode):
    """Names of the torch functions that are called meanwhile."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", "silu"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_activation_reaches_every_place(name: ArchitectureName, activation: str) -> None:
    """Wherever the relu net has a ReLU, this net has its own activation, and no operation is one in disguise."""
    extra = {"aux_head": True} if ARCHITECTURES[name].aux_head else {}
    relu, other = (tiny(name, image_size=40, activation=each, **extra) for each in ("relu", activation))
    places = [key for key, module in relu.named_modules() if isinstance(module, nn.ReLU)]
    assert places == [key for key, module in other.named_modules() if isinstance(module, ACTIVATIONS[activation])]
    assert not [key for key, module in other.named_modules() if isinstance(module, nn.ReLU)]
    assert len(places) == (
        sum(isinstance(module, ConvLayer) for module in relu.modules())  # the plain block's second is linear, but
        + sum(isinstance(module, InceptionResNetBlock) for module in relu.modules())  # the block itself is not
        - (name in RELEASED)
    )
    with CalledFunctions() as called:
        other(images(2, 40), **({"with_aux": True} if extra else {}))
    assert {each for each in called.names if each in NONLINEAR} == {activation}
    assert called.names.count(activation) == len(places)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_keeps_its_input(activation: str) -> None:
    """Instruments read both sides of an activation, so none works in place."""
    model = tiny("inception_resnet_v2", activation=activation)
    modules = [module for module in model.modules() if isinstance(module, ACTIVATIONS[activation])]
    for ((before,), after), module in zip(outputs(model, modules, images()), modules, strict=True):
        assert torch.equal(module(before), after)
        assert bool((before < 0).any())


# Initial weights.


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000]


@pytest.mark.parametrize("init", ["xavier_uniform", "trunc_normal", "he", "variance_scaling"])
def test_initial_weights_have_their_distribution(init: str) -> None:
    # A normal cut off at two of its standard deviations keeps 0.8796 of its own.
    model = build_model("inception_resnet_v2", num_classes=50, image_size=32, init=init, width=0.5, repeats=[1, 1, 1])
    weights = [*(layer.weight for layer in convolutions(model)), model.classifier.weight]
    for weight in (each.detach() for each in weights):
        receptive = weight[0, 0].numel() if weight.dim() == 4 else 1
        fan_in, fan_out = weight.shape[1] * receptive, weight.shape[0] * receptive
        bound = {
            "xavier_uniform": math.sqrt(6 / (fan_in + fan_out)),
            "trunc_normal": 0.2,
            "he": math.inf,
            "variance_scaling": 2 * math.sqrt(2.6 / fan_in),
        }[init]
        std = {
            "xavier_uniform": bound / math.sqrt(3),
            "trunc_normal": 0.08796,
            "he": math.sqrt(2 / fan_out),
            "variance_scaling": 0.8796 * math.sqrt(2.6 / fan_in),
        }[init]
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert abs(weight.mean().item()) < 0.05 * std


def test_biases_start_at_zero() -> None:
    for model in (tiny("inception_resnet_v2"), tiny("inception_v4", batch_norm="none")):
        biases = [parameter for key, parameter in model.named_parameters() if key.endswith("bias")]
        assert biases
        assert not any(bool(bias.any()) for bias in biases)


def test_the_up_projections_initial_weights_are_scaled_and_nothing_else() -> None:
    def weights(init: Any) -> dict[str, Tensor]:
        torch.manual_seed(5)
        return dict(tiny("inception_resnet_v2", up_projection_init=init).named_parameters())

    usual, scaled, zero = weights("default"), weights(0.3), weights("zero")
    assert any(key.endswith("up_projection.weight") for key in usual)
    for key, weight in usual.items():
        factor, gone = (0.3, 0.0) if key.endswith("up_projection.weight") else (1.0, 1.0)
        assert torch.equal(scaled[key], weight * factor)
        assert torch.equal(zero[key], weight * gone)


def test_the_seed_fixes_the_weights() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(tiny("inception_resnet_v2").state_dict().values())

    assert all(map(torch.equal, weights(7), weights(7)))
    assert not all(map(torch.equal, weights(7), weights(8)))


# Dropout, the auxiliary head, the death event.


def test_dropout_acts_in_training_only() -> None:
    model = tiny("inception_resnet_v2", dropout_keep=0.5)
    (_, pooled), (_, dropped) = outputs(model.train(), [model.pool, model.dropout], images(64))
    kept = dropped[pooled != 0] != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped[dropped != 0], 2 * pooled[dropped != 0])
    (_, pooled), (_, dropped) = outputs(model.eval(), [model.pool, model.dropout], images())
    assert torch.equal(pooled, dropped)


@pytest.mark.parametrize("name", ["inception_resnet_v2_released", "inception_v4", "inception_v3"])
@pytest.mark.parametrize("size", [40, 128])
def test_the_auxiliary_head_gives_logits_on_demand(name: str, size: int) -> None:
    model = tiny(name, image_size=size, aux_head=True, dropout_keep=1.0)
    assert model(images(2, size)).shape == (2, 10)
    logits, aux = model(images(2, size), with_aux=True)
    assert torch.equal(logits, model(images(2, size)))
    assert aux.shape == (2, 10)
    assert not torch.equal(logits, aux)


def test_without_an_auxiliary_head_its_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="no auxiliary head: build it with aux_head=True"):
        tiny("inception_v4")(images(), with_aux=True)


@pytest.mark.parametrize(
    ("name", "where"),
    [(name, where) for name in FAMILIES for where in ("paper", "none")] + [(name, "after_sum") for name in RESIDUAL],
)
def test_the_model_says_what_feeds_its_pool(name: str, where: str) -> None:
    """The facts that come from the table agree with the modules that the pre-pool activation really passed last."""
    model = tiny(name, batch_norm=where)
    order: list[nn.Module] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    for module in leaves:
        if not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda module, _, __: order.append(module))
    model(images())
    before_pool = order[: order.index(model.pool)]
    relu = isinstance(before_pool[-1], nn.ReLU)
    assert model.relu_feeds_pool == relu
    assert model.bn_before_pool_relu == (relu and isinstance(before_pool[-2], nn.BatchNorm2d))
    assert model.death_event == ("died" if relu and not model.bn_before_pool_relu else "collapsed")


# Layouts, precisions, copies and compilation.


@pytest.mark.parametrize("name", FAMILIES)
def test_layouts_and_precisions_agree(name: str) -> None:
    model = tiny(name, image_size=75).eval()
    batch = images(4, 75)
    with torch.no_grad():
        exact = model.double()(batch.double())
        model.float()
        scale = exact.abs().max()
        plain = model(batch)
        last = model.to(memory_format=torch.channels_last)
        channels_last = last(batch.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            bf16 = last(batch.to(memory_format=torch.channels_last))
    assert bf16.dtype == torch.bfloat16
    assert (plain - exact).abs().max() < 1e-5 * scale
    assert (channels_last - exact).abs().max() < 1e-5 * scale
    assert 1e-5 * scale < (bf16 - exact).abs().max() < 5e-2 * scale


def test_channels_last_stays_channels_last() -> None:
    model = tiny("inception_resnet_v2").to(memory_format=torch.channels_last)
    ((pre_pool,), _) = outputs(model, [model.pool], images().to(memory_format=torch.channels_last))[0]
    assert pre_pool.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_trained_net_can_be_copied(name: str) -> None:
    model = tiny(name)
    model(images()).sum().backward()
    twin = copy.deepcopy(model)
    assert torch.equal(twin.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_net_is_one_graph(name: str) -> None:
    """torch.compile captures it without a break; here without the code generation, which takes long."""
    model = tiny(name).eval()
    captured = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(captured(images()), model(images()), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["inception_resnet_v1", "resnet20_cifar"])
def test_a_compiled_block_gives_the_same_output(name: str) -> None:
    """One block of each kind, of the second stage, since code is generated for each of a net's shapes anew."""
    model = tiny(name, residual_scale=0.3, repeats=[1, 1, 1]).eval()
    block = model.get_submodule("stages.1.0")
    with torch.no_grad():
        ((x,), expected) = outputs(model, [block], images())[0]
        assert not torch.equal(expected, torch.zeros_like(expected))
        compiled: Callable[[Tensor], Tensor] = torch.compile(block)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-6)


# Bad input.


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ValueError) as refused:
        build_model("inception_v4", num_classes=10, image_size=32, residual_scale=0.1, stem="paper", width=0.001)
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == ["stem", "residual_scale", "width"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"network": "inception_resnet_v5"}, "name: .*'inception_resnet_v2'"),
        ({"widht": 0.5}, "widht: "),
        ({"width": -1.0}, "width: .*greater than 0"),
        ({"width": math.nan}, "width: "),
        ({"residual_scale": "big"}, "residual_scale: expected a number >= 0, a list .* or 'learned'"),
        ({"repeats": [1, -1, 1]}, "repeats: expected a list with one whole number >= 0 per stage"),
        ({"activation": "swish"}, "activation: "),
        ({"num_classes": 0}, "num_classes: at least 1"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_model(**{"network": "inception_resnet_v2", "num_classes": 10, "image_size": 32, **fields})


def test_a_typed_configuration_is_built_as_it_is_and_must_be_resolved() -> None:
    torch.manual_seed(0)
    named = build_model("inception_resnet_v2", num_classes=10, image_size=32, width=0.05, repeats=[1, 1, 1])
    torch.manual_seed(0)
    typed = build_model(named.config, num_classes=10, image_size=32)
    assert typed.config is named.config
    for key, tensor in named.state_dict().items():
        assert torch.equal(tensor, typed.state_dict()[key]), key
    with pytest.raises(TypeError, match="width: fields go with a name"):
        build_model(named.config, num_classes=10, image_size=32, width=0.5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="inception_v4 is not resolved"):
        build_model(ModelConfig(name="inception_v4"), num_classes=10, image_size=32)


def test_the_residual_sum_says_its_scale() -> None:
    assert repr(ResidualSum(0.1)) == "ResidualSum(scale=0.1)"
    assert repr(ResidualSum(0.1, learned=True)) == "ResidualSum(scale=learned)"
