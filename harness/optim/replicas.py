"""Asynchronous replicas, simulated on one device exactly and repeatably: gradients of parameters that are out of date.

Each of N replicas holds the gradient of the parameters that it fetched last. An update takes the pending gradient of
one replica; that replica then fetches the new parameters, and computes its next gradient on the next batch. So it was
with the parameter servers of 2016 (Dean et al. 2012; "asynchronous gradient descent", 1704.04861, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.chance import REPLICA_TURNS, chance
from harness.config import OptimConfig

if TYPE_CHECKING:
    from torch import Tensor

    Gradients = list[Tensor | None]


def turn(optim: OptimConfig, seed: int, step: int) -> int:
    """The replica whose gradient update number `step` takes, counted from 0.

    `round_robin`: each in its turn. `random`: service times are exponential and equal in the mean, and have no memory:
    whichever replica took its turn before, any of them is as likely to be ready next.
    """
    if optim.replica_order == "random":
        return int(chance(REPLICA_TURNS, seed, step).integers(optim.replicas))
    return step % optim.replicas


def delays(optim: OptimConfig, seed: int, updates: int) -> list[int]:
    """The delay of each of the first updates: how many updates lie between the parameters of its gradient and its use.

    All replicas begin with the initial parameters, so the first delays are short. After that `round_robin` has N - 1
    always, `random` N - 1 in the mean.
    """
    fetched, found = [0] * optim.replicas, []
    for step in range(updates):
        replica = turn(optim, seed, step)
        found.append(step - fetched[replica])
        fetched[replica] = step + 1
    return found


class Replicas:
    """The pending gradients of a run's replicas, but for the one that computes: its gradient is in the parameters.

    count: number of replicas, 2 or more. In memory there are `count` gradients of all parameters.
    """

    def __init__(self, parameters: Sequence[Tensor], optim: OptimConfig, seed: int) -> None:
        self.count = optim.replicas
        self._parameters, self._optim, self._seed = parameters, optim, seed
        self._pending: list[Gradients | None] = [None] * self.count
        self._fetched = [0] * self.count
        self._computes = self.count - 1

    def begin(self, replica: int) -> None:
        """Take the gradient that is in the parameters for that of a replica before the first update."""
        self._pending[replica] = [parameter.grad for parameter in self._parameters]

    def delay(self, step: int) -> int:
        """The updates between the parameters that the gradient of update number `step` is of, and this update."""
        return step - self._fetched[turn(self._optim, self._seed, step)]

    def exchange(self, step: int) -> None:
        """Keep the gradient that is in the parameters, and put that of update number `step` in its place."""
        self._pending[self._computes] = [parameter.grad for parameter in self._parameters]
        replica = turn(self._optim, self._seed, step)
        gradients = self._pending[replica]
        assert gradients is not None
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._pending[replica] = None
        self._fetched[replica] = step + 1
        self._computes = replica

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on."""
        return {"pending": self._pending, "fetched": self._fetched, "computes": self._computes}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint. Raises ValueError for one of other replicas or parameters."""
        if len(state["pending"]) != self.count:
            raise ValueError(f"{len(state['pending'])} replicas, expected {self.count}")
        self._pending = [None if held is None else self._restored(held) for held in state["pending"]]
        self._fetched, self._computes = list(state["fetched"]), state["computes"]

    def _restored(self, gradients: Gradients) -> Gradients:
        pairs = list(zip(self._parameters, gradients, strict=True))
        for parameter, gradient in pairs:
            if gradient is not None and gradient.shape != parameter.shape:
                raise ValueError(f"a gradient {tuple(gradient.shape)} of a parameter {tuple(parameter.shape)}")
        return [None if gradient is None else gradient.to(parameter.device) for parameter, gradient in pairs]
