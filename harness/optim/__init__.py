"""Optimizers, learning-rate schedules and parameter averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.optim.rmsprop_tf import RMSPropTF

__all__ = ["RMSPropTF"]


def __getattr__(name: str) -> Any:
    if name == "RMSPropTF":  # imported when asked for: it needs torch, and the schedules do not
        from harness.optim.rmsprop_tf import RMSPropTF

        return RMSPropTF
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
