"""Whatever becomes of a run's files: named, set aside, and the run repeated to the rows that an undisturbed one has."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.outcome import Outcome
from harness.sinks.sink import Histogram
from harness.store import Row, RunDirectory
from harness.sweep.work import Report, Task, work
from tests.runs import timeless, tiny

CONFIG, OTHER = (
    tiny(
        seed=seed,
        data={"image_size": 8, "num_images": 32},
        train={"steps": 20},
        probes={"preset": "blocks", "every": 5, "probe_set_every": 10},
    )
    for seed in (0, 1)
)
Damage = Callable[[RunDirectory], None]


class Stop:
    """A sink that ends the training with an error once a row of this step is written."""

    wants_histogram = False

    def __init__(self, step: int) -> None:
        self._step = step

    def row(self, step: int, metrics: Mapping[str, Any], histogram: Histogram | None) -> None:
        if step >= self._step:
            raise RuntimeError("stopped")

    def close(self, outcome: Outcome | None) -> None:
        pass


def do(folder: Path, config: Any = CONFIG, stop: int | None = None) -> Report:
    """Do a run, or a part of it."""
    return work(Task(config, folder, "test", None), (lambda: []) if stop is None else (lambda: [Stop(stop)]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and one that was stopped at step 15, its checkpoint of step 10; and another one of each."""
    out = tmp_path_factory.mktemp("runs")
    for config, name in ((CONFIG, ""), (OTHER, "other-")):
        assert do(out / f"{name}whole" / config.run_id, config).state == "finished"
        assert do(out / f"{name}half" / config.run_id, config, stop=15).state == "failed"
    return out


@pytest.fixture(scope="module")
def rows(runs: Path) -> list[Row]:
    return timeless(RunDirectory(runs / "whole" / CONFIG.run_id).rows())


def lines(run: RunDirectory) -> list[bytes]:
    return run.file("metrics.jsonl").read_bytes().splitlines(keepends=True)


def with_lines(change: Callable[[list[bytes]], Sequence[bytes]]) -> Damage:
    def damage(run: RunDirectory) -> None:
        run.file("metrics.jsonl").write_bytes(b"".join(change(lines(run))))

    return damage


