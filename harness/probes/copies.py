"""Copies and pickles of a model that is observed carry no instruments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


def keep_out_of_copies(model: nn.Module, is_instrument: Callable[[Any], bool]) -> Callable[[], None]:
    """Let `copy.deepcopy`, `pickle` and `torch.save` leave out hooks that are instruments; gives what ends that.

    Both ask an object itself for `__reduce_ex__`, so that an attribute of the module answers for its class. It stays
    until the last instrument's hook is gone from the module.
    """
    guarded = list(model.modules())
    for module in guarded:
        module.__dict__["__reduce_ex__"] = functools.partial(_reduce, module, is_instrument)

    def end() -> None:
        for module in guarded:
            if not any(True for _ in _instruments(module.__dict__, is_instrument)):
                module.__dict__.pop("__reduce_ex__", None)

    return end


def _instruments(state: dict[str, Any], is_instrument: Callable[[Any], bool]) -> Iterator[int]:
    for kind in _HOOKS:
        yield from (key for key, hook in state.get(kind, {}).items() if is_instrument(hook))


def _reduce(module: nn.Module, is_instrument: Callable[[Any], bool], protocol: Any) -> Any:
    """What the module's class would give, without instruments."""
    reduced = type(module).__reduce_ex__(module, protocol)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced
    state = {name: value for name, value in reduced[2].items() if name != "__reduce_ex__"}
    gone = set(_instruments(state, is_instrument))
    for kind in (*_HOOKS, *_FLAGS):
        if kind in state:
            state[kind] = type(state[kind])((key, hook) for key, hook in state[kind].items() if key not in gone)
    return (*reduced[:2], state, *reduced[3:])
