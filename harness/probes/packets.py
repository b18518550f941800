"""What one forward pass leaves, as one tensor on the device; across ranks, and back to the layers on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from harness.probes.readings import Floats, Layout, Units, layout_of
from harness.probes.taps import Found


@dataclass(frozen=True)
class Packet:
    """One forward pass of every rank: values (ranks, length), or (ranks, P + length) with each rank's counts in front.

    factors: alpha of each residual sum, NaN where none is known, None where it is among the values.
    """

    layout: Layout
    counts: tuple[int, ...]
    sums: tuple[str, ...]
    factors: tuple[float | None, ...]
    length: int
    values: Tensor


@dataclass(frozen=True)
class Part:
    """One forward pass of one rank on the host.

    sums: names of residual sums; products: <skip, branch> of each, and factors: alpha, NaN where none is known, (S,).
    """

    units: Units
    sums: tuple[str, ...]
    products: Floats
    factors: Floats


def pack(found: Sequence[Found], group: Any = None) -> Packet:
    """Lay what was found end to end; with a process group what all its ranks found, which must be the same layers."""
    layout = layout_of(
        tuple(each.name for each in found),
        tuple(each.moments.total.numel() for each in found),
        tuple(each.moments.active is not None for each in found),
    )
    sums = [each for each in found if each.product is not None]
    factors = [each.factor for each in sums]
    device = found[0].moments.shift.device
    pieces = [each.moments.shift for each in found]
    pieces += [each.moments.total for each in found]
    pieces += [each.moments.squares for each in found]
    pieces += [each.moments.active for each in found if each.moments.active is not None]
    pieces += [each.product.reshape(1) for each in sums if each.product is not None]
    pieces += [factor.reshape(1) for factor in factors if isinstance(factor, Tensor)]
    values = torch.cat([piece.to(device) for piece in pieces])
    length = values.numel()
    counts = tuple(each.moments.positions for each in found)
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
    return Packet(layout, counts, tuple(each.name.removesuffix("/branch") for each in sums), known, length, values)


def unpack(packets: Sequence[Packet], extra: Tensor | None) -> tuple[list[Part], list[float]]:
    """Bring packets, and other doubles of the same step, to the host in one transfer: a part for each pass and rank."""
    pieces = [packet.values.double().flatten() for packet in packets] + ([] if extra is None else [extra])
    values = torch.cat([piece.to(pieces[0].device) for piece in pieces]).cpu().numpy()
    ends = list(accumulate(packet.values.numel() for packet in packets))
    parts = [
        _part(packet, row)
        for packet, end in zip(packets, ends, strict=True)
        for row in values[end - packet.values.numel() : end].reshape(packet.values.shape)
    ]
    return parts, values[ends[-1] if ends else 0 :].tolist()


def _part(packet: Packet, values: Floats) -> Part:
    layout = packet.layout
    size, layers = sum(layout.sizes), len(layout.names)
    counts: Floats = np.array(packet.counts, dtype=np.float64)
    if values.size > packet.length:  # the rank's own counts stand before its values
        counts, values = values[:layers], values[layers:]
    shift, total, squares = values[: 3 * size].reshape(3, size)
    active = np.full(size, np.nan)
    rest = 3 * size + int(layout.counted_units.sum())
    active[layout.counted_units] = values[3 * size : rest]
    products, learned = values[rest : rest + len(packet.sums)], iter(values[rest + len(packet.sums) :].tolist())
    factors: Floats = np.array([next(learned) if factor is None else factor for factor in packet.factors], np.float64)
    return Part(Units.from_sums(layout, counts, shift, total, squares, active), packet.sums, products, factors)
