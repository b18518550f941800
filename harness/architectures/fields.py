"""The fields of a configuration that shape a network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.architectures.table import ArchitectureName
from harness.strict import (
    MAX_NUMBER,
    Factor,
    NonNegativeFloat,
    PathText,
    PositiveFloat,
    PositiveShare,
    Share,
    Strict,
    one_message,
)

Stem = Literal["paper", "small"]
MAX_STAGES = 16
MAX_MODULES = 1000
"""Of one stage; the deepest published network has 200."""

PerStage = Annotated[tuple[NonNegativeFloat, ...], Field(strict=False, min_length=1, max_length=MAX_STAGES)]
ResidualScale = Annotated[
    NonNegativeFloat | PerStage | Literal["learned"] | None,
    one_message(f"a number >= 0, a list with one such number per stage, or 'learned'; at most {MAX_NUMBER:.1e}"),
]
Repeats = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MAX_MODULES)], ...] | None,
    Field(strict=False, max_length=MAX_STAGES),
    one_message(f"a list with one whole number >= 0 per stage, at most {MAX_MODULES}"),
]


UpProjectionInit = Annotated[
    Literal["default", "zero"] | PositiveFloat | None,
    one_message(f"'default', 'zero' (the initial weights 0), or a factor above 0 and up to {MAX_NUMBER:.1e}"),
]


class ModelConfig(Strict):
    """The network. A field left out takes the architecture's own value; one that the architecture lacks is refused."""

    name: ArchitectureName = "inception_resnet_v2"
    """Row of the table of architectures (`harness models` lists them)."""
    stem: Stem | None = None
    """Layers before the first stage: the paper's (299x299, minimum 75x75) or a small-image stem (32x32 gives an 8x8
    trunk). Left out: the paper's from 75 pixels on, else the small one."""
    width: Factor = 1.0
    """Factor on every filter count, 1 = the published network."""
    trunk_width: Factor = 1.0
    """Further factor on the filters that set the trunk's width (stem, reductions); residual nets only."""
    branch_width: Factor = 1.0
    """Further factor on the filters inside residual branches; residual nets only."""
    repeats: Repeats = None
    """Number of modules in each stage, one whole number >= 0 per stage; the released nets' separate last block is the
    last of the last stage."""
    residual_scale: ResidualScale = None
    """alpha, the factor on the residual branch before the addition: one number for every block, one per stage, or
    `learned` (one trained scalar per block). The released nets' separate last block takes a further number of the
    list, 1 if left out."""
    residual_scale_init: NonNegativeFloat | None = None
    """Initial value of every learned residual scale (0 gives SkipInit/ReZero); only with residual_scale `learned`,
    and then 1 if left out."""
    batch_norm: Literal["paper", "branch_output", "after_sum", "pre_pool", "none"] = "paper"
    """Where batch-norm stands: on every convolution but the up-projection (`paper`); there and on the residual
    branch's output; there and on the residual sum; there and on the pre-pool layer before its last ReLU; nowhere
    (convolutions have a bias then)."""
    bn_gamma: bool = True
    """Whether batch-norm has a trained scale (slim's default has none)."""
    bn_eps: PositiveFloat = 1e-3
    """Batch-norm's epsilon."""
    bn_momentum: Share = 0.1
    """Batch-norm's weight of the newest batch in its running statistics (torch's convention; slim's is 0.0003)."""
    up_projection_bias: Literal["on", "off", "frozen"] | None = None
    """Bias of the up-projection, the 1x1 linear convolution that ends a residual branch: trained, absent, or kept at
    its initial zero."""
    up_projection_init: UpProjectionInit = None
    """Initial weights of the up-projection: as all others, zero, or a factor on the default ones (claim C9)."""
    init: Literal["xavier_uniform", "trunc_normal", "he", "variance_scaling"] | None = None
    """Initial weights of convolutions and of the classifier: Xavier uniform (slim's default), truncated normal of
    standard deviation 0.1, He (fan-out, normal), or slim's variance scaling (factor 2, fan-in, truncated normal)."""
    activation: Literal["relu", "leaky_relu", "gelu", "silu"] = "relu"
    """The non-linearity at every place where the paper has a ReLU."""
    dropout_keep: PositiveShare | None = None
    """Share of pooled features that dropout keeps in training, 1 = no dropout."""
    figure_order: bool | None = None
    """Kernel order as in the paper's figures where the released code differs (harness/architectures/README.md)."""
    aux_head: bool | None = None
    """Auxiliary classifier on the second stage's output, in training only, its loss times 0.4 (released nets)."""
    weights: PathText | None = None
    """Local file of initial weights, of this network or of the same one in timm, torchvision, facenet-pytorch or Keras:
    safetensors, torch's with tensors only, HDF5 or .npz. A relative path counts from the working directory."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the file `weights`, filled in when left out. It, not the path, is part of the run's identity."""

    @property
    def modules(self) -> tuple[int, ...]:
        """Number of modules in each stage. Raises ValueError for a configuration that is not resolved."""
        if self.repeats is None:
            raise ValueError(f"this configuration of {self.name} is not resolved: its repeats are left out")
        return self.repeats
