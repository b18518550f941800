"""Whether what a run's folder holds can be used: of the right run, whole, in order, and fitting together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.store.damage import Damaged
from harness.store.run_directory import FILES, RunDirectory, seal_of


def verify(run: RunDirectory) -> None:
    """Read what a run holds. Raises Damaged, naming the file, for what is not what this run wrote.

    Of a finished run the outcome, the configuration and every sealed file; of one that is not, the rows, the
    checkpoint and whether they belong together.
    """
    for name in FILES:
        path = run.file(name)
        if os.path.lexists(path) and not path.is_file():
            raise Damaged(path, "not a file")
    if run.file("config.json").exists():
        run.config()
    if run.file("outcome.json").exists():
        _verify_finished(run)
    else:
        _verify_open(run)


def _verify_finished(run: RunDirectory) -> None:
    run.outcome()
    run.config()
    run.sealed_rows()
    for name, seal in run.sealed_outcome().get("sealed", {}).items():
        _verify_seal(run.file(name), seal)


def _verify_seal(path: Path, seal: Mapping[str, Any]) -> None:
    """A file whose size and time of change are those of its seal is taken to be the same."""
    if not path.exists():
        raise Damaged(path, "missing, though the run is finished")
    stat = path.stat()
    if stat.st_size != seal["size"]:
        raise Damaged(path, f"{stat.st_size} bytes, {seal['size']} were sealed")
    if stat.st_mtime_ns != seal["mtime_ns"] and seal_of(path)["sha256"] != seal["sha256"]:
        raise Damaged(path, "its content is not what was sealed")


def _verify_open(run: RunDirectory) -> None:
    rows, path = run.open_rows(), run.file("metrics.jsonl")
    if run.file("metrics.parquet").exists() and not path.exists():
        raise Damaged(run.file("metrics.parquet"), "sealed rows of a run without an outcome")
    checkpoint = run.checkpoint()
    if checkpoint is None:
        return
    _verify_finite(run.file("checkpoint.pt"), checkpoint)
    known = checkpoint.get("rows")
    if known is None:  # of a version that did not keep it
        if checkpoint["step"] > 0 and not rows:
            raise Damaged(path, f"no rows, though the checkpoint is of step {checkpoint['step']}")
        return
    content = path.read_bytes() if path.exists() else b""
    if len(content) < known["bytes"]:
        raise Damaged(path, f"{len(content)} bytes, the checkpoint was written after {known['bytes']}")
    if hashlib.sha256(content[: known["bytes"]]).hexdigest() != known["sha256"]:
        raise Damaged(path, "its rows are not those that the checkpoint was written after")


def _verify_finite(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Weights that are not finite are damage where nothing of the run had diverged."""
    import torch

    if (checkpoint.get("detector") or {}).get("diverged_step") is not None:
        return
    losses = checkpoint.get("losses")
    if isinstance(losses, torch.Tensor) and not bool(torch.isfinite(losses).all()):
        return
    for name, tensor in (checkpoint.get("model") or {}).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Damaged(path, f"{name} is not finite")
