"""The networks, as plain torch modules. Importing this package does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.models.build import build_model
    from harness.models.network import Network
    from harness.models.summary import Summary, summarise
    from harness.models.weights import load_weights

__all__ = ["Network", "Summary", "build_model", "load_weights", "summarise"]

_HOME = {
    "Network": "harness.models.network",
    "Summary": "harness.models.summary",
    "build_model": "harness.models.build",
    "load_weights": "harness.models.weights",
    "summarise": "harness.models.summary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
