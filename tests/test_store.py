"""The run directory: what is acknowledged is kept, what is damaged is named."""

import contextlib
import errno
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from harness import files, store
from harness.config import RunConfig
from harness.outcome import Detector
from harness.store import Damaged, Locked, RunDirectory, decode_row, encode_row
from tests.analysis_folders import config, counted, quickstart_fate, survived, write_grid, write_run
from tests.runs import tiny

OUTCOME = Detector(event="died").outcome(30)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "runs" / tiny().run_id)
    with run.lock():
        run.write_config(tiny(), {"command": "test"})
    return run


def test_rows_come_back_with_their_non_finite_values(run: RunDirectory) -> None:
    rows = [
        {"step": 0, "train/loss": math.inf, "count": 3},
        {"step": 1, "train/loss": -math.inf},
        {"step": 2, "train/loss": math.nan, "only/here": 0.5},
    ]
    for row in rows:
        run.append(row)
    open_rows = run.rows()
    run.finish(OUTCOME)
    for read in (open_rows, run.rows()):
        assert [row["step"] for row in read] == [0, 1, 2]
        assert [row["train/loss"] for row in read[:2]] == [math.inf, -math.inf]
        assert math.isnan(read[2]["train/loss"])
        assert "only/here" not in read[0] and read[2]["only/here"] == 0.5
        assert isinstance(read[0]["count"], int)


def test_encoded_rows_are_json_that_others_read() -> None:
    assert json.loads(encode_row({"step": 1, "x": math.nan}))["x"] == "NaN"
    assert math.isnan(decode_row(encode_row({"step": 1, "x": math.nan}))["x"])


def test_the_outcome_is_there_last_and_makes_the_run_finished(run: RunDirectory) -> None:
    run.append({"step": 0, "train/loss": 1.5})
    assert run.state() == "pending"
    run.finish(OUTCOME)
    assert run.state() == "finished"
    outcome, metrics = run.outcome()
    assert outcome == OUTCOME
    assert metrics == {"step": 0, "train/loss": 1.5}
    assert not run.file("metrics.jsonl").exists()
    store.verify(run)


