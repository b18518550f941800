"""The frozen, strict configuration of one run, and the run's identity.

A configuration is resolved on construction: every field left out gets the value that it will have in training, the
defaults of the named architecture and optimizer included. What is hashed, stored and trained is the resolved one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from harness import architectures
from harness.architectures import ArchitectureName

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _one_message(expected: str) -> WrapValidator:
    """Replace the errors of every member of a union by one that says what is allowed."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "expected {expected}", {"expected": expected}) from None

    return WrapValidator(validate)


PerStage = Annotated[tuple[NonNegativeFloat, ...], Field(strict=False, min_length=1)]
ResidualScale = Annotated[
    NonNegativeFloat | PerStage | Literal["learned"] | None,
    _one_message("a number >= 0, a list with one such number per stage, or 'learned'"),
]
Repeats = Annotated[
    tuple[NonNegativeInt, ...] | None,
    Field(strict=False),
    _one_message("a list with one whole number >= 0 per stage"),
]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class ModelConfig(_Strict):
    """The network. A field left out takes the architecture's own value; one that the architecture lacks is refused."""

    name: ArchitectureName = "inception_resnet_v2"
    """Row of the table of architectures (`harness models` lists them)."""
    stem: Literal["paper", "small"] | None = None
    """Layers before the first stage: the paper's (299x299, minimum 75x75) or a small-image stem (32x32 gives an 8x8
    trunk). Left out: the paper's from 75 pixels on, else the small one."""
    width: PositiveFloat = 1.0
    """Factor on every filter count, 1 = the published network."""
    trunk_width: PositiveFloat = 1.0
    """Further factor on the filters that set the trunk's width (stem, reductions); residual nets only."""
    branch_width: PositiveFloat = 1.0
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
    up_projection_init: Literal["default", "zero"] | PositiveFloat | None = None
    """Initial weights of the up-projection: as all others, zero, or a factor on the default ones (claim C9)."""
    init: Literal["xavier_uniform", "trunc_normal", "he", "variance_scaling"] | None = None
    """Initial weights of convolutions and of the classifier: Xavier uniform (slim's default), truncated normal of
    standard deviation 0.1, He (fan-out, normal), or slim's variance scaling (factor 2, fan-in, truncated normal)."""
    activation: Literal["relu", "leaky_relu", "gelu", "silu"] = "relu"
    """The non-linearity at every place where the paper has a ReLU."""
    dropout_keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of pooled features that dropout keeps in training, 1 = no dropout."""
    figure_order: bool | None = None
    """Kernel order as the paper's figures print it where the released code differs (ARCHITECTURES 1.6)."""
    aux_head: bool | None = None
    """Auxiliary classifier on the second stage's output, in training only, its loss times 0.4 (released nets)."""
    weights: str | None = None
    """Local file of initial weights, of this network or of timm's: safetensors, or torch's with tensors only. A
    relative path counts from the working directory."""
    weights_sha256: str | None = None
    """SHA-256 of the file `weights`, filled in when left out. It, not the path, is part of the run's identity."""


class DataConfig(_Strict):
    """The images. They are normalised with the training part's mean and standard deviation (cifar10, cifar100: of each
    channel); those of an imagefolder are scaled to [-1, 1]."""

    name: Literal["digits", "synthetic", "cifar10", "cifar100", "fashion_mnist", "imagefolder"] = "digits"
    """`digits`: scikit-learn's 1,797 real 8x8 scans, embedded. `synthetic`: seeded noise around class templates.
    `cifar10`, `cifar100`, `fashion_mnist`: torchvision's, from a local folder; their test part is held out for
    validation. `imagefolder`: files in ImageNet's layout, root/train/CLASS/*.jpg and root/val/CLASS/*.jpg."""
    image_size: PositiveInt = 32
    """Height and width in pixels to which images are brought."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Training images per step (batch-norm needs at least 2)."""
    num_classes: PositiveInt | None = None
    """Classes; only for synthetic (default 10) and imagefolder (default 1000; there must be as many folders)."""
    num_images: PositiveInt | None = None
    """Training images; only for synthetic (default 1024). A quarter as many are held out."""
    seed: NonNegativeInt | None = None
    """Seed of the images themselves; only for synthetic (default 0)."""
    root: str | None = None
    """Folder of the files; for cifar10, cifar100 and fashion_mnist (default data; no part of the run's identity) and
    imagefolder (default data/imagenet). A relative path counts from the working directory."""
    download: bool | None = None
    """Whether missing files are downloaded; only for cifar10, cifar100 and fashion_mnist (default false). No part of
    the run's identity."""
    augment: Literal["none", "crop_flip", "inception"] | None = None
    """Random distortion of training images. `crop_flip`: a flip, and a shift by up to an eighth of the size (cifar10,
    cifar100: their default; fashion_mnist: default none) or a crop of 8 to 100 % of the area (imagefolder).
    `inception`: the same with distorted colours; only for imagefolder (its default)."""
    eval_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Side of the central square that is evaluated, as a share of the shorter side; only for imagefolder (default
    0.875)."""
    corrupt: Literal["refuse", "skip"] | None = None
    """What comes of a file that cannot be read as an image, once it is reported: it fails the run (`refuse`), or the
    next image stands in for it in training and evaluation leaves it out; only for imagefolder (default refuse)."""
    workers: NonNegativeInt | None = None
    """Processes that decode images, at most one a core, 0: none but the trainer's own; only for imagefolder (default
    4). Changes no result and is no part of the run's identity."""

    @property
    def access(self) -> tuple[str, ...]:
        """The fields that say how the images are reached, not which they are."""
        return ("download", "workers") if self.name == "imagefolder" else ("download", "workers", "root")


