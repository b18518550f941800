"""Which axis of an activation numbers its units: followed through a forward pass, or told by the module that made it.

A ReLU cannot say whether its input came from a convolution (N, C, L) or a linear layer (N, L, C); the operation that
made the tensor can. `LayoutTracker` sees every operation of a pass and carries the axis along: a convolution or
batch-norm sets it, a permutation moves it, a view splits or merges it, everything elementwise keeps it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Axes = frozenset[int]
"""Axes that together number the units: one, or several where a view has split it."""
_Key = tuple[int, int, tuple[int, ...], tuple[int, ...]]

_LAST = (
    "addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "embedding", "embedding_bag", "lstm", "gru", "rnn_tanh",
    "rnn_relu", "mkldnn_rnn_layer", "_cudnn_rnn", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell",
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_cudnn_attention",
    "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "bilinear", "_trilinear",
)  # fmt: skip
_SECOND = (
    "native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm",
    "cudnn_batch_norm", "miopen_batch_norm", "native_group_norm", "group_norm", "_batch_norm_impl_index",
    "batch_norm_elemt",
)  # fmt: skip
_CONVOLUTIONS = (
    "convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution",
    "_slow_conv2d_forward", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
_VIEWS = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_reshape_alias",
    "view_as", "reshape_as", "_reshape_copy",
)  # fmt: skip
_REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "norm", "prod")
_LAST_MODULES = (
    nn.Linear, nn.LayerNorm, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase,
    nn.Bilinear,
)  # fmt: skip


class LayoutTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the units' axis through the operations of the forward passes that run inside its `with`.

    Changes nothing: every operation runs as it is. Keeps no tensor alive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[_Key, Axes] = {}

    def axis(self, x: Tensor) -> int | None:
        """The axis of `x`, in [0, x.ndim), or None where it is unknown or several share the numbering."""
        axes = self._known.get(_key(x), frozenset())
        beyond_batch = axes - {0} or axes  # instance-norm numbers the channels of every sample
        return next(iter(beyond_batch)) if len(beyond_batch) == 1 else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and take its outputs' axes from its inputs'."""
        sources = [
            (x, self._known.get(_key(x))) for x in _flat(args)
        ]  # before it runs: an operation in place changes them
        out = func(*args, **(kwargs or {}))
        for result in _flat((out,)):
            axes = None
            with contextlib.suppress(Exception):  # an operation of a form that no rule foresees: unknown
                axes = _axes(func._schema.name.partition("::")[2].rstrip("_"), args, kwargs or {}, sources, result)
            if axes:
                self._known[_key(result)] = axes
            else:
                self._known.pop(_key(result), None)
        return out


def _key(x: Tensor) -> _Key:
    """A view made under autograd is another object than the operation returned, on the same storage."""
    if x.layout is not torch.strided:
        return id(x), 0, (), ()
    return x.untyped_storage()._cdata, int(x.storage_offset()), tuple(x.shape), tuple(x.stride())


def _flat(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


def _axes(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[tuple[Tensor, Axes | None]], out: Tensor
) -> Axes | None:
    """The axes of an operation's output, from those of its inputs; None where they are unknown."""
    if name in _CONVOLUTIONS:
        return frozenset({out.ndim - 1 - (args[1].ndim - 2)})
    if name in _LAST:
        return frozenset({out.ndim - 1})
    if name in _SECOND:
        return frozenset({1}) if out.ndim > 1 else None
    x, axes = sources[0] if sources else (out, None)
    if name in ("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm") and axes is None:
        return frozenset({out.ndim - 1})
    if name in ("cat", "concat", "stack"):
        return _joined(name, args, kwargs, sources)
    if name == "permute" and axes:
        return frozenset(position for position, dim in enumerate(args[1]) if dim % x.ndim in axes)
    if name in ("transpose", "t", "swapaxes", "numpy_T") and axes:
        first, second = (dim % x.ndim for dim in (args[1:3] if len(args) > 2 else (0, 1)))
        moved = {first: second, second: first}
        return frozenset(moved.get(axis, axis) for axis in axes)
    if name == "expand" and axes:
        return frozenset(axis + out.ndim - x.ndim for axis in axes)
    if name in _VIEWS and axes:
        return _viewed(tuple(x.shape), axes, tuple(out.shape))
    if name in ("select", "unbind") and axes:
        dim = (args[1] if len(args) > 1 else 0) % x.ndim
        return None if dim in axes else frozenset(axis - (axis > dim) for axis in axes)
    if name in _REDUCTIONS and axes and out.ndim < x.ndim:
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        if dims is None:
            return None
        gone = {dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)}
        return None if gone & axes else frozenset(axis - sum(dim < axis for dim in gone) for axis in axes)
    return _kept(sources, out)


