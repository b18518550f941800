"""`harness bench gpu`: its logic, on the CPU; `make gpu` runs it where a GPU is."""

import json
from pathlib import Path

import pytest

from harness import shipped
from harness.bench import gpu
from harness.bench.gpu import PARTS, Lab, Part, accept
from harness.cli import main
from harness.located import InputError


def test_an_unknown_part_and_a_missing_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--only: 'step' is unknown; parts: tests, arithmetic"):
        accept("cpu", only=["step"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU here; `--device cpu` runs"):
        accept("cuda")


def test_a_part_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(lab: Lab, part: Part) -> None:
        part.rows.append({"a": 1.5, "b": None})
        raise RuntimeError("it\nbroke")

    def counts(lab: Lab, part: Part) -> None:
        part.rows.append({"cores": 2})

    monkeypatch.setattr(gpu, "PARTS", {"breaks": breaks, "counts": counts})
    assert main(["bench", "gpu", "--device", "cpu", "--json", str(tmp_path / "gpu.json")]) == 1
    told = capsys.readouterr()
    assert "wrong: breaks: RuntimeError: it broke" in told.err and "cores\n  2\n" in told.out
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["name"] for part in written["parts"]] == ["breaks", "counts"]
    assert written["parts"][0]["rows"] == [{"a": 1.5, "b": None}] and written["machine"]["device"] == "CPU"


def test_nothing_is_begun_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", {"never": lambda lab, part: 1 / 0})
    (part,) = accept("cpu", minutes=0).parts
    assert part.left_out == ["the 0 minutes were over"] and not part.problems


def test_what_a_cpu_cannot_do_is_said() -> None:
    found = accept("cpu", only=["tests", "sync_batch_norm"])
    assert [part.left_out for part in found.parts] == [
        ["needs a GPU"],
        ["torch has no synchronised batch-norm on the CPU"],
    ]


def test_the_arithmetic_is_held_against_double_precision() -> None:
    (part,) = accept("cpu", only=["arithmetic"]).parts
    of_cpu, single, half = part.rows
    assert 0 < of_cpu["error of logits"] == single["error of logits"] < 1e-4 < half["error of logits"] < 1
    assert single["allowed"] == pytest.approx(10 * of_cpu["error of logits"]) and not part.problems


def test_what_is_not_right_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([(1e-9, 0.0), (1e-3, 0.0), (0.5, 0.0)])
    monkeypatch.setattr(gpu, "_errors", lambda found, exact: next(errors))
    (part,) = accept("cpu", only=["arithmetic"]).parts
    assert [words.split(":")[0] for words in part.problems] == ["float32", "bf16"]


def test_updates_are_timed_with_and_without_replicas() -> None:
    (part,) = accept("cpu", only=["updates"]).parts
    assert [row["replicas"] for row in part.rows] == [1, 20] and all(row["ms an update"] > 0 for row in part.rows)
    assert part.rows[1]["foretold MB"] > part.rows[0]["foretold MB"]


@pytest.mark.slow
def test_sweeps_by_the_number_of_workers_and_the_quickstart_on_both_devices() -> None:
    workers, both = accept("cpu", only=["per_gpu", "quickstart"]).parts
    assert [row["workers"] for row in workers.rows] == [2] and workers.rows[0]["runs/minute"] > 0
    assert [row["runs"] for row in both.rows] == [1, 1, 1] and not both.problems


@pytest.mark.slow
def test_steps_are_timed_beside_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.bench.step.WARM", 0)
    (part,) = accept("cpu", only=["steps"]).parts
    assert [row["way"] for row in part.rows] == ["harness", "timm as its users run it", "timm, channels-last"]
    assert part.rows[2]["of timm"] == 1 and not part.problems


@pytest.mark.slow
def test_a_network_is_compiled_only_while_there_is_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (part,) = accept("cpu", minutes=0.05, only=["compiled_steps"]).parts
    assert "were left, which are too few" in part.left_out[0]
    monkeypatch.setattr(gpu, "COMPILING", 0)
    (part,) = accept("cpu", minutes=0.02, only=["compiled_steps"]).parts
    assert "not compiled and timed in the 1 s" in part.left_out[0] and not part.rows and not part.problems
    monkeypatch.setattr("torch.compile", lambda network: network)
    gpu.compiled_step("inception_v3", "cpu", "75", "2", "1")
    ways = [row["way"] for row in json.loads(capsys.readouterr().out)]
    assert ways[0] == "harness, compiled"


def test_what_was_found_is_written_as_each_part_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"

    def killed(lab: Lab, part: Part) -> None:
        assert [part["name"] for part in json.loads(file.read_text())["parts"]] == ["first"]
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "PARTS", {"first": lambda lab, part: None, "killed": killed})
    assert main(["bench", "gpu", "--device", "cpu", "--json", str(file)]) == 130
    assert len(json.loads(file.read_text())["parts"]) == 1


def test_the_folder_of_cards_beside_the_results_is_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`harness claims experiments/results/*` names it too."""
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "card.json").write_text("{}")
    with pytest.raises(InputError, match="gpu"):
        from analysis.frames.results import read_all

        read_all([tmp_path / "gpu"])
    monkeypatch.setattr(shipped, "results", list)  # which are judged where no sweep is named
    assert main(["claims", str(tmp_path / "gpu"), "--json"]) == 0


def test_every_part_has_its_words() -> None:
    assert all(part.__doc__ for part in PARTS.values())
