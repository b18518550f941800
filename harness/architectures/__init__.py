"""The one table of architectures, and the arithmetic of its widths. Nothing here needs torch.

A configuration is resolved and checked from the table alone, and `harness.models` builds the modules from it.
notation -> table -> fields; widths -> plan -> death, resolution. README.md says how the papers' figures were read.
"""

from harness.architectures.death import DeathEvent, death_event, pool_input
from harness.architectures.fields import ModelConfig
from harness.architectures.notation import Branch, Conv, Fork, Module, Pool, convs, parse
from harness.architectures.plan import Blueprint, blueprint, minimum_image_size, residual_scales, up_projected
from harness.architectures.resolution import resolve
from harness.architectures.size import Size, network_size
from harness.architectures.table import (
    ARCHITECTURES,
    AUX_FILTERS,
    AUX_KERNEL,
    AUX_LOSS_WEIGHT,
    AUX_POOL,
    AUX_STAGE,
    Architecture,
    ArchitectureName,
    Stage,
)
from harness.architectures.widths import out_grid, out_width, scale_filters, stride

__all__ = [
    "ARCHITECTURES",
    "AUX_FILTERS",
    "AUX_KERNEL",
    "AUX_LOSS_WEIGHT",
    "AUX_POOL",
    "AUX_STAGE",
    "Architecture",
    "ArchitectureName",
    "Blueprint",
    "Branch",
    "Conv",
    "DeathEvent",
    "Fork",
    "ModelConfig",
    "Module",
    "Pool",
    "Size",
    "Stage",
    "blueprint",
    "convs",
    "death_event",
    "minimum_image_size",
    "network_size",
    "out_grid",
    "out_width",
    "parse",
    "pool_input",
    "residual_scales",
    "resolve",
    "scale_filters",
    "stride",
    "up_projected",
]