def with_checkpoint(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(run: RunDirectory) -> None:
        state = torch.load(run.file("checkpoint.pt"), weights_only=True)
        torch.save(change(state), run.file("checkpoint.pt"))

    return damage


def not_finite(state: dict[str, Any]) -> dict[str, Any]:
    next(iter(state["model"].values())).fill_(float("nan"))
    return state


def narrower(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"model": {name: tensor[:1] if tensor.ndim else tensor for name, tensor in state["model"].items()}}


def in_place_of(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(run: RunDirectory) -> None:
        path = run.file(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return damage


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def of_the_other(name: str) -> Damage:
    def damage(run: RunDirectory) -> None:
        kind = "whole" if run.file("outcome.json").exists() else "half"
        other = run.path.parent.parent / f"other-{kind}" / OTHER.run_id / name
        shutil.copy(other, run.file(name))

    return damage


ROW = b'{"step": STEP, "train/loss": 1.0}\n'
OPEN: dict[str, tuple[str, Damage]] = {
    "rows missing": ("metrics.jsonl", lambda run: run.file("metrics.jsonl").unlink()),
    "rows cut": ("metrics.jsonl", with_lines(lambda each: each[:1])),
    "a row gone before the checkpoint": ("metrics.jsonl", with_lines(lambda each: [each[0], *each[2:]])),
    "a row gone after the checkpoint": ("metrics.jsonl", with_lines(lambda each: [*each[:-2], each[-1]])),
    "a row twice": ("metrics.jsonl", with_lines(lambda each: [*each[:2], each[1], *each[2:]])),
    "rows out of order": ("metrics.jsonl", with_lines(lambda each: [each[1], each[0], *each[2:]])),
    "a row of the far future": ("metrics.jsonl", with_lines(lambda each: [*each, ROW.replace(b"STEP", b"1000000")])),
    "a row that never was": ("metrics.jsonl", with_lines(lambda each: [*each, ROW.replace(b"STEP", b"17")])),
    "a row with less in it": ("metrics.jsonl", with_lines(lambda each: [*each[:-1], ROW.replace(b"STEP", b"15")])),
    "a row of step true": ("metrics.jsonl", with_lines(lambda each: [*each, ROW.replace(b"STEP", b"true")])),
    "a row of a huge step": ("metrics.jsonl", with_lines(lambda each: [*each, ROW.replace(b"STEP", b"1" * 30)])),
    "a value that is a list": ("metrics.jsonl", with_lines(lambda each: [*each, b'{"step": 20, "x": [1]}\n'])),
    "a line that is none": ("metrics.jsonl", with_lines(lambda each: [*each[:1], b"\x00\xff\n", *each[1:]])),
    "a line that nests deep": ("metrics.jsonl", with_lines(lambda each: [*each, b"[" * 100_000 + b"\n"])),
    "another run's rows": ("metrics.jsonl", of_the_other("metrics.jsonl")),
    "rows a folder": ("metrics.jsonl", in_place_of("metrics.jsonl", Path.mkdir)),
    "rows a looping link": ("metrics.jsonl", in_place_of("metrics.jsonl", loop)),
    "another run's checkpoint": ("checkpoint.pt", of_the_other("checkpoint.pt")),
    "an empty checkpoint": ("checkpoint.pt", with_checkpoint(lambda state: {})),
    "a checkpoint without an optimizer": ("checkpoint.pt", with_checkpoint(lambda state: state | {"optimizer": {}})),
    "a checkpoint of other shapes": ("checkpoint.pt", with_checkpoint(narrower)),
    "a checkpoint that is not finite": ("checkpoint.pt", with_checkpoint(not_finite)),
    "a checkpoint of step true": ("checkpoint.pt", with_checkpoint(lambda state: state | {"step": True})),
    "a checkpoint of a step before 0": ("checkpoint.pt", with_checkpoint(lambda state: state | {"step": -1})),
    "a checkpoint that is a list": ("checkpoint.pt", with_checkpoint(lambda state: [1])),
    "a checkpoint of no bytes": ("checkpoint.pt", in_place_of("checkpoint.pt", Path.touch)),
    "a checkpoint a folder": ("checkpoint.pt", in_place_of("checkpoint.pt", Path.mkdir)),
    "a configuration a folder": ("config.json", in_place_of("config.json", Path.mkdir)),
    "a configuration that is none": ("config.json", in_place_of("config.json", lambda path: path.write_text("[]"))),
    "another run's configuration": ("config.json", of_the_other("config.json")),
    "a failure a folder": ("failure.json", in_place_of("failure.json", Path.mkdir)),
}
FINISHED: dict[str, tuple[str, Damage]] = {
    "the outcome gone": ("metrics.parquet", lambda run: run.file("outcome.json").unlink()),
    "the rows gone": ("metrics.parquet", lambda run: run.file("metrics.parquet").unlink()),
    "another run's rows": ("metrics.parquet", of_the_other("metrics.parquet")),
    "an outcome of no kind": ("outcome.json", lambda run: rewrite(run, outcome="exploded")),
    "an outcome without a step": ("outcome.json", lambda run: rewrite(run, step=None)),
    "an outcome of step true": ("outcome.json", lambda run: rewrite(run, last_step=True)),
    "an outcome with more": ("outcome.json", lambda run: rewrite(run, more=1)),
    "an outcome that is a list": ("outcome.json", in_place_of("outcome.json", lambda path: path.write_text("[1]"))),
    "an outcome a looping link": ("outcome.json", in_place_of("outcome.json", loop)),
    "the checkpoint gone": ("checkpoint.pt", lambda run: run.file("checkpoint.pt").unlink()),
    "the checkpoint cut": ("checkpoint.pt", lambda run: cut(run.file("checkpoint.pt"))),
    "another run's checkpoint": ("checkpoint.pt", of_the_other("checkpoint.pt")),
    "a byte of the checkpoint": ("checkpoint.pt", lambda run: flip(run.file("checkpoint.pt"))),
    "a byte of the timelines": ("timelines.npz", lambda run: flip(run.file("timelines.npz"))),
    "the timelines gone": ("timelines.npz", lambda run: run.file("timelines.npz").unlink()),
    "another run's configuration": ("config.json", of_the_other("config.json")),
}


def rewrite(run: RunDirectory, **changes: Any) -> None:
    path = run.file("outcome.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def copied(runs: Path, kind: str, target: Path) -> RunDirectory:
    for name in (kind, f"other-{kind}"):
        shutil.copytree(runs / name, target / name)
    return RunDirectory(target / kind / CONFIG.run_id)


@pytest.mark.parametrize("damage", OPEN)
def test_damage_of_a_run_that_goes_on(runs: Path, rows: list[Row], tmp_path: Path, damage: str) -> None:
    name, inflict = OPEN[damage]
    run = copied(runs, "half", tmp_path)
    inflict(run)
    report = do(run.path)
    assert report.state == "finished", report.message
    assert any(f"{name}: damaged: " in note and "set aside in damaged-1/" in note for note in report.notes), report
    assert timeless(run.rows()) == rows
    assert do(run.path).notes == (), "what was mended stays so"


@pytest.mark.parametrize("damage", FINISHED)
def test_damage_of_a_finished_run(runs: Path, rows: list[Row], tmp_path: Path, damage: str) -> None:
    name, inflict = FINISHED[damage]
    run = copied(runs, "whole", tmp_path)
    inflict(run)
    report = do(run.path)
    assert report.state == "finished", report.message
    assert any(f"{name}: damaged: " in note for note in report.notes), report
    assert timeless(run.rows()) == rows


@pytest.mark.parametrize("kind", ["half", "whole"])
def test_what_is_not_damaged_is_used_as_it_is(runs: Path, rows: list[Row], tmp_path: Path, kind: str) -> None:
    run = copied(runs, kind, tmp_path)
    report = do(run.path)
    assert (report.state, report.notes) == ("finished", ())
    assert timeless(run.rows()) == rows
    assert json.loads(run.file("config.json").read_text())["run_id"] == CONFIG.run_id


@pytest.mark.parametrize("make", [Path.touch, loop], ids=["file", "looping link"])
def test_something_in_the_place_of_the_folder_is_moved_away(
    rows: list[Row], tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / CONFIG.run_id)
    assert do(tmp_path / CONFIG.run_id).state == "finished"
    assert timeless(RunDirectory(tmp_path / CONFIG.run_id).rows()) == rows
    assert [path.name for path in tmp_path.iterdir() if path.name != CONFIG.run_id] == [f".{CONFIG.run_id}.damaged-1"]


def test_a_folder_in_the_place_of_the_lease_is_in_nobodys_way(runs: Path, rows: list[Row], tmp_path: Path) -> None:
    run = copied(runs, "half", tmp_path)
    in_place_of("lease-1", Path.mkdir)(run)
    assert do(run.path).state == "finished"
    assert timeless(run.rows()) == rows


def test_what_killed_processes_were_writing_is_removed(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, "half", tmp_path)
    left = run.file(".checkpoint.pt.1234.tmp")
    left.write_bytes(b"a part")
    assert do(run.path).state == "finished"
    assert not left.exists()


def test_rows_of_other_instruments_are_made_anew_from_the_checkpoint_on(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, "half", tmp_path)
    denser = CONFIG.model_copy(update={"probes": CONFIG.probes.model_copy(update={"every": 1})})
    report = do(run.path, denser)
    assert (report.state, report.notes) == ("finished", ())
    assert [row["step"] for row in run.rows()] == [0, 1, 2, 4, 5, 8, *range(10, 21)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["half", "whole"])
def test_bytes_changed_at_random_never_give_other_rows(
    runs: Path, rows: list[Row], tmp_path: Path, kind: str, seed: int
) -> None:
    run, chance = copied(runs, kind, tmp_path), random.Random(seed)
    path = chance.choice(sorted(each for each in run.path.iterdir() if each.stat().st_size))
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    end = start + chance.randint(1, 50)
    change = chance.choice(["flip", "delete", "double", "zero"])
    if change == "flip":
        content[start] ^= 1 << chance.randrange(8)
    elif change == "delete":
        del content[start:end]
    elif change == "double":
        content[start:start] = content[start:end]
    else:
        content[start:end] = bytes(len(content[start:end]))
    path.write_bytes(bytes(content))
    report = do(run.path)
    assert report.state == "finished", (path.name, change, report.message)
    found = timeless(run.rows())
    if path.name == "metrics.jsonl" and not report.notes:  # a digit of a value in a row after the checkpoint
        assert [row["step"] for row in found] == [row["step"] for row in rows]
    else:
        assert found == rows, (path.name, change)
