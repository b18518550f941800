"""The sections of a run's configuration, the network's apart: what each field counts, its unit and range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.config.defaults import PROBE_SET
from harness.strict import (
    MAX_COUNT,
    MAX_IMAGE_SIZE,
    Decay,
    NonNegativeFloat,
    PathText,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Replicas,
    Seed,
    Share,
    Strict,
    one_message,
)

MAX_PROCESSES = 4096
"""Of one run: threads, or processes that decode images."""
Window = Annotated[int, Field(ge=1, le=100_000)]
"""Steps of which each one's value is kept."""
Betas = Annotated[tuple[Decay, Decay] | None, Field(strict=False), one_message("two numbers >= 0 and below 1")]


class DataConfig(Strict):
    """The images. They are normalised with the training part's mean and standard deviation (cifar10, cifar100: of each
    channel); those of an imagefolder are scaled to [-1, 1]."""

    name: Literal["digits", "synthetic", "cifar10", "cifar100", "fashion_mnist", "imagefolder"] = "digits"
    """`digits`: scikit-learn's 1,797 real 8x8 scans, embedded. `synthetic`: seeded noise around class templates.
    `cifar10`, `cifar100`, `fashion_mnist`: torchvision's, from a local folder; their test part is held out for
    validation. `imagefolder`: files in ImageNet's layout, root/train/CLASS/*.jpg and root/val/CLASS/*.jpg."""
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] = 32
    """Height and width in pixels to which images are brought."""
    batch_size: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 32
    """Training images per step (batch-norm needs at least 2)."""
    num_classes: PositiveInt | None = None
    """Classes; only for synthetic (default 10) and imagefolder (default 1000; there must be as many folders)."""
    num_images: PositiveInt | None = None
    """Training images; only for synthetic (default 1024). A quarter as many are held out."""
    seed: Seed | None = None
    """Seed of the images themselves; only for synthetic (default 0)."""
    root: PathText | None = None
    """Folder of the files; for cifar10, cifar100 and fashion_mnist (default data; no part of the run's identity) and
    imagefolder (default data/imagenet). A relative path counts from the working directory; the run's folder keeps the
    absolute one, and refuses to answer for the images of another folder of that name."""
    download: bool | None = None
    """Whether missing files are downloaded; only for cifar10, cifar100 and fashion_mnist (default false). No part of
    the run's identity."""
    augment: Literal["none", "crop_flip", "inception"] | None = None
    """Random distortion of training images. `crop_flip`: a flip, and a shift by up to an eighth of the size (cifar10,
    cifar100: their default; fashion_mnist: default none) or a crop of 8 to 100 % of the area (imagefolder).
    `inception`: the same with distorted colours; only for imagefolder (its default)."""
    eval_crop: PositiveShare | None = None
    """Side of the central square that is evaluated, as a share of the shorter side; only for imagefolder (default
    0.875)."""
    corrupt: Literal["refuse", "skip"] | None = None
    """What comes of a file that cannot be read as an image, once it is reported: it fails the run (`refuse`), or the
    next image stands in for it in training and evaluation leaves it out; only for imagefolder (default refuse)."""
    workers: Annotated[int, Field(ge=0, le=MAX_PROCESSES)] | None = None
    """Processes that decode images, at most one a core, 0: none but the trainer's own; only for imagefolder (default
    4). Changes no result and is no part of the run's identity."""

    @property
    def access(self) -> tuple[str, ...]:
        """The fields that say how the images are reached, not which they are."""
        return ("download", "workers") if self.name == "imagefolder" else ("download", "workers", "root")


class ScheduleConfig(Strict):
    """The learning rate after the warm-up, as a factor on optim.lr."""

    name: Literal["constant", "exponential", "cosine"] = "constant"
    """`constant`; `exponential`: times `rate` once every `every`, as a staircase; `cosine`: half a wave down to 0 at
    the last step."""
    rate: PositiveShare | None = None
    """Factor of each stair; only for exponential (default 0.94, the paper's)."""
    every: PositiveInt | None = None
    """Length of a stair in `unit`s; only for exponential (default 2, the paper's)."""
    unit: Literal["epochs", "steps"] | None = None
    """Unit of `every`; only for exponential (default epochs)."""


class WarmupConfig(Strict):
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
    window: Window | None = None
    """Steps over which two_phase averages the training error; it is looked at with the outcome checks (default 50)."""
    shift: bool | None = None
    """Whether the schedule starts after the warm-up instead of with it (default false; any warm-up but none)."""


