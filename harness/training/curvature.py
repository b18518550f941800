"""The preset `curvature`: sharpness, stability margin and gradient noise of a run, a few times in its course."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness import distributed
from harness.data.part import Batch
from harness.optim.stability import threshold
from harness.probes.curvature import gradient_noise, sharpness
from harness.probes.preconditioners import NoUpdateYet, heavy_ball
from harness.probes.probe import ProbeWarning
from harness.training.reading import Row
from harness.training.trainer import Trainer


class CurvatureReader:
    """Reads the curvature of the loss that a run trains on, at the first batches of its probe set.

    A batch is as large as that of one process, which is what its batch-norms see, or as the probe set allows. Of a
    data-parallel run one process reads. All is computed in single precision on the uncompiled network, whatever the
    run trains in.
    """

    def __init__(self, trainer: Trainer, probe_set: Batch) -> None:
        """`probe_set`: images (N, 3, H, W) and labels (N,) on the run's device."""
        self._trainer = trainer
        images, labels = probe_set
        size = min(trainer.config.data.batch_size // distributed.world_size(), len(images))
        count = min(trainer.config.probes.curvature.batches, len(images) // size)
        self._batches = [(images[at : at + size], labels[at : at + size]) for at in range(0, count * size, size)]
        half = min(size, len(images) // 2)
        one, other = ([(images[at : at + half], labels[at : at + half])] for at in (0, half))
        self._halves = one, other
        self._said: set[str] = set()

    def due(self, step: int) -> bool:
        """Whether this step is read; the last one always is."""
        return step % self._trainer.config.probes.curvature.every == 0

    def read(self) -> Row:
        """The reading before the coming update. What cannot be read is NaN, and said in a ProbeWarning, once.

        curvature/sharpness: largest eigenvalue of P^-1/2 H P^-1/2 (see `harness.probes.curvature.sharpness`), P of the
            optimizer as its last update left it; NaN before the first one of an optimizer that begins with none.
        curvature/sharpness_error: an estimate of what is missing of it, as a share.
        curvature/margin: the coming learning rate times that over the largest stable product with the momentum and the
            replicas' delay (see `harness.optim.stability.threshold`); above 1 it is unstable.
        curvature/gradient_square, /noise_trace, /noise_scale: see `harness.probes.curvature.GradientNoise`.
        """
        row: Row = dict.fromkeys(
            [f"curvature/{name}" for name in ("sharpness", "sharpness_error", "margin")]
            + [f"curvature/{name}" for name in ("gradient_square", "noise_trace", "noise_scale")],
            math.nan,
        )
        for read in (self._read_sharpness, self._read_noise):
            row |= self._guarded(read)
        return row

    def _guarded(self, read: Callable[[], Row]) -> Row:
        try:
            return read()
        except NoUpdateYet:
            return {}
        except Exception as error:  # nothing is raised into the training
            word = f"curvature is not read: {type(error).__name__}: {' '.join(str(error).split())}"
            if word not in self._said:
                self._said.add(word)
                warnings.warn(word, ProbeWarning, stacklevel=2)
            return {}

    def _loss(self, model: nn.Module, batches: Sequence[Batch]) -> Tensor:
        """The mean loss of batches, each normalised by its own statistics."""
        return torch.stack([self._trainer.loss(model, *batch)[0] for batch in batches]).mean()

    def _read_sharpness(self) -> Row:
        trainer, config = self._trainer, self._trainer.config
        ball = heavy_ball(trainer.optimizer)
        found = sharpness(
            trainer.model, self._loss, self._batches, trainer.optimizer, products=config.probes.curvature.products
        )
        row: Row = {"curvature/sharpness": found.value, "curvature/sharpness_error": found.error}
        if ball.momentum is not None:
            stable = threshold(ball.momentum, config.optim.replicas - 1, config.optim.replica_order or "round_robin")
            row["curvature/margin"] = trainer.lr * ball.gain * found.value / stable
        return row

    def _read_noise(self) -> Row:
        noise = gradient_noise(self._trainer.model, self._loss, self._halves, len(self._halves[0][0][1]))
        return {
            "curvature/gradient_square": noise.square,
            "curvature/noise_trace": noise.trace,
            "curvature/noise_scale": noise.scale,
        }
