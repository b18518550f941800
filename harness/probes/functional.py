"""ReLUs that are function calls inside a forward method and no modules, found with torch.fx.

A forward hook cannot stand on a function, but the tensor that it makes passes a module sooner or later. Each module's
own forward code is traced with its children as leaves; the ReLU's output is then read where a hook sees it: as the
module's output, as the input of the child that comes next, or, where neither is, computed anew from the output of
the child that feeds it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from harness.probes.points import Point

_FUNCTIONS = {torch.relu, torch.relu_, functional.relu, functional.relu_, functional.relu6}
_NAMES = {"relu", "relu_", "relu6"}
"""Methods of a tensor, and names that betray a ReLU in code that fx cannot trace."""


class _OwnLevel(fx.Tracer):
    """Traces a module's own code; what its children do is hidden."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def functional_relus(name: str, module: nn.Module) -> tuple[list[Point], str | None]:
    """The ReLU calls in a module's own forward code, and what to say where some could not be found.

    Their points are named `NAME.relu()`, from the second on `NAME.relu()#2`.
    """
    if type(module).__module__.startswith("torch.nn."):
        return [], None
    try:
        graph = _OwnLevel().trace(module, concrete_args=_defaults(module))
    except Exception as error:  # fx raises whatever the traced code raises when it meets a proxy
        if not _mentions_relu(type(module)):
            return [], None
        reason = str(error).strip().split("\n")[0]
        return [], (
            f"ReLUs called as functions in {_shown(name)} ({type(module).__name__}) are not read: "
            f"torch.fx cannot trace it ({reason}); observe the modules before or after them by name"
        )
    calls = [node for node in graph.nodes if _is_relu(node)]
    points, lost = [], 0
    for index, node in enumerate(calls):
        label = f"{name}.relu()".lstrip(".") + (f"#{index + 1}" if index else "")
        point = _place(label, name, module, node)
        lost += point is None
        points += [point] if point is not None else []
    if lost:
        return (
            points,
            f"{lost} of the {len(calls)} ReLUs called as functions in {_shown(name)} touch no module: not read",
        )
    return points, None


def _shown(name: str) -> str:
    return name or "the model itself"


def _is_relu(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _NAMES
    return node.op == "call_function" and node.target in _FUNCTIONS


def _place(label: str, name: str, module: nn.Module, node: fx.Node) -> Point | None:
    """Where a hook sees the ReLU's output."""

    def child(target: Any) -> tuple[str, nn.Module]:
        return f"{name}.{target}".lstrip("."), module.get_submodule(str(target))

    once = [each for each in node.graph.nodes if each.op == "call_module"]
    once = [each for each in once if [other.target for other in once].count(each.target) == 1]
    for user in node.users:
        if user.op == "output" and user.args[0] is node:
            return Point(label, name, module, "output")
        if user in once and user.args and user.args[0] is node:
            return Point(label, *child(user.target), "input")
    source = node.args[0]
    if isinstance(source, fx.Node) and source in once:
        return Point(label, *child(source.target), "output", relu=True)
    return None


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Arguments of forward that keep their default, so that `if mask is not None` goes the usual way."""
    parameters = inspect.signature(module.forward).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _mentions_relu(kind: type) -> bool:
    functions = [
        value for base in kind.__mro__ if not base.__module__.startswith("torch.") for value in vars(base).values()
    ]
    return any(_NAMES & set(each.__code__.co_names) for each in functions if inspect.isfunction(each))
