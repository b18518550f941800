"""Which GPUs there are, as CUDA and nvidia-smi tell, by fakes of both."""

import json
import os
import socket
from pathlib import Path

import pytest

from harness.cli import main
from harness.devices import Gpu, gpus, visible_gpus
from harness.store import RunDirectory
from tests.runs import tiny

WHOLE = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-3a1c)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-9f20)
"""
DIVIDED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-3a1c)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111-aa)
  MIG 3g.40gb     Device  1: (UUID: MIG-2222-bb)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-9f20)
"""
QUERY = """\
0, GPU-3a1c, NVIDIA H100 80GB HBM3, 63, 1024, 81559
1, GPU-9f20, NVIDIA H100 80GB HBM3, [N/A], 0, 81559
2, GPU-77aa, NVIDIA GB10, 3, [N/A], [N/A]
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which prints the file `list` or `query`."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\ncase "$1" in --list-gpus) cat {tmp_path}/list;; *) cat {tmp_path}/query;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0,2", ["0", "2"]),
        ("GPU-8f2, GPU-9a1", ["GPU-8f2", "GPU-9a1"]),
        ("MIG-1111-aa,MIG-2222-bb", ["MIG-1111-aa", "MIG-2222-bb"]),
        ("MIG-GPU-3a1c/1/0", ["MIG-GPU-3a1c/1/0"]),
        ("0,-1,1", ["0"]),
        ("", []),
        ("-1", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_show(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected


def test_without_the_variable_they_are_those_that_nvidia_smi_lists(nvidia_smi: Path) -> None:
    (nvidia_smi / "list").write_text(WHOLE)
    assert visible_gpus() == ["0", "1"]


def test_of_a_divided_gpu_each_instance_is_one(nvidia_smi: Path) -> None:
    (nvidia_smi / "list").write_text(DIVIDED)
    assert visible_gpus() == ["MIG-1111-aa", "MIG-2222-bb", "1"]


def test_a_machine_whose_nvidia_smi_fails_has_those_of_its_driver(nvidia_smi: Path) -> None:
    (nvidia_smi / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == [str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    assert gpus() == []


def test_what_gpus_do_now(nvidia_smi: Path) -> None:
    (nvidia_smi / "query").write_text(QUERY)
    first, second = gpus()
    assert first == Gpu("0", "GPU-3a1c", "NVIDIA H100 80GB HBM3", 0.63, 1 << 30, 81559 << 20)
    assert second.busy is None


def test_status_tells_gpus_and_the_runs_on_them(
    nvidia_smi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nvidia_smi / "query").write_text(QUERY)
    run = RunDirectory(tmp_path / "out" / "runs" / tiny().run_id)
    with run.lock():
        run.write_config(tiny(), {"host": socket.gethostname(), "gpu": "0"})
        assert main(["status", str(tmp_path / "out")]) == 0
        words = capsys.readouterr().out.split("GPU ")[-1].split("\n")
        assert words[1].split() == ["0", "NVIDIA", "H100", "80GB", "HBM3", "63%", "1.0", "of", "79.6", "GiB", "1"]
        assert words[2].split() == ["1", "NVIDIA", "H100", "80GB", "HBM3", "0.0", "of", "79.6", "GiB", "0"]
        assert main(["status", str(tmp_path / "out"), "--json"]) == 0
        assert [gpu["runs"] for gpu in json.loads(capsys.readouterr().out)["gpus"]] == [1, 0]
