"""The sweep and the results that come with the package, and the commands that use them."""

import json
from pathlib import Path

import pytest

from analysis.claims import CLAIMS
from analysis.report import findings
from harness import __version__, shipped
from harness.cli import main
from tests.runs import tiny_sweep


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"harness {__version__}\n"


@pytest.mark.slow
def test_quickstart_trains_the_shipped_sweep_and_draws_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = tiny_sweep(tmp_path)
    monkeypatch.setattr(shipped, "quickstart", lambda: sweep)
    monkeypatch.setattr("harness.sweep.executors.local.cpu_count", lambda: 1)  # one worker process to start
    assert main(["quickstart", "--dry-run"]) == 0
    assert "4 runs" in capsys.readouterr().out and not Path("out").exists()
    assert main(["quickstart"]) == 0
    assert Path("out/quickstart/report.html").is_file()
    assert main(["quickstart"]) == 0
    assert "4 runs, 4 finished before" in capsys.readouterr().out


def without_results() -> list[str]:
    """The claims whose rules are committed, and the results of whose sweeps are not yet."""
    return [
        claim.name
        for claim in CLAIMS
        if not all((findings.RESULTS / sweep / "sweep.yaml").is_file() for sweep in claim.sweeps)
    ]


def test_claims_without_a_folder_are_judged_by_the_shipped_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here by two of them; tests/test_wheel.py judges by all."""
    every = shipped.results()
    assert [folder.name for folder in every] == sorted(
        file.parent.name for file in findings.RESULTS.glob("*/sweep.yaml")
    )
    monkeypatch.setattr(shipped, "results", lambda: every[:2])
    assert main(["claims", "--json"]) == 0
    by_default = capsys.readouterr().out
    assert main(["claims", "--json", *map(str, every[:2])]) == 0
    assert by_default == capsys.readouterr().out
    told = json.loads(by_default)
    assert len(told) >= 20
    assert 0 < len([claim for claim in told if "Not judged" not in json.dumps(claim)]) < len(told)


def test_an_installation_without_them_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    assert main(["claims"]) == main(["quickstart"]) == 2
    claims, quickstart = capsys.readouterr().err.splitlines()
    assert "holds no results; give the output folders of the claims' sweeps (harness claims DIR ...)" in claims
    assert "quickstart.yaml: missing from this installation" in quickstart