def _joined(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[tuple[Tensor, Axes | None]]
) -> Axes | None:
    known = {axes for _, axes in sources if axes}
    if len(known) != 1:
        return None
    (axes,) = known
    if name != "stack":
        return axes
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % (sources[0][0].ndim + 1)
    return frozenset(axis + (axis >= dim) for axis in axes)


def _kept(sources: list[tuple[Tensor, Axes | None]], out: Tensor) -> Axes | None:
    """Of an operation that keeps the order of the axes. Inputs that disagree leave it unknown.

    An input that is broadcast has its axes at the end. A part of the units is numbered as they are.
    """
    if len(sources) == 1 and sources[0][1] and sources[0][0].ndim == out.ndim:
        return sources[0][1]
    known = {
        frozenset(axis + out.ndim - x.ndim for axis in axes)
        for x, axes in sources
        if axes and x.ndim <= out.ndim and all(x.shape[axis] == out.shape[axis + out.ndim - x.ndim] for axis in axes)
    }
    return known.pop() if len(known) == 1 else None


def _viewed(before: tuple[int, ...], axes: Axes, after: tuple[int, ...]) -> Axes:
    """Where axes of a tensor of one shape lie in a view of another: in what they were split into or merged with."""
    result: set[int] = set()
    start, end = 0, 0
    while start < len(before) or end < len(after):
        old, new = [start], [end]
        old_size = before[start] if start < len(before) else 1
        new_size = after[end] if end < len(after) else 1
        while old_size != new_size:
            if old_size < new_size:
                old.append(old[-1] + 1)
                old_size *= before[old[-1]]
            else:
                new.append(new[-1] + 1)
                new_size *= after[new[-1]]
        if axes.intersection(old):
            real = [dim for dim in new if dim < len(after)]
            result.update([dim for dim in real if after[dim] > 1] or real)
        # an axis of one element that only one side has would pair up with the next one of the other side
        start, end = old[-1] + 1, new[-1] + 1
        while start < len(before) and before[start] == 1 and (end >= len(after) or after[end] != 1):
            start += 1
        while end < len(after) and after[end] == 1 and (start >= len(before) or before[start] != 1):
            end += 1
    return frozenset(result)


def declared_axis(module: nn.Module, x: Tensor) -> int | None:
    """The axis by the kind of a module that made `x`, None for one that makes no layout of its own.

    Linear, layer-norm, embedding, attention and recurrent layers have their units last; what is named for a number of
    spatial axes, such as Conv1d or BatchNorm2d, has them before those.
    """
    kind = type(module)
    spatial = kind.__name__[-2:-1]
    if kind.__name__.endswith("d") and spatial in ("1", "2", "3"):
        return 1 if x.ndim == 2 else max(x.ndim - 1 - int(spatial), 0)
    if isinstance(module, nn.GroupNorm):
        return 1
    return x.ndim - 1 if isinstance(module, _LAST_MODULES) else None


def maker(model: nn.Module, name: str, x: Tensor) -> int | None:
    """The axis by the last module with a layout that is registered before module `name` in the same parent."""
    parent, _, own = name.rpartition(".")
    found = None
    for child_name, child in model.get_submodule(parent).named_children():
        if child_name == own:
            break
        for inner in child.modules():
            axis = declared_axis(inner, x)
            found = found if axis is None else axis
    return found


def usual_axis(x: Tensor) -> int:
    """That of images (N, C, H, W), volumes and (N, C), and of sequences (N, L, C): the guess where nothing is known."""
    return x.ndim - 1 if x.ndim == 3 else min(1, x.ndim - 1)
