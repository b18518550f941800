"""What chance decides in the data, as pure functions of seed and step: which images, and how they are distorted.

Nothing here depends on the device, on the number of processes or on what came before, so a run continues in mid-epoch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.chance import DISTORTIONS, chance
from harness.located import InputError

CPU = torch.device("cpu")


class BatchOrder:
    """Which images a step trains on.

    Each epoch is a fresh permutation; its incomplete last batch is left out. Raises InputError for a batch larger than
    the data set.
    """

    def __init__(self, length: int, batch_size: int, seed: int, device: torch.device = CPU) -> None:
        if batch_size > length:
            raise InputError([f"data.batch_size: {batch_size} is above the {length} training images"])
        self.length, self.batch_size, self.seed, self.device = length, batch_size, seed, device
        self.steps_per_epoch = length // batch_size
        self._epoch = -1
        self._order = torch.empty(0)

    def __getitem__(self, step: int) -> Tensor:
        """Positions (B,) of the images of step `step`, on the device."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._order = torch.randperm(self.length, generator=generator).to(self.device)
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


class Dice:
    """Random numbers for the images of one step.

    Drawn on the host for the whole batch, of which this process takes `rows`; so they are the same on every device and
    for every number of processes, and cost no synchronisation.
    """

    def __init__(self, seed: int, step: int, batch_size: int, rows: slice, device: torch.device) -> None:
        self._rng = chance(DISTORTIONS, seed, step)
        self._batch_size, self._rows, self.device = batch_size, rows, device

    def uniform(self, low: float, high: float) -> Tensor:
        """One float32 in [low, high) an image, (rows,), on the device."""
        return self.place(self._rng.uniform(low, high, self._batch_size)[self._rows].astype(np.float32))

    def below(self, high: int) -> np.ndarray:
        """One whole number in [0, high) an image, (rows,), on the host."""
        return self._rng.integers(high, size=self._batch_size)[self._rows]

    def place(self, numbers: np.ndarray) -> Tensor:
        """Numbers from the host on the device, without waiting for it."""
        tensor = torch.from_numpy(numbers)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor
