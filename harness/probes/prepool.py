"""The pre-pool instrument: what enters global average pooling, in a training batch and on the fixed probe set."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.probes import definitions
from harness.probes.passes import can_normalise_by_batch, normalised_by_batch, passes, undisturbed
from harness.probes.spectra import effective_rank

BATCH_READINGS = (
    "zero_fraction",
    "dead_units_batch",
    "inert_units_batch",
    "dormant_units_batch",
    "tau_dormant_units_batch",
    "zero_sample_share",
    "max",
    "mean",
    "rms",
)
HISTOGRAM_BINS = 64


class PrePool:
    """Watches the input of a pooling module, (N, C, H, W), through one hook, from `with` until its end.

    Nothing is computed in a forward pass unless `arm` was called before it; readings stay on the device until `take`.
    """

    def __init__(
        self,
        pool: nn.Module,
        dormant_below: float = definitions.DORMANT_BELOW,
        gather: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        """`gather` brings together the activations of all ranks of a data-parallel run, (N, ...) each."""
        self._pool = pool
        self._gather = gather
        self._dormant_below = dormant_below
        self._armed = False
        self._with_histogram = False
        self._units = 0
        self._readings: Tensor | None = None
        self._histogram: tuple[Tensor, Tensor] | None = None
        self._units_reading: definitions.UnitReading | None = None
        self._brightest: Tensor | None = None
        self._alive_batch = 0

    def __enter__(self) -> PrePool:
        self._handle = self._pool.register_forward_pre_hook(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
        self._readings = self._histogram = self._units_reading = None

    def arm(self, histogram: bool = False) -> None:
        """Read the next forward pass, with a histogram of the activations if wanted."""
        self._armed, self._with_histogram, self._histogram = True, histogram, None

    @torch.no_grad()
    def _read(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if self._units_reading is not None:
            self._units_reading.add(x)
            self._brightest = x.flatten(1).amax(dim=1).argmax()
        if not self._armed:
            return
        self._armed = False
        x = self._gather(x.detach())
        self._units = x.shape[1]
        values = (
            definitions.zero_fraction(x),
            definitions.dead_units(x).sum(),
            definitions.inert_units(x).sum(),
            definitions.dormant_units(x, self._dormant_below).sum(),
            definitions.tau_dormant_units(x).sum(),
            definitions.zero_samples(x).double().mean(),
            x.max(),
            x.mean(),
            definitions.rms(x),
        )
        self._readings = torch.stack([value.double() for value in values])
        if self._with_histogram:
            finite = torch.where(torch.isfinite(x), x, torch.zeros_like(x)).float()
            top = finite.max()
            # histc needs its range on the host; scaling by the maximum keeps it on the device
            scaled = finite / torch.where(top > 0, top, torch.ones_like(top))
            self._histogram = torch.histc(scaled, HISTOGRAM_BINS, 0.0, 1.0), top

    @property
    def pending(self) -> Tensor:
        """The armed reading, on the device, as doubles in the order of BATCH_READINGS."""
        if self._readings is None:
            raise RuntimeError("no reading: arm() and a forward pass come first")
        return self._readings

    def take(self, values: list[float]) -> dict[str, float | int]:
        """Named readings of the training batch, from `pending` brought to the host."""
        named = dict(zip(BATCH_READINGS, values, strict=True))
        row: dict[str, float | int] = {"prepool/units": self._units}
        for name, value in named.items():
            if "_units_" in name:
                row[f"prepool/{name}"] = int(value)
                row[f"prepool/{name.replace('_units_', '_share_')}"] = value / self._units
            else:
                row[f"prepool/{name}"] = value
        return row

    def histogram(self) -> tuple[list[float], list[float]] | None:
        """Counts and bin edges of the armed reading, on the host; non-finite and negative values are left out."""
        if self._histogram is None:
            return None
        counts, top = self._histogram
        high = float(top) or 1.0
        return counts.tolist(), [high * i / HISTOGRAM_BINS for i in range(HISTOGRAM_BINS + 1)]

    def read_set(
        self, model: nn.Module, images: Tensor, batch_size: int, known: definitions.UnitReading | None = None
    ) -> dict[str, int | float]:
        """Units and rank of the features on a fixed set of images (N, 3, H, W), in train- and in eval-mode batch-norm.

        `known` is a train-mode reading of the same set and parameters that was made before. Eval-mode statistics do not
        depend on the batch, so that reading takes as many images at once as it likes.
        """
        row: dict[str, int | float] = {}
        for suffix, training in (("probe", True), ("probe_eval", False)):
            reading = known if known is not None and training else self._read_units(model, images, batch_size, training)
            counts = torch.stack([reading.dead.sum(), reading.inert.sum(), reading.tau_dormant.sum()]).tolist()
            units = reading.dead.numel()
            for name, count in zip(("dead", "inert", "tau_dormant"), counts, strict=True):
                row[f"prepool/{name}_units_{suffix}"] = count
                row[f"prepool/{name}_share_{suffix}"] = count / units
            row[f"prepool/feature_rank_{suffix}"] = float(effective_rank(reading.pooled))
        return row

    def read_until_alive(self, model: nn.Module, images: Tensor, batch_size: int) -> definitions.UnitReading | None:
        """The train-mode reading of a fixed set on which every unit is inert; None as soon as a unit is not.

        No later batch can make that unit inert, and a unit that is not inert is not dead.
        """
        reading = self._read_units(model, images, batch_size, training=True, stop_when_alive=True)
        return reading if bool(reading.inert.all()) else None

    def _read_units(
        self, model: nn.Module, images: Tensor, batch_size: int, training: bool, stop_when_alive: bool = False
    ) -> definitions.UnitReading:
        by_batch = training and can_normalise_by_batch(model)
        try:
            with undisturbed(model, training, buffers_rest=by_batch):
                if stop_when_alive:  # where there was life, look first
                    batches = images.tensor_split(math.ceil(len(images) / batch_size))
                    first = batches[self._alive_batch % len(batches)]
                    reading = self._units_reading = definitions.UnitReading()
                    with normalised_by_batch(model, len(first)) if by_batch else contextlib.nullcontext():
                        model(first)
                    if not bool(reading.inert.all()):
                        return reading
                reading = self._units_reading = definitions.UnitReading()
                for start, stop, size in passes(images, batch_size, training, by_batch):
                    with normalised_by_batch(model, size) if by_batch else contextlib.nullcontext():
                        model(images[start:stop])
                    if stop_when_alive and not bool(reading.inert.all()):
                        assert self._brightest is not None
                        self._alive_batch = (start + int(self._brightest)) // batch_size
                        break
        finally:
            self._units_reading = self._brightest = None
        return reading