class ScheduleConfig(_Strict):
    """The learning rate after the warm-up, as a factor on optim.lr."""

    name: Literal["constant", "exponential", "cosine"] = "constant"
    """`constant`; `exponential`: times `rate` once every `every`, as a staircase; `cosine`: half a wave down to 0 at
    the last step."""
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor of each stair; only for exponential (default 0.94, the paper's)."""
    every: PositiveInt | None = None
    """Length of a stair in `unit`s; only for exponential (default 2, the paper's)."""
    unit: Literal["epochs", "steps"] | None = None
    """Unit of `every`; only for exponential (default epochs)."""


class WarmupConfig(_Strict):
    """The learning rate of the first steps."""

    name: Literal["none", "constant", "gradual", "two_phase"] = "none"
    """`none`; `constant`: `lr` for `steps`; `gradual` (Goyal et al. 1706.02677): from `lr` to the full rate by equal
    increments over `steps`; `two_phase` (He et al. 1512.03385): `lr` until the running training error is below
    `threshold`."""
    lr: PositiveFloat | None = None
    """Absolute learning rate of the warm-up's start (required unless none)."""
    steps: PositiveInt | None = None
    """Steps of the warm-up; for constant and gradual (required)."""
    threshold: Share | None = None
    """Training error below which two_phase switches to the full rate (default 0.8, He et al.'s)."""
    window: PositiveInt | None = None
    """Steps over which two_phase averages the training error; it is looked at with the outcome checks (default 50)."""
    shift: bool | None = None
    """Whether the schedule starts after the warm-up instead of with it (default false; any warm-up but none)."""


class OptimConfig(_Strict):
    """The optimizer. A field left out takes the optimizer's own value; one that the optimizer lacks is refused."""

    name: Literal["rmsprop_tf", "rmsprop_torch", "sgd", "adam"] = "rmsprop_tf"
    """RMSProp with TensorFlow 1's semantics (the paper's), or torch's RMSprop, SGD or Adam (AdamW: adam with
    weight_decay_mode decoupled)."""
    lr: PositiveFloat = 0.045
    """Learning rate of the first full step; 0.045 is the paper's."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Momentum (rmsprop_tf, rmsprop_torch, sgd: 0.9)."""
    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the mean of squared gradients (rmsprop_tf, rmsprop_torch: 0.9, the paper's)."""
    eps: PositiveFloat | None = None
    """Epsilon (rmsprop_tf: 1.0, the paper's, inside the root; rmsprop_torch: 1.0, outside it; adam: 1e-8)."""
    betas: Annotated[tuple[Share, Share] | None, Field(strict=False)] = None
    """Decays of the first and second moment (adam: 0.9, 0.999)."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay (slim's: 4e-5)."""
    weight_decay_mode: Literal["l2", "decoupled"] = "l2"
    """`l2`: weight_decay * w is added to the gradient; `decoupled`: w shrinks by lr * weight_decay at each update."""
    weight_decay_on: Literal["weights", "weights_and_biases", "all"] = "weights"
    """What decays: weights of convolutions and classifier; their biases too; batch-norm's parameters too."""
    up_projection_lr: NonNegativeFloat = 1.0
    """Factor on the learning rate of the up-projections' weights (claim C9)."""
    up_projection_bias_lr: NonNegativeFloat = 1.0
    """Factor on the learning rate of the up-projections' biases."""
    clip_norm: PositiveFloat | None = None
    """Largest global norm of the gradient; a larger one is scaled down (1512.00567: 2.0). Left out: no clipping."""
    clip_value: PositiveFloat | None = None
    """Largest absolute value of a gradient's element. Left out: no clipping."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate's schedule."""
    warmup: WarmupConfig = WarmupConfig()
    """The learning rate's warm-up."""


class AveragingConfig(_Strict):
    """Exponential moving average of the parameters, for evaluation. It never touches the training."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Weight of the old average (Google's Inception trainer: 0.9999). Left out: no average is kept."""
    bias_correction: bool = True
    """Whether the average starts at zero and is divided by 1 - decay**t; else it starts at the initial weights."""


class TrainConfig(_Strict):
    """How long and how to train, and when to look whether the network died."""

    steps: PositiveInt | None = None
    """Optimizer steps (default 200, unless epochs is given)."""
    epochs: PositiveInt | None = None
    """Passes over the training images, in place of steps."""
    check_every: PositiveInt = 10
    """Steps between two checks for death, collapse and divergence. Independent of the instruments."""
    stop_at_death: bool = True
    """Whether a run ends with its death; false keeps it going, to see whether death is final."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over all classes (1512.00567: 0.1)."""
    averaging: AveragingConfig = AveragingConfig()
    """Moving average of the parameters."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Arithmetic of convolutions and matrix products: float32; TensorFloat-32 (GPUs only); bfloat16 by autocast."""
    sync_batch_norm: bool = False
    """Whether batch-norm takes its statistics over all processes of a data-parallel run (GPUs only)."""
    compile: bool = False
    """Whether torch.compile compiles the network."""


class CadenceConfig(_Strict):
    """When layers are read, by the presets `blocks` and `full`. Moves no check for the outcome."""

    every: PositiveInt = 50
    """Steps between two readings."""
    early: bool = True
    """Whether the powers of two below `every` are read too, where most of a death happens."""
    burst_jump: Annotated[float, Field(gt=0, le=1)] | None = 0.2
    """Rise of some layer's dead share between two readings that starts a burst; null: no bursts."""
    burst_steps: PositiveInt = 20
    """Steps of a burst, all of them read."""


class ProbesConfig(_Strict):
    """Instruments. They never change the training and are no part of the run's identity."""

    preset: Literal["prepool", "blocks", "full"] = "prepool"
    """What is read: the layer before the pool only; every residual sum too (in a network without any, every module's
    output); activations, gradients and updates too."""
    cadence: CadenceConfig = CadenceConfig()
    """When layers are read; the pre-pool readings have `every` and `probe_set_every`."""
    every: PositiveInt = 10
    """Steps between two rows: loss, accuracy, rates and the pre-pool readings of the training batch."""
    probe_set_every: PositiveInt = 100
    """Steps between two readings of the fixed probe set and the held-out images (and always one at the last step)."""
    dormant_below: Share = 0.01
    """A unit active on a smaller share of positions than this is dormant."""


class ComputeConfig(_Strict):
    """Where and how the run is computed. No part of the run's identity."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU if there is one."""
    threads: PositiveInt = 1
    """CPU threads of this run. Results are bitwise repeatable at an equal number only."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints."""


# Which optional fields each named thing has, with the value that each takes when left out. REQUIRED: none is sensible.
REQUIRED = object()
OPTIMIZER_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "rmsprop_tf": {"momentum": 0.9, "decay": 0.9, "eps": 1.0},
    "rmsprop_torch": {"momentum": 0.9, "decay": 0.9, "eps": 1.0},
    "sgd": {"momentum": 0.9},
    "adam": {"eps": 1e-8, "betas": (0.9, 0.999)},
}
SCHEDULE_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "constant": {},
    "exponential": {"rate": 0.94, "every": 2, "unit": "epochs"},
    "cosine": {},
}
WARMUP_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "constant": {"lr": REQUIRED, "steps": REQUIRED, "shift": False},
    "gradual": {"lr": REQUIRED, "steps": REQUIRED, "shift": False},
    "two_phase": {"lr": REQUIRED, "threshold": 0.8, "window": 50, "shift": False},
}
DATASET_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    "synthetic": {"num_classes": 10, "num_images": 1024, "seed": 0},
    "cifar10": {"root": "data", "download": False, "augment": "crop_flip"},
    "cifar100": {"root": "data", "download": False, "augment": "crop_flip"},
    "fashion_mnist": {"root": "data", "download": False, "augment": "none"},
    "imagefolder": {
        "root": "data/imagenet",
        "num_classes": 1000,
        "augment": "inception",
        "eval_crop": 0.875,
        "corrupt": "refuse",
        "workers": 4,
    },
}
DEFAULT_STEPS = 200
DIGITS_TRAINING_IMAGES = 1437
TRAINING_IMAGES: Mapping[str, int] = {
    "digits": DIGITS_TRAINING_IMAGES,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "fashion_mnist": 60_000,
}
IDENTITY = ("seed", "model", "data", "optim", "train")

