"""The table of architectures: widths, grids, defaults, refusals. None of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness import architectures
from harness.architectures import ARCHITECTURES, ArchitectureName, ModelConfig

RESIDUAL = [name for name in ARCHITECTURES if name not in ("inception_v4", "inception_v3")]
INCEPTION_RESNETS = [name for name in ARCHITECTURES if name.startswith("inception_resnet")]
CIFAR = [name for name in ARCHITECTURES if name.endswith("_cifar")]
INCEPTIONS = [name for name in ARCHITECTURES if name not in CIFAR]


def resolve(name: str, image_size: int = 299, **fields: Any) -> tuple[ModelConfig, list[tuple[str, str]]]:
    """The resolved configuration, and the problems."""
    return architectures.resolve(ModelConfig(name=name, **fields), image_size)  # type: ignore[arg-type]


def plan(name: str, image_size: int = 299, **fields: Any) -> architectures.Blueprint:
    resolved, problems = resolve(name, image_size, **fields)
    assert problems == []
    return architectures.blueprint(resolved)


def refusal(name: str, image_size: int = 299, **fields: Any) -> tuple[str, str]:
    """The one problem of these fields."""
    _, problems = resolve(name, image_size, **fields)
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, harness.models; from harness.config import RunConfig; RunConfig(); "
        "sys.exit([m for m in ('torch', 'numpy') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Widths and grids (harness/architectures/README.md).


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("inception_resnet_v1", (256, 896, 1792)),
        ("inception_resnet_v2", (384, 1152, 2144)),
        ("inception_resnet_v1_released", (256, 896, 1792)),
        ("inception_resnet_v2_released", (320, 1088, 2080)),
        ("inception_v4", (384, 1024, 1536)),
        ("inception_v3", (288, 768, 2048)),
        ("resnet20_cifar", (16, 32, 64)),
        ("resnet110_cifar", (16, 32, 64)),
    ],
)
def test_trunk_widths_are_the_published_ones(name: str, widths: tuple[int, ...]) -> None:
    assert plan(name).trunk_widths() == widths


@pytest.mark.parametrize("name", INCEPTIONS)
def test_the_small_stem_feeds_the_same_trunk(name: str) -> None:
    for width in (1.0, 0.3, 0.125):
        paper, small = (plan(name, stem=stem, width=width) for stem in ("paper", "small"))
        assert paper.trunk_widths() == small.trunk_widths()


def test_trunk_widths_follow_from_what_feeds_them() -> None:
    """Fig. 15 to 19 at a quarter: stem 96; + 96 + 96; + 96 + 72 + 80."""
    assert plan("inception_resnet_v2", width=0.25).trunk_widths() == (96, 288, 536)
    assert plan("inception_resnet_v2", trunk_width=0.25).trunk_widths() == (96, 288, 536)
    assert plan("inception_resnet_v2", branch_width=0.25).trunk_widths() == (384, 1152, 2144)


def test_trunk_and_branch_width_divide_the_filters_between_them() -> None:
    def filters(**fields: Any) -> tuple[list[int], list[int]]:
        it = plan("inception_resnet_v2", **fields)
        trunk = [
            conv.filters for module in (*it.stem, *it.reductions) if module for conv in architectures.convs(module)
        ]
        return trunk, [conv.filters for stage in it.stages for module in stage for conv in architectures.convs(module)]

    trunk, branches = filters()
    assert filters(trunk_width=0.5) == ([n // 2 for n in trunk], branches)
    assert filters(branch_width=0.5) == (trunk, [n // 2 for n in branches])
    assert filters(width=0.5) == filters(trunk_width=0.5, branch_width=0.5)


def test_a_plain_residual_branch_has_one_inner_layer() -> None:
    """He et al.'s block: branch_width scales the first convolution, the second is as wide as the trunk."""
    it = plan("resnet20_cifar", 32, branch_width=0.5)
    assert [[str(conv) for conv in architectures.convs(stage[0])] for stage in it.stages] == [
        ["3x3 8", "3x3 16"],
        ["3x3 16/2", "3x3 32"],
        ["3x3 32/2", "3x3 64"],
    ]


