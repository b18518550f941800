"""What can be known of runs before they start, said before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from harness import distributed
from harness.architectures import network_size
from harness.config import PROBE_SET, RunConfig
from harness.data.check import check_data, count_classes, count_training_images
from harness.devices import total_memory, visible_gpus
from harness.located import InputError
from harness.store import RunDirectory
from harness.sweep.work import images_of, same_images

_OPTIMIZER_COPIES = {"rmsprop_tf": 2, "rmsprop_torch": 2, "sgd": 1, "adam": 2}
"""Numbers that an optimizer keeps for each parameter."""


@dataclass(frozen=True)
class Need:
    """Bytes that a run keeps at once.

    parameters: with a gradient, the optimizer's numbers and the average. pending: gradients of further replicas.
    activations: of a batch. curvature: what its readings keep beyond them. images: those in memory.
    """

    parameters: float
    pending: float
    activations: float
    curvature: float
    images: float

    @property
    def total(self) -> float:
        """The sum of all."""
        return self.parameters + self.pending + self.activations + self.curvature + self.images


def memory_need(config: RunConfig) -> Need:
    """An estimate from below of the memory that a run takes; torch and its libraries (0.5 GB) come on top.

    In single precision, activations under bfloat16 at half of it; images of folders are read as they are needed. What
    is there for moments only (copies in a step, evaluation) is left out: four runs took 1.3 to 2.8 times as much.
    """
    data, train = config.data, config.train
    size = network_size(config.model, count_classes(data), data.image_size)
    copies = 2 + _OPTIMIZER_COPIES[config.optim.name] + (train.averaging.decay is not None)
    width = 2 if train.precision == "bf16" else 4
    images = 0
    if data.name in ("digits", "synthetic"):  # a quarter as many are held out
        images = count_training_images(data) * 5 // 4 * 3 * data.image_size**2
    share = data.batch_size / max(distributed.world_size(), config.compute.processes)
    batch = share * (size.activations * width + 4 * 3 * data.image_size**2)
    pending = 4 * (config.optim.replicas - 1) * size.parameters
    curvature = 0.0
    if config.probes.preset == "curvature":  # the graph of a gradient, which is twice the batch's, and five vectors
        read = min(config.probes.curvature.batches * share, PROBE_SET)
        graph = 2 * read * 4 * (size.activations + 3 * data.image_size**2)
        curvature = max(0.0, graph - batch) + 4 * 5 * size.parameters
    return Need(4 * copies * size.parameters, pending, batch, curvature, 4 * images)


def check_inputs(configs: Sequence[RunConfig], here: bool = True) -> None:
    """Raise InputError when a run cannot be done: images, weights, GPU or memory that are not there.

    here: on this machine; else on another one that shares its files, of whose GPUs and memory nothing is known.
    Imports torch only where a file of weights, or a GPU that may be there, is asked for.
    """
    for data in dict.fromkeys(config.data for config in configs):
        check_data(data)
    problems = [*(_check_device(configs) if here else ()), *_check_lengths(configs), *_check_processes(configs)]
    problems = problems or (list(_check_memory(configs)) if here else []) or list(_check_weights(configs))
    if problems:
        raise InputError(problems)


def check_images(configs: Iterable[RunConfig], folders: Mapping[str, RunDirectory]) -> None:
    """Raise InputError where a run's folder holds the training on another folder of images with the same name."""
    problems = [
        f"data.root: {config.data.root} is {images_of(config)['images']} here, and {folders[config.run_id].path} holds "
        f"the run on the images in {folders[config.run_id].provenance()['images']}: give data.root in full, or choose "
        "another --out"
        for config in configs
        if folders[config.run_id].file("config.json").exists() and not same_images(config, folders[config.run_id])
    ]
    if problems:
        raise InputError(problems)


@cache
def _finds_gpu() -> bool:
    if not visible_gpus():
        return False
    import torch

    return torch.cuda.is_available()


def _check_device(configs: Iterable[RunConfig]) -> Iterator[str]:
    """What the device that a run would be given cannot do."""
    for config in configs:
        device, train = config.compute.device, config.train
        if device == "cuda":
            import torch

            if not torch.cuda.is_available():
                yield "compute.device: cuda, but torch finds no GPU here; allowed: auto, cpu"
        elif train.precision == "tf32" or train.sync_batch_norm:
            if device == "auto" and _finds_gpu():
                continue
            if train.precision == "tf32":
                yield "train.precision: tf32 needs a GPU; on the CPU: float32, bf16"
            if train.sync_batch_norm:
                yield "train.sync_batch_norm: needs GPUs: torch has no synchronised batch-norm on the CPU"


def _check_lengths(configs: Iterable[RunConfig]) -> Iterator[str]:
    """Warm-ups longer than a run whose number of images is that of a folder's files."""
    for config in configs:
        warmup, epochs = config.optim.warmup.steps, config.train.epochs
        if config.data.name == "imagefolder" and warmup is not None and epochs is not None:
            steps = epochs * (count_training_images(config.data) // config.data.batch_size)
            if warmup >= steps:
                yield f"optim.warmup.steps: {warmup} is not below the {steps} steps of {epochs} epochs"


def _check_processes(configs: Iterable[RunConfig]) -> Iterator[str]:
    """Numbers of processes that do not share the batch evenly, or are not those of the launcher around this one."""
    world = distributed.world_size()
    for batch, asked in dict.fromkeys((config.data.batch_size, config.compute.processes) for config in configs):
        if world > 1 and asked not in (1, world):
            yield f"compute.processes: {asked}, but this is one of {world} processes of torchrun's; leave it out"
        elif batch % max(world, asked):
            yield f"data.batch_size: {batch} is not a multiple of the {max(world, asked)} processes"


def _check_memory(configs: Iterable[RunConfig]) -> Iterator[str]:
    """The run that needs most memory, if that is more than there is."""
    needs = [(memory_need(config), config) for config in configs]
    need, config = max(needs, key=lambda pair: pair[0].total)
    there, where, device = total_memory(), "this machine", config.compute.device
    if need.total > there / 10 and (device == "cuda" or (device == "auto" and _finds_gpu())):
        import torch

        there, where = torch.cuda.get_device_properties(0).total_memory, "the GPU"
    if need.total > there:
        model, data = config.model, config.data
        pending = f"{_mb(need.pending)} for the gradients of optim.replicas: {config.optim.replicas}, "
        curvature = f"{_mb(need.curvature)} for the Hessian products of probes.preset: curvature, "
        yield (
            f"model, data: {model.name} of width {model.width:g} on {data.image_size}x{data.image_size} in batches of "
            f"{data.batch_size} needs at least {_mb(need.total)} ({_mb(need.parameters)} for parameters and optimizer, "
            f"{pending if need.pending else ''}"
            f"{_mb(need.activations)} for a batch, {curvature if need.curvature else ''}"
            f"{_mb(need.images)} for the images); {where} has {_mb(there)}"
        )


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _check_weights(configs: Iterable[RunConfig]) -> Iterator[str]:
    """Files of weights that cannot be read, or are of another network."""
    networks = {(config.model, count_classes(config.data), config.data.image_size) for config in configs}
    for model, num_classes, image_size in networks:
        if model.weights is None:
            continue
        from harness.models import build_model

        try:
            build_model(model, num_classes=num_classes, image_size=image_size)
        except ValueError as error:
            yield f"model.weights: {error}"
