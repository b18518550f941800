"""Where an instrument reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Point:
    """A place in the forward pass whose activation is read.

    name: start of its metrics' names, `block/b03/output` or `layer/layer1.0.relu`; of a residual sum `block/b03`.
    module_name, module: where the hook stands.
    side: the module's output, its first input, or, of a residual sum, skip and branch and sum at once.
    relu: read the ReLU of the tensor instead of the tensor.
    smooth: it is what an activation without exact zeros leaves (GELU, SiLU, ...), so that elements near zero are
        counted, and inert units are its dead ones.
    asked_for: named by a pattern and not by a preset, so that its silence is worth a warning.
    """

    name: str
    module_name: str
    module: nn.Module
    side: Literal["output", "input", "sum"]
    relu: bool = False
    smooth: bool = False
    asked_for: bool = False
