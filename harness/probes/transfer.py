"""What one forward pass leaves, as one tensor on the device; across ranks, and back to the layers on the host."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from harness.probes.hooks import LayerMoments
from harness.probes.readings import Floats, Layout, Units, layout_of


@dataclass(frozen=True)
class PackedPass:
    """One forward pass of every rank, on the device.

    values: (ranks, length), or (ranks, P + length) with each rank's counts of positions in front.
    factors: alpha of each residual sum, NaN where none is known, None where it is among the values.
    """

    layout: Layout
    counts: tuple[int, ...]
    sums: tuple[str, ...]
    factors: tuple[float | None, ...]
    length: int
    values: Tensor


@dataclass(frozen=True)
class UnpackedPass:
    """One forward pass of one rank, on the host.

    sums: names of residual sums; products: <skip, branch> of each, and factors: alpha, NaN where none is known, (S,).
    """

    units: Units
    sums: tuple[str, ...]
    products: Floats
    factors: Floats


def same_everywhere(layers: Sequence[LayerMoments], group: Any, device: torch.device) -> bool:
    """Whether all ranks of a process group read the same layers in a pass; every rank must ask. Waits for the answer.

    Without it a rank that had an empty batch for some layer would leave the others waiting, or their numbers mixed up.
    """
    described = repr([(each.name, each.moments.total.numel(), each.moments.active is None) for each in layers])
    own = torch.tensor([zlib.crc32(described.encode())], device=device)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, own, group=group)
    return bool((torch.cat(everyone) == own).all())


def pack(layers: Sequence[LayerMoments], group: Any = None) -> PackedPass:
    """Lay what the layers left end to end; with a process group, on all of whose ranks they must be the same."""
    layout = layout_of(
        tuple(each.name for each in layers),
        tuple(each.moments.total.numel() for each in layers),
        tuple(each.moments.active is not None for each in layers),
        tuple(each.moments.near is not None for each in layers),
    )
    sums = [each for each in layers if each.product is not None]
    factors = [each.factor for each in sums]
    device = layers[0].moments.shift.device
    pieces = [each.moments.shift for each in layers]
    pieces += [each.moments.total for each in layers]
    pieces += [each.moments.squares for each in layers]
    pieces += [each.moments.active for each in layers if each.moments.active is not None]
    pieces += [each.moments.near for each in layers if each.moments.near is not None]
    pieces += [each.product.reshape(1) for each in sums if each.product is not None]
    pieces += [factor.reshape(1) for factor in factors if isinstance(factor, Tensor)]
    values = torch.cat([piece.to(device) for piece in pieces])
    length = values.numel()
    counts = tuple(each.moments.positions for each in layers)
    if group is not None:
        values = torch.cat([torch.tensor(counts, dtype=torch.float64, device=device), values.double()])
        everyone = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
        dist.all_gather(everyone, values, group=group)
        values = torch.stack(everyone)
    else:
        values = values[None]
    known = tuple(
        None if isinstance(factor, Tensor) else float("nan") if factor is None else factor for factor in factors
    )
    return PackedPass(layout, counts, tuple(each.name.removesuffix("/branch") for each in sums), known, length, values)


def unpack(passes: Sequence[PackedPass], extra: Tensor | None) -> tuple[list[UnpackedPass], list[float]]:
    """Bring passes, and other doubles of the same step, to the host in one transfer, the passes rank by rank."""
    pieces = [packed.values.double().flatten() for packed in passes] + ([] if extra is None else [extra])
    values = torch.cat([piece.to(pieces[0].device) for piece in pieces]).cpu().numpy()
    ends = list(accumulate(packed.values.numel() for packed in passes))
    unpacked = [
        _unpack_rank(packed, row)
        for packed, end in zip(passes, ends, strict=True)
        for row in values[end - packed.values.numel() : end].reshape(packed.values.shape)
    ]
    return unpacked, values[ends[-1] if ends else 0 :].tolist()


def _unpack_rank(packed: PackedPass, values: Floats) -> UnpackedPass:
    layout = packed.layout
    size, layers = sum(layout.sizes), len(layout.names)
    counts: Floats = np.array(packed.counts, dtype=np.float64)
    if values.size > packed.length:  # the rank's own counts stand before its values
        counts, values = values[:layers], values[layers:]
    shift, total, squares = values[: 3 * size].reshape(3, size)
    active, near = np.full((2, size), np.nan)
    rest = 3 * size
    for counts_of, where in ((active, layout.counted_units), (near, layout.near_units)):
        start, rest = rest, rest + int(where.sum())
        counts_of[where] = values[start:rest]
    products, learned = values[rest : rest + len(packed.sums)], iter(values[rest + len(packed.sums) :].tolist())
    factors: Floats = np.array([next(learned) if factor is None else factor for factor in packed.factors], np.float64)
    return UnpackedPass(
        Units.from_sums(layout, counts, shift, total, squares, active, near), packed.sums, products, factors
    )
