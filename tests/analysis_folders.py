"""Output folders with known outcomes, written through the store as training writes them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import architectures
from harness.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from harness.outcome import Event, Outcome, OutcomeName
from harness.store import RunDirectory, runs

STEPS = 200
PROVENANCE = {
    "command": "harness sweep experiments/quickstart.yaml --out out/quickstart",
    "git": {"revision": "0123456789abcdef", "dirty": False},
    "versions": {"python": "3.11.2", "torch": "2.14.1"},
    "device": "cpu",
}


def config(width: float = 0.125, scale: float | tuple[float, ...] = 1.0, seed: int = 0, lr: float = 0.5) -> RunConfig:
    """A run of the quickstart's kind."""
    return RunConfig(
        seed=seed,
        model=ModelConfig(width=width, repeats=(2, 4, 2), residual_scale=scale),
        data=DataConfig(name="digits"),
        optim=OptimConfig(lr=lr),
        train=TrainConfig(steps=STEPS),
    )


def outcome(verdict: OutcomeName, step: int, live: int | None = None) -> Outcome:
    """An outcome with its event in (live, step], or survival to `step`."""
    happened = verdict in ("died", "collapsed")
    event: Event = "collapsed" if verdict == "collapsed" else "died"
    return Outcome(
        outcome=verdict,
        step=step,
        last_live_step=step if verdict == "survived" else live,
        collapsed_step=step if happened else None,
        collapsed_last_live_step=live if happened else None,
        revival_step=None,
        event=event,
        last_step=min(step + 20, STEPS) if happened else step,
        reason=f"{verdict} at step {step}",
    )


def died(step: int) -> Outcome:
    """Death found at `step`, ten steps after the last live check."""
    return outcome("died", step, step - 10)


def survived(step: int = STEPS) -> Outcome:
    """Alive at `step`."""
    return outcome("survived", step)


def rows(units: int, end: Outcome, every: int = 10, alive_share: float = 0.1) -> Iterable[dict[str, Any]]:
    """Rows whose dead share climbs linearly to 1 at the outcome's step, or to `alive_share` in a survivor."""
    top = 1.0 if end.outcome in ("died", "collapsed") else alive_share
    for step in range(0, end.last_step + 1, every):
        share = round(top * min(1.0, step / max(end.step, 1)), 4)
        row: dict[str, Any] = {
            "step": step,
            "train/loss": 2.3 - 0.001 * step,
            "prepool/units": units,
            "prepool/dead_units_batch": round(units * share),
            "prepool/dead_share_batch": share if end.outcome != "collapsed" else 0.0,
            "prepool/inert_share_batch": share,
            "time/elapsed": 0.02 * step,
        }
        if step % 100 == 0 or step + every > end.last_step:
            row |= {"prepool/dead_share_probe": row["prepool/dead_share_batch"], "val/accuracy": 0.1 + 0.001 * step}
            row |= {"prepool/inert_share_probe": share}
        yield row


def write_run(
    out: Path, run: RunConfig, end: Outcome | None, failure: str | None = None, name: str = ""
) -> RunDirectory:
    """A run that finished with `end`, or one that failed or is still to be continued where there is none.

    `name` is that of its folder, where it is not that of its configuration, as with a run of an older version.
    """
    directory = RunDirectory(out / "runs" / (name or run.run_id))
    with directory.lock():
        directory.write_config(run, PROVENANCE)
        for row in rows(round(run.model.width * 2080), end or survived(50)):
            directory.append(row)
        if end is not None:
            directory.finish(end)
        elif failure is not None:
            directory.fail(failure, "Traceback ...")
    return directory


def write_grid(
    out: Path,
    fate: Callable[[float, float, int], Outcome],
    widths: Iterable[float] = (1 / 16, 1 / 8, 1 / 4),
    scales: Iterable[float] = (1.0, 0.3, 0.1),
    seeds: Iterable[int] = (0, 1, 2),
) -> Path:
    """A finished sweep over width, residual scale and seed, each run with the outcome that `fate` gives it."""
    for width in widths:
        for scale in scales:
            for seed in seeds:
                write_run(out, config(width, scale, seed), fate(width, scale, seed))
    return out


def quickstart_fate(width: float, scale: float, seed: int) -> Outcome:
    """All die at scale 1, seed 1 does at 0.3 where the net is wide, none does at 0.1."""
    if scale == 1.0:
        return died(round(width * 400) // 10 * 10 + 30 + 20 * seed)
    if scale == 0.3 and seed == 1 and width > 1 / 16:
        return died(20)
    return survived()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How many configurations are resolved, and identities made, in the block."""
    counts: Counter[str] = Counter()
    resolve, sha256 = architectures.resolve, hashlib.sha256

    def resolving(config: ModelConfig, image_size: int) -> tuple[ModelConfig, list[tuple[str, str]]]:
        counts["resolved"] += 1
        return resolve(config, image_size)

    def hashing(content: bytes) -> Any:
        counts["hashed"] += 1
        return sha256(content)

    with monkeypatch.context() as patched:
        patched.setattr("harness.architectures.resolve", resolving)
        patched.setattr("harness.config.run.hashlib", SimpleNamespace(sha256=hashing))
        yield counts


def damage(out: Path, name: str, which: int = 0) -> RunDirectory:
    """Damage one run: overwrite a file of its folder with bytes that are no such file."""
    damaged = runs(out)[which]
    damaged.file(name).write_bytes(b"\x00 not what it was")
    return damaged
