"""An evaluation as a table beside the paper's figures."""

from __future__ import annotations

from rich.table import Table

from harness.evaluation.evaluate import Errors
from harness.evaluation.protocols import Protocol
from harness.evaluation.published import NOTES, beside


def comparison(name: str, errors: Errors, protocol: Protocol, networks: int, dataset: str) -> Table:
    """Top-1 and top-5 error in percent with 95 % Wilson intervals, above the paper's rows for the protocol."""
    rows = beside(protocol, networks)
    notes = [f"Table {table}: {NOTES[table]}" for table in sorted({row.table for row in rows})]
    if dataset != "imagefolder":
        notes.insert(0, f"the paper's figures are for ImageNet, not for {dataset}")
    table = Table(box=None, pad_edge=False, caption="\n".join(notes), caption_justify="left", header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("network", no_wrap=True)
    table.add_column("protocol", no_wrap=True)
    for column in ("networks", "images", "top-1 error %", "top-5 error %"):
        table.add_column(column, justify="right", no_wrap=True)
    rates = (errors.rate(errors.top1), errors.rate(errors.top5))
    shown = [f"{100 * rate:.2f} [{100 * low:.2f}, {100 * high:.2f}]" for rate, low, high in rates]
    table.add_row("ours", name, protocol, str(networks), f"{errors.images:,}", *shown)
    for row in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.1f}"
        table.add_row(f"Table {row.table}", row.network, row.protocol, str(row.networks), "", top1, f"{row.top5:.1f}")
    return table