def test_a_torn_last_line_was_not_acknowledged_and_is_dropped(run: RunDirectory) -> None:
    run.append({"step": 0, "x": 1.0})
    with run.file("metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "x"')
    assert [row["step"] for row in run.rows()] == [0]
    assert [row["step"] for row in run.reopen()] == [0]
    run.append({"step": 1, "x": 2.0})
    assert [row["step"] for row in run.rows()] == [0, 1]


def write_rows(path: Path, ready: str) -> None:
    step = 0
    while True:
        RunDirectory(path).append({"step": step, "x": 1.0})
        Path(ready).write_text(str(step))
        step += 1


def test_sigkill_loses_no_acknowledged_row(tmp_path: Path) -> None:
    ready = tmp_path / "acknowledged"
    process = multiprocessing.get_context("spawn").Process(target=write_rows, args=(tmp_path, str(ready)))
    process.start()
    while not ready.exists() or int(ready.read_text() or 0) < 200:
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    acknowledged = int(ready.read_text() or 0)
    assert [row["step"] for row in RunDirectory(tmp_path).rows()][: acknowledged + 1] == list(range(acknowledged + 1))


def hold(path: Path, ready: str) -> None:
    with RunDirectory(path).lock():
        Path(ready).touch()
        time.sleep(60)


def test_a_run_is_claimed_by_one_process_and_free_again_when_that_is_killed(tmp_path: Path) -> None:
    run, ready = RunDirectory(tmp_path / "run"), tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(run.path, str(ready)))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    assert run.state() == "running"
    with pytest.raises(Locked, match=f"process {process.pid}"), run.lock():
        pass
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run.state() == "pending"
    with run.lock():
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"outcome": "died"}', b"\xff\xfe"])
def test_a_damaged_outcome_is_named(run: RunDirectory, content: bytes) -> None:
    run.finish(OUTCOME)
    run.file("outcome.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"outcome\.json"):
        store.verify(run)


def test_damaged_sealed_rows_are_named(run: RunDirectory) -> None:
    run.append({"step": 0, "x": 1.0})
    run.finish(OUTCOME)
    sealed = bytearray(run.file("metrics.parquet").read_bytes())
    sealed[len(sealed) // 2] ^= 1
    run.file("metrics.parquet").write_bytes(sealed)
    with pytest.raises(Damaged, match=r"metrics\.parquet"):
        store.verify(run)


def test_damaged_open_rows_are_named_with_their_line(run: RunDirectory) -> None:
    run.append({"step": 0})
    with run.file("metrics.jsonl").open("ab") as file:
        file.write(b"\x00\x00\n")
    with pytest.raises(Damaged, match=r"metrics\.jsonl: damaged: line 2"):
        store.verify(run)


def test_what_is_set_aside_is_kept_and_the_run_starts_anew(run: RunDirectory) -> None:
    run.append({"step": 0})
    run.finish(OUTCOME)
    folder = run.set_aside()
    assert run.state() == "pending"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "metrics.parquet", "outcome.json"]
    assert run.set_aside() != folder


def test_the_index_has_every_configuration_field_and_the_last_metrics(run: RunDirectory, tmp_path: Path) -> None:
    run.append({"step": 0, "train/loss": 2.0, "val/accuracy": 0.5})
    run.append({"step": 5, "train/loss": 1.0})
    run.finish(OUTCOME)
    waiting = tiny(seed=7)
    found = store.index(tmp_path, [tiny(), waiting])
    assert not found.damaged and not found.foreign
    rows = [*found.rows, *found.pending]
    assert [(row["run_id"], row["state"], row["seed"]) for row in rows] == [
        (tiny().run_id, "finished", 0),
        (waiting.run_id, "pending", 7),
    ]
    assert rows[0]["outcome"] == "survived" and rows[0]["outcome_step"] == 30
    assert rows[0]["model.width"] == 0.25 and rows[0]["model.repeats"] == "1/1/1" and rows[0]["optim.lr"] == 0.05
    assert rows[0]["train/loss"] == 1.0 and rows[0]["val/accuracy"] == 0.5
    store.write_index(tmp_path, [tiny(), waiting])
    import pandas as pd

    index = tmp_path / "index.parquet"
    assert len(pd.read_parquet(index)) == 2
    os.utime(index, (1, 1))
    store.write_index(tmp_path, [tiny(), waiting])
    assert index.stat().st_mtime == 1  # nothing has changed: `make` need not draw the report again
    store.write_index(tmp_path)
    assert len(pd.read_parquet(index)) == 1 and index.stat().st_mtime > 1


# -- the index that is on disk is taken for the runs as long as it says what they say ------------------------------------


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A folder of finished runs with its index."""
    write_grid(tmp_path, quickstart_fate, widths=[0.125], scales=[1.0, 0.1], seeds=[0, 1])
    store.write_index(tmp_path)
    return tmp_path


def changed(out: Path, name: str, old: str, new: str) -> None:
    """Rewrite a file of the first run, and let it look as old as it was."""
    path = store.runs(out)[0].file(name)
    before, text = path.stat(), path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_index_up_to_date_spares_reading_the_configurations(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as stored:
        taken = store.index(indexed)
    (indexed / "index.parquet").unlink()
    with counted(monkeypatch) as read:
        made = store.index(indexed)
    assert (stored["resolved"], read["resolved"]) == (0, 4)
    assert taken == made
    assert [[type(value) for value in row.values()] for row in taken.rows] == [
        [type(value) for value in row.values()] for row in made.rows
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "column", "value"),
    [
        ("outcome.json", '"outcome": "survived"', '"outcome": "diverged"', "outcome", "diverged"),
        ("outcome.json", '"train/loss": 2.0999999999999996', '"train/loss": 7.5', "train/loss", 7.5),
        ("config.json", '"lr": 0.5', '"lr": 0.25', "optim.lr", 0.25),
    ],
)
def test_an_index_older_than_a_file_is_not_believed(
    indexed: Path, name: str, old: str, new: str, column: str, value: object
) -> None:
    assert store.index(indexed).rows[0][column] != value
    changed(indexed, name, old, new)
    assert store.index(indexed).rows[0][column] == value


def test_runs_that_came_or_went_are_seen_beside_an_index(indexed: Path) -> None:
    names = [run.run_id for run in store.runs(indexed)]
    new = write_run(indexed, config(seed=9), None, failure="out of memory")
    assert {row["run_id"]: row["state"] for row in store.index(indexed).rows}[new.run_id] == "failed"
    shutil.rmtree(new.path)
    assert [row["run_id"] for row in store.index(indexed).rows] == names
    shutil.rmtree(store.runs(indexed)[0].path)
    assert [row["run_id"] for row in store.index(indexed).rows] == names[1:]


def test_an_index_of_another_version_is_not_believed(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.store.output_folder._version", lambda: b"newer")
    with counted(monkeypatch) as counts:
        store.index(indexed)
    assert counts["resolved"] == 4


def test_an_index_damaged_in_any_byte_changes_nothing(indexed: Path) -> None:
    path, made = indexed / "index.parquet", store.index(indexed)
    content = path.read_bytes()
    for place in (*range(0, len(content), 97), *range(len(content) - 200, len(content))):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert store.index(indexed) == made, place
    for length in range(0, len(content), 501):
        path.write_bytes(content[:length])
        assert store.index(indexed) == made, length


def test_numbers_that_stand_among_texts_come_from_the_runs(tmp_path: Path) -> None:
    for scale in (1.0, (0.3, 0.2, 0.1)):
        write_run(tmp_path, config(scale=scale), survived())
    store.write_index(tmp_path)
    assert {row["model.residual_scale"] for row in store.index(tmp_path).rows} == {1.0, "0.3/0.2/0.1"}


def test_a_run_of_an_older_version_is_recognised_by_resolving_its_configuration(tmp_path: Path) -> None:
    config = tiny()
    old = RunDirectory(tmp_path / "runs" / "0ldname")
    with old.lock():
        old.write_config(config, {})
    stored = json.loads(old.file("config.json").read_text())
    del stored["config"]["train"]["stop_at_death"]  # the field is newer than the run
    old.file("config.json").write_text(json.dumps(stored))
    assert store.folders(tmp_path, [config]) == {config.run_id: old}
    assert store.folders(tmp_path, [tiny(seed=1)])[tiny(seed=1).run_id].path.name == tiny(seed=1).run_id
    found = store.index(tmp_path, [config])
    assert [row["run_id"] for row in found.rows] == ["0ldname"] and not found.pending and not found.foreign


def test_a_run_that_continues_keeps_its_first_provenance(run: RunDirectory) -> None:
    run.append({"step": 0})
    run.write_config(tiny(), {"command": "again"})
    assert run.provenance() == {"command": "test", "continued": [{"command": "again"}]}


def test_a_failure_is_remembered_until_the_run_is_tried_again(run: RunDirectory) -> None:
    run.fail("ValueError: no", "traceback")
    assert (run.state(), run.failure()) == ("failed", "ValueError: no")
    run.forget_failure()
    assert (run.state(), run.failure()) == ("pending", None)


def test_a_finished_run_is_adopted_whole(run: RunDirectory, tmp_path: Path) -> None:
    run.append({"step": 0})
    run.finish(OUTCOME)
    other = RunDirectory(tmp_path / "other" / "runs" / run.run_id)
    store.adopt(other, run)
    store.verify(other)
    assert other.state() == "finished" and other.config() == RunConfig.model_validate(tiny().model_dump())


class Full:
    """A disk with room for so many bytes more."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1000, 5000])
def test_a_disk_that_fills_up_in_a_checkpoint_is_named_and_the_old_one_stays(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Torch's own words for it are `unexpected pos`."""
    run.write_checkpoint({"step": 0, "run_id": run.run_id, "weights": torch.zeros(10)})
    replacing = files.replacing

    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Any]:
        with replacing(path) as file:
            yield Full(file, room)

    monkeypatch.setattr("harness.store.run_directory.replacing", full)
    with pytest.raises(OSError) as found:
        run.write_checkpoint({"step": 1, "run_id": run.run_id, "weights": torch.zeros(10_000)})
    words = files.explain_system(found.value)
    assert words == f"{run.file('checkpoint.pt')}: No space left on device (free some space)"
    monkeypatch.undo()
    state = run.checkpoint()
    assert state is not None and state["step"] == 0
    assert list(run.path.glob(files.TEMPORARY)) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "choose another --out"),
        (errno.ENOLCK, "local disk"),
        (errno.EIO, ""),
    ],
)
def test_a_system_error_names_the_file_the_cause_and_the_remedy(number: int, remedy: str) -> None:
    words = files.explain_system(OSError(number, "x", "out/runs/a/metrics.jsonl"))
    assert words.startswith(f"out/runs/a/metrics.jsonl: {os.strerror(number)}") and remedy in words


def test_a_file_that_may_not_grow_is_named(tmp_path: Path) -> None:
    code = (
        "import resource, signal; from pathlib import Path; from harness.store import RunDirectory\n"
        "from harness.files import explain_system\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "run = RunDirectory(Path('.')); run.append({'step': 0})\n"
        "try:\n    run.append({'step': 1, 'x' * 200: 1.0})\n    run.append({'step': 2})\n"
        "except OSError as error: print(explain_system(error))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "metrics.jsonl" in done.stdout
