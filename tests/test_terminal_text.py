"""What the commands print: text from outside as it is, and output that nobody can take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness import store
from harness.cli import _parse, main
from harness.plain import plain, shown
from harness.sweep.display import SweepDisplay
from harness.sweep.run import failure_table
from harness.sweep.status import GpuUse, Status, status_table
from harness.sweep.work import Report
from tests.runs import tiny_sweep

HARNESS = [sys.executable, "-m", "harness"]
HOSTILE = [
    "ablation [/old]",
    "y[bold]",
    "[link=x]",
    "\\[x]",
    ":smile:",
    "a\x1b[31mb",
    "a\x07\x9bb",
    "\udc80",
    "[0, 1]\\",
]
INLINE = ["--executor", "inline", "--wandb", "disabled"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_shown_letter_by_letter(text: str) -> None:
    console = Console(width=300, force_terminal=False, highlight=True)
    status = Status(
        Path(f"/{text}"), {"failed": 1}, {}, {"run": text}, (text,), {text: 1}, (GpuUse(text, text, 0.5, 1, 2, 3),)
    )
    with console.capture() as captured:
        console.print(shown(text))
        console.print(failure_table([Report("run", "failed", text)]))
        console.print(status_table(status))
        SweepDisplay(1, 0, {"run": text}, console).ended(Report("run", "failed", f"because {text}", notes=(text,)))
    printed = captured.get()
    assert printed.count(plain(text)) >= 10
    assert all(line.isprintable() for line in printed.splitlines())


def test_a_sweep_may_be_called_and_put_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny_sweep(tmp_path, steps=1)
    file.write_text('name: "ablation [/old] \\e[31m"\nrun_cap: 1\n' + file.read_text())
    out = tmp_path / "y[bold]"
    assert main(["sweep", str(file), "--out", str(out), *INLINE]) == 0
    assert f"ablation [/old] \\x1b[31m: 1 runs, 0 finished before, in {out}\n" in capsys.readouterr().out
    assert main(["status", str(out)]) == 0
    assert "y[bold]" in capsys.readouterr().out


# -- the order of arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "a=1", "b=2", "--wandb", "disabled"],
        ["run", "--wandb", "disabled", "a=1", "b=2"],
        ["run", "a=1", "--wandb", "disabled", "b=2"],
        ["run", "a=1", "--wandb=disabled", "b=2", "--out", "out/run"],
        ["run", "--out", "out/run", "a=1", "--wandb", "disabled", "b=2"],
    ],
)
def test_settings_and_options_may_be_mixed(arguments: list[str]) -> None:
    options = _parse(arguments)
    assert (options.settings, options.wandb, options.out) == (["a=1", "b=2"], "disabled", Path("out/run"))


@pytest.mark.parametrize("arguments", [["run", "a=1", "--wandbb", "b=2"], ["sweep", "x.yaml", "b=2"], ["schema", "x"]])
def test_what_belongs_to_no_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


# -- output that cannot be written ---------------------------------------------------------------------------------------


def shell(command: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HARNESS": " ".join(HARNESS)}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; $HARNESS {command}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 1, "harness: the output could not be written: No space left on device\n"),
        (">/dev/full 2>/dev/full", 1, ""),
        ("| head -1", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_lost_without_a_traceback(
    redirection: str, code: int, said: str, tmp_path: Path
) -> None:
    done = shell(f"schema {redirection}", tmp_path)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-", ">/dev/full", "| head -1"])
@pytest.mark.parametrize("executor", ["inline", "local --workers 1"])
def test_no_run_is_lost_with_its_output(redirection: str, executor: str, tmp_path: Path) -> None:
    file = tiny_sweep(tmp_path, steps=2)
    file.write_text("run_cap: 2\n" + file.read_text())
    done = shell(f"sweep tiny.yaml --out out --executor {executor} {redirection}", tmp_path)
    assert "Traceback" not in done.stderr
    assert [run.state() for run in store.runs(tmp_path / "out")] == ["finished"] * 2
    for run in store.runs(tmp_path / "out"):  # no file took the place of standard output
        store.verify(run)
