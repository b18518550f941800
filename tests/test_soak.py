"""A short soak: nothing is lost of a sweep that is killed, and what would be lost is seen."""

from pathlib import Path

import pytest

from harness.bench import soak as bench
from harness.bench.soak import Soak, soak
from harness.cli import main
from tests.runs import tiny_sweep


@pytest.mark.slow
def test_a_sweep_that_is_disturbed_in_every_way_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "soak", str(tiny_sweep(tmp_path, 120)), "--times", "4", "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("local: 4 disturbances (")
    assert "rows lost 0, runs that differ 0, done twice 0, orphan processes 0, temporary files 0" in said


@pytest.mark.slow
def test_a_row_that_changes_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(process: object, out: Path, dice: object) -> bool:
        """Give a run that waits for its next start another first row."""
        for path in out.glob("runs/*/metrics.jsonl"):
            path.write_bytes(path.read_bytes().replace(b'"step": 0', b'"spoilt": 1, "step": 0', 1))
            return True
        return False

    monkeypatch.setattr(bench, "_KINDS", {"spoilt": spoil})
    monkeypatch.setattr(bench, "_OF_DISKS", {})
    found = soak(tiny_sweep(tmp_path, 120), ("local", "--workers", "1"), 1)
    assert not found.sound and found.differing == 1


def test_anything_wrong_is_unsound() -> None:
    assert Soak("local").sound
    for wrong in ("lost_rows", "differing", "done_twice", "orphans", "temporary"):
        assert not Soak("local", **{wrong: 1}).sound  # type: ignore[arg-type]
