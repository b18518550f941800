"""Hooks that reduce an activation the moment it appears, and keep nothing of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from harness.probes.layouts import LayoutTracker, declared_axis, maker, usual_axis
from harness.probes.moments import Moments, Reducer
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

    ran: whether a layer was called in a pass that is not read.
    tracker: follows the units' axis in a pass that is read, None where that is known or cannot be followed.
    unlearned: whether a layer's axis could be learnt by following one more pass.
    problems: what could not be read since they were taken last: why, and whether the layer was asked for by name.
    """

    def __init__(self, model: nn.Module, stopwatch: Stopwatch, follows: bool) -> None:
        self.model, self.stopwatch, self.follows = model, stopwatch, follows
        self.reducer = Reducer()
        self.reads = self.ran = False
        self.calls = 0
        self.tracker: LayoutTracker | None = None
        self.unlearned = follows
        self.axes: dict[tuple[str, int], int] = {}
        self.sizes: dict[str, int] = {}
        self.problems: dict[str, bool] = {}
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

    def track(self) -> None:
        """Follow the axes from here to `untrack`, where one is still to be learnt."""
        if self.follows and self.unlearned and self.tracker is None:
            self.tracker, self.unlearned = LayoutTracker(), False
            self.tracker.__enter__()  # type: ignore[no-untyped-call]

    def untrack(self) -> None:
        """Follow them no more."""
        if self.tracker is not None:
            self.tracker.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.tracker = None

    def axis(self, label: str, module_name: str, module: nn.Module, x: Tensor, asked_for: bool) -> int:
        """The axis of the units of `x`, remembered by its label and number of dimensions.

        It is followed from the operation that made the tensor; where that is not possible (a compiled model), it is
        that of the module or of the one registered before it; else the usual one, which is said to be a guess.
        Raises LookupError where it can be learnt in the next pass.
        """
        if torch.compiler.is_compiling():  # nothing here may be what the graph is made for
            told = self._told(module_name, module, x)
            return usual_axis(x) if told is None else told
        if (label, x.ndim) in self.axes:
            return self.axes[label, x.ndim]
        found = None if self.tracker is None else self.tracker.axis(x)
        if found is None:
            found = declared_axis(module, x) if self.follows else self._told(module_name, module, x)
        if found is None and self.follows and self.tracker is None and x.ndim != 2:
            self.unlearned = True
            raise LookupError("at its first call the axis of its units is not known yet")
        if found is None:
            found = usual_axis(x)
            if x.ndim != 2:
                self.problems[
                    f"{label}: nothing of known layout made the tensor {tuple(x.shape)}; axis {found} is taken for "
                    "that of its units, which is a guess: give unit_axis to observe()"
                ] = asked_for
        self.axes[label, x.ndim] = found
        return found

    def _told(self, module_name: str, module: nn.Module, x: Tensor) -> int | None:
        axis = declared_axis(module, x)
        return maker(self.model, module_name, x) if axis is None and module_name else axis

    def hold_size(self, label: str, size: int) -> None:
        """Raises ValueError where a layer has another number of units than at its first reading."""
        if not torch.compiler.is_compiling() and self.sizes.setdefault(label, size) != size:
            raise ValueError(f"it has another number of units than the {self.sizes[label]} of its first reading")


