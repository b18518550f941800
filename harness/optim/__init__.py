"""Optimizers and learning-rate schedules. Names that need torch are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.optim.schedules import learning_rate

if TYPE_CHECKING:
    from harness.optim.build import build_optimizer
    from harness.optim.rmsprop_tf import RMSPropTF

__all__ = ["RMSPropTF", "build_optimizer", "learning_rate"]


def __getattr__(name: str) -> Any:
    if name == "RMSPropTF":
        from harness.optim.rmsprop_tf import RMSPropTF

        return RMSPropTF
    if name == "build_optimizer":
        from harness.optim.build import build_optimizer

        return build_optimizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