class OptimConfig(Strict):
    """The optimizer. A field left out takes the optimizer's own value; one that the optimizer lacks is refused."""

    name: Literal["rmsprop_tf", "rmsprop_torch", "sgd", "adam"] = "rmsprop_tf"
    """RMSProp with TensorFlow 1's semantics (the paper's), or torch's RMSprop, SGD or Adam (AdamW: adam with
    weight_decay_mode decoupled)."""
    lr: PositiveFloat = 0.045
    """Learning rate of the first full step; 0.045 is the paper's."""
    momentum: Decay | None = None
    """Momentum (rmsprop_tf, rmsprop_torch, sgd: 0.9)."""
    decay: Decay | None = None
    """Decay of the mean of squared gradients (rmsprop_tf, rmsprop_torch: 0.9, the paper's)."""
    eps: PositiveFloat | None = None
    """Epsilon (rmsprop_tf: 1.0, the paper's, inside the root; rmsprop_torch: 1.0, outside it; adam: 1e-8)."""
    betas: Betas = None
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
    replicas: Replicas = 1
    """Asynchronous replicas, each with a batch of data.batch_size (1: synchronous training). An update takes one
    replica's gradient, of the parameters that it fetched replicas - 1 updates before in the mean; weight decay is of
    the parameters at the update. Memory holds so many gradients of all parameters, and a checkpoint one less."""
    replica_order: Literal["round_robin", "random"] | None = None
    """Which replica's gradient an update takes: each in its turn (round_robin, when left out), or any, drawn by the
    run's seed (random: service times are exponential). One replica has no order."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate's schedule."""
    warmup: WarmupConfig = WarmupConfig()
    """The learning rate's warm-up."""


class AveragingConfig(Strict):
    """Exponential moving average of the parameters, for evaluation. It never touches the training."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Weight of the old average (Google's Inception trainer: 0.9999). Left out: no average is kept."""
    bias_correction: bool = True
    """Whether the average starts at zero and is divided by 1 - decay**t; else it starts at the initial weights."""


class TrainConfig(Strict):
    """How long and how to train, and when to look whether the network died."""

    steps: PositiveInt | None = None
    """Optimizer steps (default 200, unless epochs is given)."""
    epochs: PositiveInt | None = None
    """Passes over the training images, in place of steps; the same length in steps is another run."""
    check_every: Window = 10
    """Steps between two checks for death, collapse and divergence. Independent of the instruments."""
    stop_at_death: bool = True
    """Whether a run ends with its death; false keeps it going, to see whether death is final."""
    label_smoothing: Decay = 0.0
    """Share of the target spread evenly over all classes (1512.00567: 0.1)."""
    averaging: AveragingConfig = AveragingConfig()
    """Moving average of the parameters."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Arithmetic of convolutions and matrix products: float32; TensorFloat-32 (GPUs only); bfloat16 by autocast."""
    sync_batch_norm: bool = False
    """Whether batch-norm takes its statistics over all processes of a data-parallel run (GPUs only)."""
    compile: bool = False
    """Whether torch.compile compiles the network."""


class CadenceConfig(Strict):
    """When layers are read, by any preset but `prepool`. Moves no check for the outcome."""

    every: PositiveInt = 50
    """Steps between two readings."""
    early: bool = True
    """Whether the powers of two below `every` are read too, where most of a death happens."""
    burst_jump: PositiveShare | None = 0.2
    """Rise of some layer's dead share between two readings that starts a burst; null: no bursts."""
    burst_steps: PositiveInt = 20
    """Steps of a burst, all of them read."""


class CurvatureConfig(Strict):
    """When, how exactly and on how much the preset `curvature` reads the loss's curvature. A reading costs as much as
    three gradients, and two to three for each product."""

    every: PositiveInt = 100
    """Steps between two readings (and always one at the last step)."""
    products: Annotated[int, Field(ge=1, le=1000)] = 12
    """Hessian-vector products of a reading, at most; it stops before when the value is known to 0.01 %. How much is
    missing is in the rows, curvature/sharpness_error."""
    batches: Annotated[int, Field(ge=1, le=PROBE_SET)] = 1
    """Batches of the training size, of the probe set as many as it has, whose mean loss the sharpness is of. Of one
    small batch it is larger than of many. Time and memory grow with their number."""


class ProbesConfig(Strict):
    """Instruments. They never change the training and are no part of the run's identity."""

    preset: Literal["prepool", "blocks", "full", "curvature"] = "prepool"
    """What is read: the layer before the pool only; every residual sum too (in a network without any, every module's
    output); activations, gradients and updates too; or what `blocks` reads, with the loss's sharpness, the margin to
    instability and the gradient's noise."""
    cadence: CadenceConfig = CadenceConfig()
    """When layers are read; the pre-pool readings have `every` and `probe_set_every`."""
    curvature: CurvatureConfig = CurvatureConfig()
    """When the loss's curvature is read, by the preset `curvature`."""
    every: PositiveInt = 10
    """Steps between two rows: loss, accuracy, rates and the pre-pool readings of the training batch."""
    probe_set_every: PositiveInt = 100
    """Steps between two readings of the fixed probe set and the held-out images (and always one at the last step)."""
    dormant_below: Share = 0.01
    """A unit active on a smaller share of positions than this is dormant."""


class ComputeConfig(Strict):
    """Where and how the run is computed. No part of the run's identity, but for several processes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU if there is one."""
    threads: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """CPU threads of this run. Results are bitwise repeatable at an equal number only."""
    processes: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Processes that share each batch of this run (data-parallel, by torch's launcher; a GPU each where there are any).
    Each normalises its part alone unless `train.sync_batch_norm` is set, and has dropout of its own: where the training
    depends on their number, it is part of the run's identity."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints."""
