"""The one table of architectures, in the notation of `harness.architectures.notation`.

Figures are those of arXiv:1602.07261 unless another paper is named; README.md beside this file says how they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ArchitectureName = Literal[
    "inception_resnet_v1",
    "inception_resnet_v2",
    "inception_resnet_v1_released",
    "inception_resnet_v2_released",
    "inception_v4",
    "inception_v3",
    "resnet20_cifar",
    "resnet32_cifar",
    "resnet44_cifar",
    "resnet56_cifar",
    "resnet110_cifar",
]


@dataclass(frozen=True, slots=True)
class Stage:
    """Modules on one grid size. Beyond the listed ones the last is repeated."""

    modules: tuple[str, ...]
    repeats: int
    residual_scale: float = 1.0

    def module(self, index: int) -> str:
        """The module at this place of the stage."""
        return self.modules[min(index, len(self.modules) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A row of the table."""

    source: str
    stem: tuple[str, ...]
    """Modules before the first stage."""
    kind: Literal["inception_resnet", "inception", "resnet"]
    """What a module's branches become: a residual branch ended by the linear 1x1 up-projection to the width of the
    input; the concatenation itself; or a residual branch whose last convolution (with batch-norm) is linear."""
    stages: tuple[Stage, ...]
    reductions: tuple[str, ...] = ()
    """Modules between the stages; none where a stage's first module reduces."""
    last_layer: str | None = None
    """Module between the last stage and the pool."""
    last_block: float | None = None
    """Residual scale of the last stage's last block, where that block is set apart and has no ReLU."""
    init: str
    dropout_keep: float = 0.8
    aux_head: bool = False
    """Whether the released code has an auxiliary classifier."""


V1_STEM = (  # Fig. 14
    "3x3 32/2 V",
    "3x3 32 V",
    "3x3 64",
    "maxpool/2 V",
    "1x1 80",
    "3x3 192 V",
    "3x3 256/2 V",
)
V4_STEM = (  # Fig. 3, the strides of its last module added (harness/architectures/README.md)
    "3x3 32/2 V",
    "3x3 32 V",
    "3x3 64",
    "maxpool/2 V ; 3x3 96/2 V",
    "1x1 64, 3x3 96 V ; ~1x1 64, 1x7 64, 7x1 64, 3x3 96 V",
    "3x3 192/2 V ; maxpool/2 V",
)
V3_STEM = ("3x3 32/2 V", "3x3 32 V", "3x3 64", "maxpool/2 V", "1x1 80", "3x3 192 V", "maxpool/2 V")
# Released v2: v3's stem and Mixed_5b.
V2_RELEASED_STEM = (*V3_STEM, "1x1 96 ; 1x1 48, 5x5 64 ; 1x1 64, 3x3 96, 3x3 96 ; avgpool, 1x1 64")
V1_A = "1x1 32 ; 1x1 32, 3x3 32 ; 1x1 32, 3x3 32, 3x3 32"  # Fig. 10
V1_B = "1x1 128 ; 1x1 128, 1x7 128, 7x1 128"  # Fig. 11
V1_C = "1x1 192 ; 1x1 192, 1x3 192, 3x1 192"  # Fig. 13
V1_REDUCTIONS = (
    "3x3 384/2 V ; 1x1 192, 3x3 192, 3x3 256/2 V ; maxpool/2 V",  # Fig. 7: n ; k, l, m of Table 1
    "1x1 256, 3x3 384/2 V ; 1x1 256, 3x3 256/2 V ; 1x1 256, 3x3 256, 3x3 256/2 V ; maxpool/2 V",  # Fig. 12
)
V2_A = "1x1 32 ; 1x1 32, 3x3 32 ; 1x1 32, 3x3 48, 3x3 64"  # Fig. 16
V2_B = "1x1 192 ; 1x1 128, 1x7 160, 7x1 192"  # Fig. 17
V2_C = "1x1 192 ; 1x1 192, 1x3 224, 3x1 256"  # Fig. 19
V2_REDUCTIONS = (
    "3x3 384/2 V ; 1x1 256, 3x3 256, 3x3 384/2 V ; maxpool/2 V",  # Fig. 7: n ; k, l, m of Table 1
    "1x1 256, 3x3 384/2 V ; 1x1 256, 3x3 288/2 V ; 1x1 256, 3x3 288, 3x3 320/2 V ; maxpool/2 V",  # Fig. 18
)


def _v3_a(pool: int) -> str:
    return f"1x1 64 ; 1x1 48, 5x5 64 ; 1x1 64, 3x3 96, 3x3 96 ; avgpool+pad, 1x1 {pool}"


def _v3_b(c: int) -> str:
    return f"1x1 192 ; 1x1 {c}, 1x7 {c}, 7x1 192 ; 1x1 {c}, 7x1 {c}, 1x7 {c}, 7x1 {c}, 1x7 192 ; avgpool+pad, 1x1 192"


def _cifar(depth: int) -> Architecture:
    """He et al., arXiv:1512.03385, section 4.2: depth 6n + 2."""
    n = (depth - 2) // 6
    return Architecture(
        source="arXiv:1512.03385, section 4.2",
        stem=("3x3 16",),
        kind="resnet",
        stages=(
            Stage(("3x3 16, 3x3 16",), n),
            Stage(("3x3 32/2, 3x3 32", "3x3 32, 3x3 32"), n),
            Stage(("3x3 64/2, 3x3 64", "3x3 64, 3x3 64"), n),
        ),
        init="he",
        dropout_keep=1.0,
    )