@pytest.mark.parametrize(
    ("filters", "factor", "rounded"),
    [(32, 0.125, 4), (48, 0.125, 6), (5, 0.5, 3), (7, 0.5, 4), (10, 0.24, 2), (32, 1 / 64, 1), (32, 0.0156, 0)],
)
def test_filters_round_to_the_nearest_halves_upwards(filters: int, factor: float, rounded: int) -> None:
    assert architectures.scale_filters(filters, factor) == rounded


@given(st.integers(1, 4096), st.integers(1, 4096), st.floats(0.001, 8), st.floats(0.001, 8))
def test_rounding_is_monotone(few: int, many: int, narrow: float, wide: float) -> None:
    few, many = sorted((few, many))
    narrow, wide = sorted((narrow, wide))
    assert architectures.scale_filters(few, narrow) <= architectures.scale_filters(many, narrow)
    assert architectures.scale_filters(few, narrow) <= architectures.scale_filters(few, wide)


@given(st.sampled_from(list(ARCHITECTURES)), st.floats(0.05, 2), st.floats(0.05, 2))
def test_trunk_widths_are_monotone_in_the_width(name: str, narrow: float, wide: float) -> None:
    narrow, wide = sorted((narrow, wide))
    pairs = zip(plan(name, width=narrow).trunk_widths(), plan(name, width=wide).trunk_widths(), strict=True)
    assert all(less <= more for less, more in pairs)


@pytest.mark.parametrize("name", INCEPTIONS)
@pytest.mark.parametrize(
    ("size", "grids"),
    [
        (299, (35, 17, 8)),
        (256, (29, 14, 6)),
        (224, (25, 12, 5)),
        (160, (17, 8, 3)),
        (128, (13, 6, 2)),
        (96, (9, 4, 1)),
        (75, (7, 3, 1)),
    ],
)
def test_grids_of_the_papers_stem(name: str, size: int, grids: tuple[int, ...]) -> None:
    assert plan(name, size).grids(size) == grids


@pytest.mark.parametrize("name", INCEPTIONS)
@pytest.mark.parametrize(("size", "grids"), [(64, (16, 8, 4)), (32, (8, 4, 2)), (28, (7, 4, 2)), (8, (2, 1, 1))])
def test_grids_of_the_small_stem(name: str, size: int, grids: tuple[int, ...]) -> None:
    assert plan(name, size).grids(size) == grids


@pytest.mark.parametrize("name", CIFAR)
def test_grids_of_the_cifar_nets(name: str) -> None:
    assert plan(name, 32).grids(32) == (32, 16, 8)


@pytest.mark.parametrize("name", INCEPTIONS)
def test_the_stem_goes_by_the_image_size(name: str) -> None:
    assert architectures.minimum_image_size(name, "paper") == 75
    assert resolve(name, 75)[0].stem == "paper"
    assert resolve(name, 74)[0].stem == "small"
    assert resolve(name, 299, stem="small")[0].stem == "small"


@pytest.mark.parametrize("name", CIFAR)
def test_the_cifar_nets_have_one_stem(name: str) -> None:
    assert resolve(name, 32)[0].stem == "paper"
    assert refusal(name, 32, stem="small")[0] == "stem"


# Kernel order (harness/architectures/README.md).


def kernels(module: architectures.Module, branch: int) -> list[str]:
    return [str(conv).split(" ")[0] for conv in architectures.convs((module[branch],))]


def test_kernel_order_is_that_of_the_code_or_of_the_figure() -> None:
    code, figure = plan("inception_v4"), plan("inception_v4", figure_order=True)
    assert kernels(code.stem[4], 1) == ["1x1", "1x7", "7x1", "3x3"]
    assert kernels(figure.stem[4], 1) == ["1x1", "7x1", "1x7", "3x3"]
    assert kernels(code.stages[1][0], 2) == ["1x1", "7x1", "1x7", "7x1", "1x7"]
    assert kernels(figure.stages[1][0], 2) == ["1x1", "1x7", "7x1", "1x7", "7x1"]
    assert kernels(code.stages[2][0], 2) == ["1x1", "3x1", "1x3", "1x3", "3x1"]
    assert kernels(figure.stages[2][0], 2) == ["1x1", "1x3", "3x1", "3x1", "1x3"]
    # The third branch of fig. 5 is a misprint, no order of its own.
    assert kernels(code.stages[1][0], 1) == kernels(figure.stages[1][0], 1) == ["1x1", "1x7", "7x1"]


