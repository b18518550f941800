"""Instruments that never change the training and work on any torch model. Importing this does not import torch.

>>> from harness.probes import observe
>>> with observe(model, "**.relu*", every=50) as probe:
...     train(model)
>>> probe.frame()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.probes.cadence import Cadence
    from harness.probes.probe import Probe, ProbeWarning, observe
    from harness.probes.timeline import LayerDeath, Timeline, UnitDeaths

__all__ = ["Cadence", "LayerDeath", "Probe", "ProbeWarning", "Timeline", "UnitDeaths", "observe"]

_HOME = {
    "Cadence": "cadence",
    "LayerDeath": "timeline",
    "Probe": "probe",
    "ProbeWarning": "probe",
    "Timeline": "timeline",
    "UnitDeaths": "timeline",
    "observe": "probe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
