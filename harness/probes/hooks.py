"""Hooks that reduce an activation the moment it appears, and keep nothing of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from harness.probes.moments import Moments, Reducer, unit_axis
from harness.probes.points import Point
from harness.stopwatch import Stopwatch

UnitAxis = int | Callable[[str, nn.Module], int | None] | None


class LayerMoments(NamedTuple):
    """What one layer left in one forward pass: moments, and for a residual sum its branch's inner product and factor.

    order: how many layers were read before it in this pass.
    """

    order: int
    name: str
    moments: Moments
    product: Tensor | None = None
    factor: float | Tensor | None = None


class HookContext:
    """What all hooks of one probe share: whether they read, and what was read last.

    A hook does nothing but look at `reads` in a pass that is not read, so that torch.compile makes two graphs, one for
    each of its values. `calls` is 0 before each pass for the same reason.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.reducer = Reducer()
        self.reads = False
        self.calls = 0
        self.last: tuple[weakref.ref[Tensor], int, int, Moments] | None = None

    def remember(self, x: Tensor, axis: int, moments: Moments) -> None:
        """A block's output is the next one's skip: it need not be read twice. Keeps no tensor alive."""
        if not torch.compiler.is_compiling() and not x.is_inference():
            self.last = weakref.ref(x), x._version, axis, moments

    def recall(self, x: Tensor, axis: int) -> Moments | None:
        """The moments of `x` if it is what was read last, unchanged since."""
        if torch.compiler.is_compiling() or self.last is None or x.is_inference():
            return None
        reference, version, along, moments = self.last
        return moments if reference() is x and x._version == version and along == axis else None


class ActivationHooks:
    """The hooks on all points of a probe. They read the forward pass that comes after `arm` and before `take`."""

    def __init__(self, points: Sequence[Point], axis: UnitAxis, stopwatch: Stopwatch) -> None:
        self._context = HookContext(stopwatch)
        self._hooks = [ActivationHook(point, self._context, axis) for point in points]

    def install(self) -> list[RemovableHandle]:
        """Register them."""
        return [hook.install() for hook in self._hooks]

    @property
    def armed(self) -> bool:
        """Whether they read."""
        return self._context.reads

    def arm(self) -> None:
        """Read from here on."""
        for hook in self._hooks:
            hook.reset()
        self._context.calls, self._context.last = 0, None
        self._context.reads = True

    def disarm(self) -> None:
        """Read no more."""
        self._context.reads = False

    def take(self) -> list[LayerMoments]:
        """Read no more, and give what the pass left, in the order of the layers. Raises RuntimeError for nothing."""
        self.disarm()
        self._context.reducer.clear()
        found = sorted((each for hook in self._hooks for each in hook.found), key=lambda each: each.order)
        for hook in self._hooks:
            hook.reset()
        if not found:
            raise RuntimeError(
                f"none of the {len(self._hooks)} observed layers was called in the forward pass; "
                "enter observe() before the first call of a compiled model (or call torch.compiler.reset())"
            )
        return found

    def forget(self) -> None:
        """Keep nothing of any pass."""
        self._context.reducer.clear()
        self._context.last = None
        for hook in self._hooks:
            hook.reset()


class ActivationHook:
    """The hook on one point. `found` holds what the last forward pass left."""

    def __init__(self, point: Point, context: HookContext, axis: UnitAxis) -> None:
        self.point, self._context, self._axis = point, context, axis
        self.found: tuple[LayerMoments, ...] = ()
        self._calls = 0

    def reset(self) -> None:
        """Forget the last forward pass."""
        self.found, self._calls = (), 0

    def install(self) -> RemovableHandle:
        """Register the hook."""
        module = self.point.module
        if self.point.side == "input":
            return module.register_forward_pre_hook(self._before)
        return module.register_forward_hook(self._sum if self.point.side == "sum" else self._after)

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._context.reads:
            if not inputs:
                raise TypeError(f"{self.point.name}: {self.point.module_name} is called without a positional input")
            self._timed(lambda: self._read(inputs[0]))

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._context.reads:
            self._timed(lambda: self._read(output))

    def _sum(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._context.reads:
            self._timed(lambda: self._read_sum(inputs, output))

    def _timed(self, read: Callable[[], None]) -> None:
        if torch.compiler.is_compiling():
            read()
            return
        with self._context.stopwatch.running():
            read()

    def _add(
        self, name: str, moments: Moments, product: Tensor | None = None, factor: float | Tensor | None = None
    ) -> None:
        self.found = (*self.found, LayerMoments(self._context.calls, name, moments, product, factor))
        self._context.calls += 1

    def _axis_of(self, x: Tensor) -> int:
        axis = self._axis
        if callable(axis):
            axis = axis(self.point.module_name, self.point.module)
        return unit_axis(self.point.module, x) if axis is None else axis % x.ndim

    def _read(self, activation: Any) -> None:
        self._calls += 1
        name = self.point.name if self._calls == 1 else f"{self.point.name}#{self._calls}"
        for suffix, x in _tensors(activation, name):
            axis = self._axis_of(x)
            moments = None if self.point.relu else self._context.recall(x, axis)
            if moments is None:
                values = x.detach().relu() if self.point.relu else x.detach()
                moments = self._context.reducer.moments(values, axis, count_active=True)
                if not self.point.relu:
                    self._context.remember(x, axis, moments)
            self._add(name + suffix, moments)

    def _read_sum(self, inputs: tuple[Any, ...], output: Any) -> None:
        name = self.point.name
        if self.found:
            raise TypeError(f"{name}: {self.point.module_name} is called more than once in a forward pass")
        tensors = len(inputs) == 2 and all(isinstance(x, Tensor) for x in (*inputs, output))
        if not tensors or any(x.shape != output.shape for x in inputs):
            raise TypeError(
                f"{name}: {self.point.module_name} was declared a residual sum, "
                "which takes skip and branch of the shape of its output as its two positional inputs"
            )
        factor = getattr(self.point.module, "scale", None)
        one_number = isinstance(factor, int | float) or (isinstance(factor, Tensor) and factor.numel() == 1)
        if isinstance(factor, Tensor):
            factor = factor.detach()
        axis, reducer = self._axis_of(output), self._context.reducer
        skip, branch, total = (x.detach() for x in (*inputs, output))

        def read(x: Tensor) -> Moments:
            return reducer.moments(x, axis, count_active=False)

        known = self._context.recall(inputs[0], axis)
        self._add(f"{name}/skip", read(skip) if known is None else known._replace(active=None))
        product = reducer.inner_product(skip, branch)
        self._add(f"{name}/branch", read(branch), product, factor if one_number else None)
        if not one_number:
            self._add(f"{name}/scaled", read(total - skip))
        self._add(f"{name}/sum", read(total))


def _tensors(activation: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors with units of a module's output, each with its index in a tuple or key in a mapping.

    Raises TypeError if there is none.
    """
    if isinstance(activation, Tensor):
        if not _has_units(activation):
            raise TypeError(f"{name}: a tensor {tuple(activation.shape)} of {activation.dtype} has no units to read")
        yield "", activation
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(activation, Mapping):
        items = activation.items()
    elif isinstance(activation, list | tuple):
        items = enumerate(activation)
    readable = [(f"[{key}]", x) for key, x in items if isinstance(x, Tensor) and _has_units(x)]
    if not readable:
        raise TypeError(f"{name}: {type(activation).__name__} holds no tensor with units; observe a module inside it")
    yield from readable


def _has_units(x: Tensor) -> bool:
    return x.ndim >= 2 and x.numel() > 0 and x.is_floating_point()