def test_inception_resnet_v2_has_the_figures_order_in_its_stem_only() -> None:
    code, figure = plan("inception_resnet_v2"), plan("inception_resnet_v2", figure_order=True)
    assert (code.stem != figure.stem, code.stages == figure.stages) == (True, True)
    assert resolve("inception_resnet_v2", 32)[0].figure_order is None
    field, why = refusal("inception_resnet_v2", 32, figure_order=True)
    assert (field, "paper's stem only" in why) == ("figure_order", True)


def test_the_notation_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="not a layer of the table: '3x3'"):
        architectures.parse("1x1 32, 3x3")


# Resolution: what a left-out field becomes.


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("inception_resnet_v1", {"repeats": (5, 10, 5), "residual_scale": 1.0, "init": "xavier_uniform"}),
        ("inception_resnet_v2", {"repeats": (5, 10, 5), "residual_scale": 1.0, "figure_order": False}),
        ("inception_resnet_v2", {"up_projection_bias": "on", "up_projection_init": "default", "aux_head": None}),
        (
            "inception_resnet_v1_released",
            {"repeats": (5, 10, 6), "residual_scale": (0.17, 0.10, 0.20, 1.0), "init": "trunc_normal"},
        ),
        (
            "inception_resnet_v2_released",
            {"repeats": (10, 20, 10), "residual_scale": (0.17, 0.10, 0.20, 1.0), "aux_head": False},
        ),
        ("inception_v4", {"repeats": (4, 7, 3), "residual_scale": None, "init": "variance_scaling"}),
        ("inception_v4", {"up_projection_bias": None, "up_projection_init": None, "figure_order": False}),
        ("inception_v3", {"repeats": (3, 4, 2), "init": "trunc_normal", "dropout_keep": 0.8, "figure_order": None}),
        ("resnet20_cifar", {"repeats": (3, 3, 3), "residual_scale": 1.0, "init": "he", "dropout_keep": 1.0}),
        ("resnet110_cifar", {"repeats": (18, 18, 18), "up_projection_bias": None, "stem": "paper"}),
    ],
)
def test_fields_left_out_take_the_architectures_values(name: str, fields: dict[str, Any]) -> None:
    resolved, problems = resolve(name)
    assert problems == []
    assert {field: getattr(resolved, field) for field in fields} == fields


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_resolving_twice_changes_nothing(name: str) -> None:
    once, _ = resolve(name)
    assert architectures.resolve(once, 299) == (once, [])


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("inception_resnet_v2", {"residual_scale": 0.1}, {"residual_scale": [0.1, 0.1, 0.1]}),
        ("inception_resnet_v2", {}, {"residual_scale": 1.0, "repeats": [5, 10, 5]}),
        ("inception_resnet_v2_released", {}, {"residual_scale": [0.17, 0.1, 0.2]}),
        ("inception_resnet_v2_released", {"residual_scale": 0.1}, {"residual_scale": [0.1, 0.1, 0.1, 0.1]}),
        ("inception_resnet_v2", {}, {"up_projection_init": 1.0}),
        ("inception_resnet_v2", {"residual_scale": "learned"}, {"residual_scale": "learned", "residual_scale_init": 1}),
    ],
)
def test_equal_networks_have_equal_configurations(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert resolve(name, **one) == resolve(name, **other)


def test_the_scale_of_the_last_block_of_the_released_nets() -> None:
    """One number scales every block; a list of three leaves the separate last block at 1; a fourth number sets it."""

    def scales(scale: Any) -> tuple[tuple[float, ...], ...]:
        name = "inception_resnet_v2_released"
        return architectures.residual_scales(resolve(name, repeats=[1, 1, 3], residual_scale=scale)[0])

    assert scales(0.1) == ((0.1,), (0.1,), (0.1, 0.1, 0.1))
    assert scales([0.3, 0.2, 0.1]) == ((0.3,), (0.2,), (0.1, 0.1, 1.0))
    assert scales([0.3, 0.2, 0.1, 0.5]) == ((0.3,), (0.2,), (0.1, 0.1, 0.5))
    assert scales(None) == ((0.17,), (0.10,), (0.20, 0.20, 1.0))
    assert scales("learned") == ((1.0,), (1.0,), (1.0, 1.0, 1.0))


# Refusals: (architecture, fields, field that is blamed, what the message says).


@pytest.mark.parametrize(
    ("name", "fields", "blamed", "says"),
    [
        ("inception_v4", {"residual_scale": 0.1}, "residual_scale", "those that have: inception_resnet_v1, "),
        ("inception_v3", {"residual_scale": "learned", "residual_scale_init": 0}, "residual_scale", "inception_v3 has"),
        ("inception_v3", {"up_projection_bias": "off"}, "up_projection_bias", "inception_v3 has no up_projection_bias"),
        ("resnet20_cifar", {"up_projection_init": "zero"}, "up_projection_init", "has no up_projection_init"),
        ("inception_resnet_v1", {"figure_order": True}, "figure_order", "have: inception_resnet_v2, inception_v4"),
        ("inception_resnet_v2", {"aux_head": True}, "aux_head", "inception_resnet_v2_released, inception_v4"),
        ("inception_v4", {"trunk_width": 0.5}, "trunk_width", "use width"),
        ("inception_v3", {"branch_width": 0.5}, "branch_width", "use width"),
        ("inception_v4", {"batch_norm": "after_sum"}, "batch_norm", "no residual branch"),
        ("inception_v3", {"batch_norm": "branch_output"}, "batch_norm", "no residual branch"),
        ("inception_v4", {"batch_norm": "pre_pool"}, "batch_norm", "has a batch-norm already"),
        ("inception_resnet_v2_released", {"batch_norm": "pre_pool"}, "batch_norm", "has a batch-norm already"),
        ("resnet20_cifar", {"batch_norm": "branch_output"}, "batch_norm", "ends with a batch-norm already"),
        (
            "inception_resnet_v2",
            {"batch_norm": "pre_pool", "repeats": [1, 1, 0]},
            "batch_norm",
            "needs a module in the last stage",
        ),
        ("inception_resnet_v2", {"batch_norm": "none", "bn_gamma": False}, "bn_gamma", "no batch-norm"),
        ("inception_resnet_v2", {"batch_norm": "none", "bn_eps": 1e-5}, "bn_eps", "no batch-norm"),
        ("inception_resnet_v2", {"batch_norm": "none", "bn_momentum": 0.01}, "bn_momentum", "no batch-norm"),
        ("inception_resnet_v2", {"residual_scale_init": 0.0}, "residual_scale_init", "only with"),
        ("inception_resnet_v2", {"residual_scale": [0.1, 0.1]}, "residual_scale", "3 stages: give 3 numbers, not 2"),
        (
            "inception_resnet_v2_released",
            {"residual_scale": [0.1] * 5},
            "residual_scale",
            "3 numbers, and one more for the last block if wanted, not 5",
        ),
        ("inception_resnet_v2", {"repeats": [5, 10]}, "repeats", "3 stages: give 3 whole numbers, not 2"),
        ("inception_v4", {"repeats": [0, 0, 0]}, "repeats", "at least one stage"),
        ("resnet20_cifar", {"repeats": [3, 0, 3]}, "repeats", "stage 2 of resnet20_cifar needs at least 1 module"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, fields: dict[str, Any], blamed: str, says: str) -> None:
    field, why = refusal(name, **fields)
    assert field == blamed
    assert says in why


def test_every_problem_is_told_at_once() -> None:
    _, problems = resolve("inception_v4", 299, residual_scale=0.1, repeats=[1], width=0.001, up_projection_bias="off")
    assert sorted(field for field, _ in problems) == ["repeats", "residual_scale", "up_projection_bias", "width"]


@pytest.mark.parametrize("name", INCEPTIONS)
def test_too_small_an_image_is_told_the_minimum(name: str) -> None:
    assert refusal(name, 74, stem="paper") == (
        "stem",
        f"the paper's stem of {name} needs images of at least 75x75, not 74x74",
    )
    assert "at least 5x5" in refusal(name, 4)[1]


def test_the_auxiliary_head_needs_a_grid_of_five() -> None:
    """Its pooling has a 5x5 kernel: the second stage's grid is 5 from 107 pixels on, 4 at 106."""
    assert plan("inception_v4", 107).grids(107)[1] == 5
    assert resolve("inception_v4", 107, aux_head=True)[1] == []
    field, why = refusal("inception_v4", 106, aux_head=True)
    assert (field, "at least 107x107" in why) == ("aux_head", True)
    assert "at least 33x33" in refusal("inception_v4", 32, aux_head=True)[1]


def test_a_width_that_leaves_no_filter_names_the_layer() -> None:
    problems = resolve("inception_resnet_v2", 299, width=0.01)[1]
    assert problems == [
        (
            "width",
            "0.01 leaves no filter in stem, layer `3x3 32/2 V` of inception_resnet_v2; "
            "the smallest width that works is 0.01563",
        ),
    ]
    field, why = refusal("inception_resnet_v2", 299, branch_width=0.01, width=0.5)
    assert field == "branch_width"
    assert "the smallest branch_width that works with width 0.5 is 0.03125" in why


@given(st.sampled_from(list(ARCHITECTURES)), st.sampled_from([32, 299]), st.floats(0.0001, 0.05))
@example("inception_resnet_v2", 299, 1 / 64)
def test_the_smallest_width_that_is_named_works_and_a_smaller_does_not(name: str, size: int, width: float) -> None:
    problems = resolve(name, size, width=width)[1]
    if not problems:
        return
    smallest = max(float(why.rsplit(" ", 1)[1]) for _, why in problems)
    assert smallest > width
    assert resolve(name, size, width=smallest)[1] == []
    assert resolve(name, size, width=smallest * 0.999)[1] != []


@given(st.sampled_from(list(ARCHITECTURES)), st.sampled_from([32, 299]), st.floats(0.01, 0.1), st.floats(0.01, 0.1))
def test_what_is_not_refused_has_filters_everywhere(name: str, size: int, width: float, branch_width: float) -> None:
    fields = {"width": width} if name in ("inception_v4", "inception_v3") else {"width": 1.0, "trunk_width": width}
    if "trunk_width" in fields:
        fields["branch_width"] = branch_width
    resolved, problems = resolve(name, size, **fields)
    it = architectures.blueprint(resolved)
    modules = (*it.stem, *it.reductions, *(module for stage in it.stages for module in stage), it.last_layer)
    fewest = min(conv.filters for module in modules if module for conv in architectures.convs(module))
    assert (fewest >= 1) == (problems == [])


# The event that is a network's death (experiments/QUESTION.md).


@pytest.mark.parametrize(
    ("name", "fields", "relu_feeds_pool", "bn_before_pool_relu", "event"),
    [
        ("inception_resnet_v1", {}, True, False, "died"),
        ("inception_resnet_v2", {}, True, False, "died"),
        ("inception_resnet_v2", {"batch_norm": "branch_output"}, True, False, "died"),
        ("inception_resnet_v2", {"batch_norm": "after_sum"}, True, True, "collapsed"),
        ("inception_resnet_v2", {"batch_norm": "pre_pool"}, True, True, "collapsed"),
        ("inception_resnet_v2", {"batch_norm": "none"}, True, False, "died"),
        ("inception_resnet_v2", {"repeats": [1, 1, 0]}, True, True, "collapsed"),
        ("inception_resnet_v2", {"activation": "leaky_relu"}, False, False, "collapsed"),
        ("inception_resnet_v1_released", {}, False, False, "collapsed"),
        ("inception_resnet_v2_released", {}, True, True, "collapsed"),
        ("inception_resnet_v2_released", {"batch_norm": "none"}, True, False, "died"),
        ("inception_v4", {}, True, True, "collapsed"),
        ("inception_v4", {"batch_norm": "none"}, True, False, "died"),
        ("inception_v3", {"activation": "gelu"}, False, False, "collapsed"),
        ("resnet20_cifar", {}, True, False, "died"),
        ("resnet20_cifar", {"batch_norm": "after_sum"}, True, True, "collapsed"),
    ],
)
def test_the_death_event_follows_from_what_feeds_the_pool(
    name: str, fields: dict[str, Any], relu_feeds_pool: bool, bn_before_pool_relu: bool, event: str
) -> None:
    resolved, problems = resolve(name, **fields)
    assert problems == []
    assert architectures.pool_input(resolved) == (relu_feeds_pool, bn_before_pool_relu)
    assert architectures.death_event(resolved) == event


def test_every_name_has_a_row_with_its_source() -> None:
    assert tuple(ARCHITECTURES) == get_args(ArchitectureName)
    assert all("fig" in row.source or "arXiv" in row.source for row in ARCHITECTURES.values())
