"""What `harness evaluate` does: load, classify with progress, and put the result beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.config import RunConfig
from harness.data.dataset import load_held_out
from harness.evaluation.evaluate import BATCH_SIZE, Errors, evaluate
from harness.evaluation.members import Weights, common_data, load_member
from harness.evaluation.protocols import Protocol, views
from harness.evaluation.published import beside
from harness.evaluation.table import comparison
from harness.store import RunDirectory

PLAIN_LINES = 10
"""Lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated, and how it came out. One entry of `sources`, `networks` and `weights` for each network."""

    sources: tuple[str, ...]
    networks: tuple[str, ...]
    weights: tuple[str, ...]
    dataset: str
    protocol: Protocol
    errors: Errors

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        own = {name: value for name, value in vars(self).items() if name != "errors"}
        paper = [asdict(row) for row in beside(self.protocol, len(self.networks))]
        return own | self.errors.as_dict() | {"paper": paper}


def run_evaluation(
    sources: Sequence[Path],
    protocol: Protocol,
    device: torch.device,
    console: Console,
    *,
    weights: Weights = "averaged",
    settings: RunConfig | None = None,
    root: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Evaluate run directories or files of weights, several as an ensemble, and print a table beside the paper's.

    settings: the configuration of files of weights. root: the folder of the images, where it is not the one of the
    configuration. The result is kept in the first run directory, for its report. Raises InputError.
    """
    members = [load_member(source, device, weights=weights, settings=settings) for source in sources]
    data = common_data(members)
    if root is not None:
        data = data.model_copy(update={"root": root})
    part = load_held_out(data, device)
    with _progress(console, len(part)) as advance:
        errors = evaluate(
            [member.model for member in members],
            part,
            views(protocol, data.image_size, 1.0 if data.eval_crop is None else data.eval_crop),
            batch_size=batch_size,
            progress=advance,
        )
    networks = tuple(member.network for member in members)
    console.print(comparison(" + ".join(networks), errors, protocol, len(members), data.name))
    if errors.images < len(part):
        console.print(f"{len(part) - errors.images} of {len(part)} images could not be read and were left out")
    found = tuple(member.weights for member in members)
    evaluation = Evaluation(tuple(str(source) for source in sources), networks, found, data.name, protocol, errors)
    if sources[0].is_dir():
        RunDirectory(sources[0]).add_evaluation(evaluation.as_dict())
    return evaluation


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line now and then."""
    if console.is_terminal:
        columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done * PLAIN_LINES // max(total, 1) > told:
            told = done * PLAIN_LINES // max(total, 1)
            console.print(f"{done} of {total} images")

    yield tell