class ActivationHooks:
    """The hooks on all points of a probe. They read the forward pass that comes after `arm` and before `take`."""

    def __init__(
        self, model: nn.Module, points: Sequence[Point], axis: UnitAxis, stopwatch: Stopwatch, follows: bool
    ) -> None:
        """`follows`: whether the units' axis can be followed through a pass; not through a compiled one."""
        self._context = HookContext(model, stopwatch, follows)
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
        self._context.track()

    def disarm(self) -> None:
        """Read no more."""
        self._context.untrack()
        self._context.reads = False

    @property
    def ran(self) -> bool:
        """Whether a layer was called in a pass that was not read."""
        return self._context.ran

    def problems(self) -> dict[str, bool]:
        """What could not be read since this was asked last, and whether its layer was asked for by name."""
        problems, self._context.problems = self._context.problems, {}
        return problems

    def take(self) -> list[LayerMoments]:
        """Read no more, and give what the pass left, in the order of the layers."""
        self.disarm()
        self._context.reducer.clear()
        found = sorted((each for hook in self._hooks for each in hook.found), key=lambda each: each.order)
        for hook in self._hooks:
            hook.reset()
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
        self._called(self._read, inputs[0] if inputs else None)

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._called(self._read, output)

    def _sum(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._called(self._read_sum, inputs, output)

    def _called(self, read: Callable[..., None], *args: Any) -> None:
        """What cannot be read is left out with a word: nothing is raised into the training."""
        context = self._context
        if torch.compiler.is_compiling():
            if context.reads:
                read(*args)
            return
        if not context.reads:
            context.ran = True
            return
        before = self.found
        with context.stopwatch.running():
            try:
                read(*args)
            except Exception as error:
                self.found = before
                worth = self.point.asked_for or self.point.side == "sum"
                context.problems[f"{self.point.name}: not read: {error}"] = worth

    def _add(
        self, name: str, moments: Moments, product: Tensor | None = None, factor: float | Tensor | None = None
    ) -> None:
        self._context.hold_size(name, moments.total.numel())
        self.found = (*self.found, LayerMoments(self._context.calls, name, moments, product, factor))
        self._context.calls += 1

    def _axis_of(self, label: str, x: Tensor) -> int:
        axis, point = self._axis, self.point
        if callable(axis):
            axis = axis(point.module_name, point.module)
        if axis is None:
            return self._context.axis(label, point.module_name, point.module, x, point.asked_for)
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"unit_axis is {axis}; a tensor {tuple(x.shape)} has {-x.ndim} to {x.ndim - 1}")
        return axis % x.ndim

    def _read(self, activation: Any) -> None:
        self._calls += 1
        name = self.point.name if self._calls == 1 else f"{self.point.name}#{self._calls}"
        for suffix, x in _tensors(activation):
            axis = self._axis_of(name + suffix, x)
            moments = None if self.point.relu else self._context.recall(x, axis)
            if moments is None or (moments.near is None) == self.point.smooth:
                values = x.detach().relu() if self.point.relu else x.detach()
                moments = self._context.reducer.moments(values, axis, count_active=True, count_near=self.point.smooth)
                if not self.point.relu:
                    self._context.remember(x, axis, moments)
            self._add(name + suffix, moments)

    def _read_sum(self, inputs: tuple[Any, ...], output: Any) -> None:
        name = self.point.name
        if self.found:
            if torch.compiler.is_compiling():
                return
            raise TypeError(f"{self.point.module_name} is called more than once in a forward pass")
        tensors = len(inputs) == 2 and all(isinstance(x, Tensor) for x in (*inputs, output))
        if not tensors or any(x.shape != output.shape for x in inputs):
            if torch.compiler.is_compiling():
                return
            raise TypeError(
                f"{self.point.module_name} was declared a residual sum, "
                "which takes skip and branch of the shape of its output as its two positional inputs"
            )
        factor = getattr(self.point.module, "scale", None)
        one_number = isinstance(factor, int | float) or (isinstance(factor, Tensor) and factor.numel() == 1)
        if isinstance(factor, Tensor):
            factor = factor.detach()
        axis, reducer = self._axis_of(name, output), self._context.reducer
        skip, branch, total = (x.detach() for x in (*inputs, output))

        def read(x: Tensor) -> Moments:
            return reducer.moments(x, axis, count_active=False)

        known = self._context.recall(inputs[0], axis)
        self._add(f"{name}/skip", read(skip) if known is None else known._replace(active=None, near=None))
        product = reducer.inner_product(skip, branch)
        self._add(f"{name}/branch", read(branch), product, factor if one_number else None)
        if not one_number:
            self._add(f"{name}/scaled", read(total - skip))
        self._add(f"{name}/sum", read(total))


def _tensors(activation: Any) -> list[tuple[str, Tensor]]:
    """The floating-point tensors with units of a module's output, each with its index in a tuple or key in a mapping.

    Raises TypeError if there is none; in a compiled graph, which cannot, there is then nothing.
    """
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(activation, Tensor):
        items = [("", activation)]
    elif isinstance(activation, Mapping):
        items = [(f"[{key}]", x) for key, x in activation.items()]
    elif isinstance(activation, list | tuple):
        items = [(f"[{key}]", x) for key, x in enumerate(activation)]
    readable = [(suffix, x) for suffix, x in items if isinstance(x, Tensor) and _has_units(x)]
    if readable or torch.compiler.is_compiling():
        return readable
    if isinstance(activation, Tensor):
        if not activation.numel():
            raise TypeError("an empty tensor has no units")  # no shape in it: it may be another one in every pass
        raise TypeError(f"a tensor {tuple(activation.shape)} of {activation.dtype} has no units")
    if activation is None:
        raise TypeError("it is called without a positional input, or gives None")
    raise TypeError(f"{type(activation).__name__} holds no tensor with units; observe a module inside it")


def _has_units(x: Tensor) -> bool:
    return x.ndim >= 2 and x.numel() > 0 and x.is_floating_point()
