"""Which units were dead at which step: a bit for each unit and reading."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Whole = NDArray[np.int64]
NEVER = -1


@dataclass(frozen=True)
class UnitDeaths:
    """The deaths of one layer's units; arrays (C,), steps are those of readings.

    onset: first step at which the unit was dead, -1 if it never was. alive_before: the last step before it at which it
    was read alive, -1 if it was dead from the first reading on; death lies between the two.
    final_onset: first step of the death that lasts to the last reading, -1 if the unit is alive there.
    revivals: how often a unit that was dead at one reading was alive at the next one.
    dead_steps: steps spent dead, from each reading at which it was dead to the next reading.
    """

    onset: Whole
    alive_before: Whole
    final_onset: Whole
    revivals: Whole
    dead_steps: Whole


@dataclass(frozen=True, order=True)
class LayerDeath:
    """The first reading at which a layer had lost a given share of its units.

    depth: position of the layer in the forward pass. alive_before: the last reading before, -1 if there was none.
    """

    step: int
    depth: int
    layer: str
    alive_before: int


class Timeline:
    """Dead units of every layer over the steps, C bits a layer and reading."""

    def __init__(self) -> None:
        self._units: dict[str, int] = {}
        self._steps: dict[str, array[int]] = {}
        self._bits: dict[str, bytearray] = {}

    def append(self, step: int, dead: Mapping[str, Bools]) -> None:
        """Add a reading: which units of each layer, (C,), are dead. Layers keep the order of their first reading.

        Raises ValueError for a step that is not above the layer's last one, or another number of units.
        """
        for layer, units in dead.items():
            steps = self._steps.setdefault(layer, array("q"))
            if self._units.setdefault(layer, units.size) != units.size:
                raise ValueError(f"{layer}: {units.size} units, but {self._units[layer]} before")
            if steps and step <= steps[-1]:
                raise ValueError(f"{layer}: step {step} is not above the last reading's, {steps[-1]}")
            steps.append(step)
            self._bits.setdefault(layer, bytearray()).extend(np.packbits(units).tobytes())

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers in the order of the forward pass."""
        return tuple(self._units)

    def last_step(self) -> int:
        """Step of the last reading, -1 if there was none."""
        return max((steps[-1] for steps in self._steps.values()), default=NEVER)

    def raster(self, layer: str) -> tuple[Whole, Bools]:
        """Steps (R,) and which units were dead at each, (C, R). Raises KeyError for an unknown layer."""
        steps = np.array(self._steps[layer], dtype=np.int64)
        packed = np.frombuffer(bytes(self._bits[layer]), dtype=np.uint8).reshape(len(steps), -1)
        return steps, np.unpackbits(packed, axis=1, count=self._units[layer]).astype(bool).T

    def dead_share(self, layer: str) -> tuple[Whole, NDArray[np.float64]]:
        """Steps (R,) and the share of dead units at each, (R,), in [0, 1]."""
        steps, dead = self.raster(layer)
        return steps, dead.mean(axis=0)

    def deaths(self, layer: str) -> UnitDeaths:
        """When each unit died, revived, and how long it was dead."""
        steps, dead = self.raster(layer)
        ever, first = dead.any(axis=1), dead.argmax(axis=1)
        backwards = dead[:, ::-1]
        run = np.where(dead.all(axis=1), len(steps), (~backwards).argmax(axis=1))  # dead readings at the end
        after = np.append(steps[1:], steps[-1:])
        return UnitDeaths(
            onset=np.where(ever, steps[first], NEVER),
            alive_before=np.where(ever & (first > 0), steps[np.maximum(first - 1, 0)], NEVER),
            final_onset=np.where(run > 0, steps[np.minimum(len(steps) - run, len(steps) - 1)], NEVER),
            revivals=(dead[:, :-1] & ~dead[:, 1:]).sum(axis=1),
            dead_steps=(dead * (after - steps)).sum(axis=1),
        )

    def order(self, share: float = 1.0) -> list[LayerDeath]:
        """The layers that lost at least `share` of their units, in (0, 1], in the order in which they did.

        Of several at the same reading the one that comes first in the forward pass stands first: what is dead there
        starves those behind it. Raises ValueError for a share out of its range.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; expected a share in (0, 1]")
        return sorted(self._losses(share))

    def first_to_lose(self, share: float = 1.0) -> LayerDeath | None:
        """The first layer to lose at least `share` of its units, None if none did."""
        return next(iter(self.order(share)), None)

    def _losses(self, share: float) -> Iterator[LayerDeath]:
        for depth, layer in enumerate(self.layers):
            steps, shares = self.dead_share(layer)
            (reached,) = np.nonzero(shares >= share)
            if reached.size:
                first = int(reached[0])
                yield LayerDeath(int(steps[first]), depth, layer, int(steps[first - 1]) if first else NEVER)

    # -- storage -------------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Five plain arrays, as `np.savez` takes them; `from_arrays` gives the same timeline.

        layers, units, readings: name, number of units and of readings of each layer, (P,). steps: int64, and bits:
        uint8, the layers' steps and packed units end to end.
        """
        return {
            "layers": np.array(self.layers, dtype=np.str_),
            "units": np.array([self._units[layer] for layer in self.layers], dtype=np.int64),
            "readings": np.array([len(self._steps[layer]) for layer in self.layers], dtype=np.int64),
            "steps": np.concatenate(
                [np.array(self._steps[layer], np.int64) for layer in self.layers] or [np.zeros(0, np.int64)]
            ),
            "bits": np.frombuffer(b"".join(bytes(self._bits[layer]) for layer in self.layers), dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Timeline:
        """The timeline that `to_arrays` made these of. Raises ValueError if they do not fit together."""
        timeline = cls()
        steps, bits = arrays["steps"].tolist(), arrays["bits"].tobytes()
        step = byte = 0
        for layer, units, readings in zip(
            *(arrays[key].tolist() for key in ("layers", "units", "readings")), strict=True
        ):
            size = readings * ((units + 7) // 8)
            timeline._units[layer] = units
            timeline._steps[layer] = array("q", steps[step : step + readings])
            timeline._bits[layer] = bytearray(bits[byte : byte + size])
            step, byte = step + readings, byte + size
        if (step, byte) != (len(steps), len(bits)):
            raise ValueError(
                f"a damaged timeline: {len(steps)} steps and {len(bits)} bytes, expected {step} and {byte}"
            )
        return timeline
