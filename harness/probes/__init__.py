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
    from harness.timeline import LayerDeath, Timeline, UnitDeaths

__all__ = ["Cadence", "LayerDeath", "Probe", "ProbeWarning", "Timeline", "UnitDeaths", "observe"]

_HOME = {
    "Cadence": "harness.probes.cadence",
    "LayerDeath": "harness.timeline",
    "Probe": "harness.probes.probe",
    "ProbeWarning": "harness.probes.probe",
    "Timeline": "harness.timeline",
    "UnitDeaths": "harness.timeline",
    "observe": "harness.probes.probe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