# Branches are listed in the order in which the released code concatenates them.
ARCHITECTURES: Mapping[ArchitectureName, Architecture] = {
    "inception_resnet_v1": Architecture(
        source="figs. 7, 10-15",
        stem=V1_STEM,
        kind="inception_resnet",
        stages=(Stage((V1_A,), 5), Stage((V1_B,), 10), Stage((V1_C,), 5)),
        reductions=V1_REDUCTIONS,
        init="xavier_uniform",
    ),
    "inception_resnet_v2": Architecture(
        source="figs. 3, 7, 15-19",
        stem=V4_STEM,
        kind="inception_resnet",
        stages=(Stage((V2_A,), 5), Stage((V2_B,), 10), Stage((V2_C,), 5)),
        reductions=V2_REDUCTIONS,
        init="xavier_uniform",
    ),
    "inception_resnet_v1_released": Architecture(
        source="facenet: figs. 7, 10-14 and a last block",
        stem=V1_STEM,
        kind="inception_resnet",
        stages=(Stage((V1_A,), 5, 0.17), Stage((V1_B,), 10, 0.10), Stage((V1_C,), 6, 0.20)),
        reductions=V1_REDUCTIONS,
        last_block=1.0,
        init="trunc_normal",
    ),
    "inception_resnet_v2_released": Architecture(
        source="TF-slim, timm: figs. 7, 16-19, another stem",
        stem=V2_RELEASED_STEM,
        kind="inception_resnet",
        stages=(Stage((V2_A,), 10, 0.17), Stage((V2_B,), 20, 0.10), Stage((V2_C,), 10, 0.20)),
        reductions=V2_REDUCTIONS,
        last_layer="1x1 1536",
        last_block=1.0,
        init="xavier_uniform",
        aux_head=True,
    ),
    "inception_v4": Architecture(
        source="figs. 3-9",
        stem=V4_STEM,
        kind="inception",
        stages=(
            Stage(("1x1 96 ; 1x1 64, 3x3 96 ; 1x1 64, 3x3 96, 3x3 96 ; avgpool, 1x1 96",), 4),  # Fig. 4
            Stage(  # Fig. 5, its second 1x7 of the third branch read as 7x1 (harness/architectures/README.md)
                (
                    "1x1 384 ; 1x1 192, 1x7 224, 7x1 256 ; "
                    "~1x1 192, 7x1 192, 1x7 224, 7x1 224, 1x7 256 ; avgpool, 1x1 128",
                ),
                7,
            ),
            Stage(  # Fig. 6
                (
                    "1x1 256 ; 1x1 384, {1x3 256 | 3x1 256} ; "
                    "~1x1 384, 3x1 448, 1x3 512, {1x3 256 | 3x1 256} ; avgpool, 1x1 256",
                ),
                3,
            ),
        ),
        reductions=(
            "3x3 384/2 V ; 1x1 192, 3x3 224, 3x3 256/2 V ; maxpool/2 V",  # Fig. 7: n ; k, l, m of Table 1
            "1x1 192, 3x3 192/2 V ; 1x1 256, 1x7 256, 7x1 320, 3x3 320/2 V ; maxpool/2 V",  # Fig. 8
        ),
        init="variance_scaling",
        aux_head=True,
    ),
    "inception_v3": Architecture(
        source="arXiv:1512.00567 as released (torchvision, timm)",
        stem=V3_STEM,
        kind="inception",
        stages=(
            Stage((_v3_a(32), _v3_a(64)), 3),
            Stage((_v3_b(128), _v3_b(160), _v3_b(160), _v3_b(192)), 4),
            Stage(
                (
                    "1x1 320 ; 1x1 384, {1x3 384 | 3x1 384} ; "
                    "1x1 448, 3x3 384, {1x3 384 | 3x1 384} ; avgpool+pad, 1x1 192",
                ),
                2,
            ),
        ),
        reductions=(
            "3x3 384/2 V ; 1x1 64, 3x3 96, 3x3 96/2 V ; maxpool/2 V",
            "1x1 192, 3x3 320/2 V ; 1x1 192, 1x7 192, 7x1 192, 3x3 192/2 V ; maxpool/2 V",
        ),
        init="trunc_normal",
        aux_head=True,
    ),
    "resnet20_cifar": _cifar(20),
    "resnet32_cifar": _cifar(32),
    "resnet44_cifar": _cifar(44),
    "resnet56_cifar": _cifar(56),
    "resnet110_cifar": _cifar(110),
}
SMALL_STEM_FIRST = 64
"""Filters of the small-image stem's first layer; the second has the width of the trunk that the paper's stem feeds."""
AUX_STAGE = 1
"""Index of the stage whose output the auxiliary head reads."""
AUX_POOL = 5
"""Kernel of the auxiliary head's average pooling (stride 3, valid): the smallest grid that it can read."""
AUX_KERNEL = 5
"""Kernel of the auxiliary head's second convolution: the whole pooled map of a 299x299 image."""
AUX_FILTERS = (128, 768)
"""Filters of the auxiliary head's two convolutions."""
AUX_LOSS_WEIGHT = 0.4
"""Factor on the auxiliary head's loss in training, as released."""