Problem = tuple[tuple[str, ...], str]
Section = TypeVar("Section", bound=_Strict)


class RunConfig(_Strict):
    """One training run."""

    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of the data and dropout."""
    model: ModelConfig = ModelConfig()
    """The network."""
    data: DataConfig = DataConfig()
    """The images."""
    optim: OptimConfig = OptimConfig()
    """The optimizer, its schedule and warm-up."""
    train: TrainConfig = TrainConfig()
    """Length of the run and checks for death."""
    probes: ProbesConfig = ProbesConfig()
    """Instruments; not part of the run's identity."""
    compute: ComputeConfig = ComputeConfig()
    """Device and threads; not part of the run's identity."""

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        problems: list[Problem] = []
        object.__setattr__(self, "data", _complete(self.data, DATASET_FIELDS, ("data",), problems))
        schedule = _complete(self.optim.schedule, SCHEDULE_FIELDS, ("optim", "schedule"), problems)
        warmup = _complete(self.optim.warmup, WARMUP_FIELDS, ("optim", "warmup"), problems)
        optim = _complete(self.optim, OPTIMIZER_FIELDS, ("optim",), problems)
        object.__setattr__(self, "optim", optim.model_copy(update={"schedule": schedule, "warmup": warmup}))
        if self.train.steps is None and self.train.epochs is None:
            object.__setattr__(self, "train", self.train.model_copy(update={"steps": DEFAULT_STEPS}))
        elif self.train.steps is not None and self.train.epochs is not None:
            problems.append((("train", "epochs"), "steps and epochs are both given; give one"))
        if warmup.steps is not None and self.train.steps is not None and warmup.steps >= self.train.steps:
            problems.append(
                (("optim", "warmup", "steps"), f"{warmup.steps} is not below train.steps = {self.train.steps}")
            )
        images = self.data.num_images or TRAINING_IMAGES.get(self.data.name)
        if images is not None and self.data.batch_size > images:
            problems.append((("data", "batch_size"), f"{self.data.batch_size} is above the {images} training images"))
        if self.data.augment == "inception" and self.data.name != "imagefolder":
            problems.append((("data", "augment"), "inception is for imagefolder only; allowed: none, crop_flip"))
        digest, why = _weights_digest(self.model.weights, self.model.weights_sha256)
        if why:
            problems.append((("model", "weights"), why))
        axes, refused = architectures.resolve(self.model.name, self.data.image_size, self.model.model_dump())
        problems += [(("model", field), message) for field, message in refused]
        object.__setattr__(self, "model", self.model.model_copy(update=axes | {"weights_sha256": digest}))
        if problems:
            raise ValidationError.from_exception_data(
                "RunConfig",
                [
                    InitErrorDetails(type=PydanticCustomError("unusable", "{why}", {"why": why}), loc=loc, input=None)
                    for loc, why in problems
                ],
            )
        return self

    @property
    def run_id(self) -> str:
        """Hash of the whole resolved training configuration, 12 hexadecimal digits.

        Defaults are included, so equal runs are one run and a changed default never relabels an old one. Instruments
        and devices are left out; a file of weights counts by its content.
        """
        training = self.model_dump(mode="json", include=set(IDENTITY))
        del training["model"]["weights"]
        for field in self.data.access:
            del training["data"][field]
        canonical = json.dumps(training, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _weights_digest(path: str | None, expected: str | None) -> tuple[str | None, str | None]:
    """The digest of a file of weights, and what is wrong with it. A stored run's file may be gone by now."""
    if path is None:
        return None, "weights_sha256 needs weights" if expected else None
    try:
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        return expected, None if expected else f"{path} cannot be read: {error.strerror}"
    if expected not in (None, found):
        return expected, f"the content of {path} is not what weights_sha256 says"
    return found, None


def _complete(
    section: Section, table: Mapping[str, Mapping[str, Any]], loc: tuple[str, ...], problems: list[Problem]
) -> Section:
    """Fill the optional fields that the section's `name` has, and refuse those that it lacks."""
    name: str = section.name  # type: ignore[attr-defined]
    optional = {field for fields in table.values() for field in fields}
    update: dict[str, Any] = {}
    for field in sorted(optional):
        value = getattr(section, field)
        if field not in table[name]:
            if value is not None:
                having = " or ".join(other for other, fields in table.items() if field in fields)
                problems.append(((*loc, field), f"{name} has no {field}; only {having} has"))
        elif value is None:
            if table[name][field] is REQUIRED:
                problems.append(((*loc, field), f"{name} needs {field}"))
            update[field] = None if table[name][field] is REQUIRED else table[name][field]
    return section.model_copy(update=update)
