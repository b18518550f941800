"""What the words mean: pure functions of an activation of shape (N, C, H, W). Source: experiments/QUESTION.md, "Words".

A position is active when its value is not exactly zero. NaN is not zero, so it counts as active.

`dead` holds for activations that clip to zero: ReLU, ReLU6. Whether others ever give an exact zero is a matter of
rounding (in float32 GELU below -6, SiLU below -89, ELU never), so that their units are dead long before they read so;
`inert` holds for any.
"""

from __future__ import annotations

import torch
from torch import Tensor

INERT_VARIANCE = 1e-12
"""A unit whose value varies less than this is inert: a standard deviation of 1e-6.

It is absolute: a layer whose units are all gone has no scale of its own left, and activations have one, since they
bend within a few units of zero. Where an activation makes 1e-6 or less of inputs that vary by 1, its slope is as small,
and so is the gradient that passes. With standard normal inputs around c, float32 and bfloat16 alike, GELU is there
from c = -8 and SiLU from -18. A unit that is constant in its floating type has exactly no variance, wherever it
lies. What is not an activation and itself scaled below 1e-6 reads as inert, too (a LayerScale, as it begins in CaiT).
"""
DORMANT_BELOW = 0.01
"""A unit active on a smaller share of positions than this is dormant."""
TAU = 0.025
"""A unit whose mean activation is at most this share of its layer's is tau-dormant (Sokar et al. 2302.12902)."""
NEAR_ZERO = 0.05
"""An element of at most this absolute value is near zero; fastai's ActivationStats, made for ReLU, counts x <= 0.05."""


def _active(x: Tensor) -> Tensor:
    """1 at every active position and 0 elsewhere, in the type of x: on the CPU ten times faster than booleans."""
    x = x.detach()
    return torch.ne(x, 0, out=torch.empty_like(x))


def _mean_and_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each unit's mean and sum of squared deviations from it: (C,), doubles. Ten times faster than `Tensor.var`."""
    wide = x.double()
    mean = wide.mean(dim=(0, 2, 3))
    return mean, (wide - mean[:, None, None]).square_().sum(dim=(0, 2, 3))


def zero_fraction(x: Tensor) -> Tensor:
    """Share of elements that are exactly zero, in [0, 1]; a healthy ReLU reads near 0.5."""
    return (x == 0).double().mean()


def active_share(x: Tensor) -> Tensor:
    """For each unit the share of its N*H*W positions that is active: (C,), in [0, 1]."""
    return _active(x).mean(dim=(0, 2, 3), dtype=torch.float64)


def dead_units(x: Tensor) -> Tensor:
    """Which units are zero at every position of every sample: (C,), bool."""
    return _active(x).sum(dim=(0, 2, 3)) == 0


def dormant_units(x: Tensor, below: float = DORMANT_BELOW) -> Tensor:
    """Which units are active on less than a share `below` of their positions; a dead unit is: (C,), bool."""
    return active_share(x) < below


def tau_dormant_units(x: Tensor, tau: float = TAU) -> Tensor:
    """Which units' mean absolute value is at most `tau` times the mean over all units: (C,), bool.

    A dead unit is; of a layer that is zero everywhere all are. Source: Sokar et al. 2302.12902, definition 3.1.
    """
    return _at_most(tau, x.detach().abs().mean(dim=(0, 2, 3), dtype=torch.float64))


def _at_most(tau: float, activation: Tensor) -> Tensor:
    return activation <= tau * activation.mean()


def inert_units(x: Tensor, variance: float = INERT_VARIANCE) -> Tensor:
    """Which units hardly vary over all positions of all samples (population variance <= `variance`): (C,), bool.

    A dead unit is inert, and so is one that is constant: neither carries anything. NaN and infinity are not inert.
    """
    return _mean_and_squares(x)[1] / (x.numel() // x.shape[1]) <= variance


def zero_samples(x: Tensor) -> Tensor:
    """Which samples have nothing but zeros: (N,), bool."""
    return ~(x != 0).flatten(1).any(dim=1)


def rms(x: Tensor) -> Tensor:
    """Root of the mean square of all elements."""
    return x.double().square().mean().sqrt()


class UnitReading:
    """What a tensor's units are that comes in several batches (N_i, C, H, W), with no activation kept.

    A unit's mean over positions in each sample is kept, which is what global average pooling makes of it.
    """

    def __init__(self) -> None:
        self._active: Tensor | None = None
        self._count = 0
        self._mean: Tensor
        self._squares: Tensor
        self._pooled: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Take one more batch."""
        count = x.numel() // x.shape[1]
        mean, squares = _mean_and_squares(x)
        self._pooled.append(x.detach().mean(dim=(2, 3)))
        if self._active is None:
            self._active, self._count, self._mean, self._squares = ~dead_units(x), count, mean, squares
            return
        self._active = self._active | ~dead_units(x)
        total = self._count + count  # Chan et al. 1983: exact for a constant unit, where sums of squares cancel badly
        shift = mean - self._mean
        self._squares = self._squares + squares + shift.square() * (self._count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._count = total

    @property
    def dead(self) -> Tensor:
        """Which units were zero at every position of every sample so far: (C,), bool."""
        if self._active is None:
            raise ValueError("nothing was read: the set is empty")
        return ~self._active

    @property
    def inert(self) -> Tensor:
        """Which units hardly varied so far (see `inert_units`): (C,), bool."""
        if self._active is None:
            raise ValueError("nothing was read: the set is empty")
        return self._squares / self._count <= INERT_VARIANCE

    @property
    def tau_dormant(self) -> Tensor:
        """Which units' mean was at most TAU of the mean over units so far: (C,), bool.

        `tau_dormant_units` where nothing is negative, as after a ReLU; else of the absolute means.
        """
        if self._active is None:
            raise ValueError("nothing was read: the set is empty")
        return _at_most(TAU, self._mean.abs())

    @property
    def pooled(self) -> Tensor:
        """The means over positions of every sample so far, (N, C)."""
        if not self._pooled:
            raise ValueError("nothing was read: the set is empty")
        return torch.cat(self._pooled)
