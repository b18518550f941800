"""What no CPU can check, in one command: the tests marked `gpu`, agreement with the CPU, arithmetic, speed and memory.

Each part stands alone: one that fails is reported with its reason, and the others go on. On a CPU everything but the
parts that say so runs as well, smaller; that is how its logic is tested.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
import yaml
from torch import Tensor

from harness import shipped, store
from harness.architectures import ArchitectureName
from harness.bench.probes import bench_probes
from harness.bench.step import measure_step, wait
from harness.config import RunConfig
from harness.data.dataset import load_dataset
from harness.devices import cpu_count
from harness.located import InputError
from harness.sweep.check import memory_need
from harness.training.train import train
from harness.training.trainer import Trainer

PER_GPU = (1, 2, 4, 8)
COMPILING = 150
"""Seconds without which compiling a network is not begun: an H100 had not compiled the smallest two in 185 s."""
NETWORKS: tuple[ArchitectureName, ...] = (
    "inception_resnet_v2_released",
    "inception_resnet_v2",
    "inception_v4",
    "inception_v3",
    "inception_resnet_v1",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """Where the parts run, until when, and at which sizes."""

    device: torch.device
    folder: Path
    deadline: float
    model: Mapping[str, object]
    pixels: int
    batch: int
    networks: tuple[ArchitectureName, ...]
    rounds: int
    workers: tuple[int, ...]

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.device.type == "cuda"


@dataclass
class Part:
    """What a part found: a table, and what is wrong. left_out: why it, or some of it, was not done."""

    name: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.seconds:.0f} s)"]
        columns = list(self.rows[0]) if self.rows else []
        cells = [columns, *([_cell(row.get(key)) for key in columns] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        lines += [f"  wrong: {problem}" for problem in self.problems]
        lines += [f"  left out: {why}" for why in self.left_out]
        return "\n".join(line.rstrip() for line in lines if line.strip())


@dataclass(frozen=True)
class Acceptance:
    """All parts, and the machine they ran on."""

    machine: Mapping[str, object]
    parts: list[Part]

    @property
    def problems(self) -> list[str]:
        """What is wrong, each with its part."""
        return [f"{part.name}: {problem}" for part in self.parts for problem in part.problems]

    def to_json(self) -> dict[str, object]:
        """Plain values: `machine`, and `parts` with rows, problems, what was left out and why, and seconds."""
        return {"machine": dict(self.machine), "parts": [asdict(part) for part in self.parts]}

    def __str__(self) -> str:
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        return "\n".join([machine, *map(str, self.parts)])


def accept(
    device: str = "cuda",
    minutes: float = 8.0,
    only: Sequence[str] = (),
    told: Callable[[Acceptance], None] = lambda _: None,
) -> Acceptance:
    """Run the parts, all or those named, one after the other; `told` hears what there is as each ends.

    minutes: after which nothing new is begun, and no network compiled any longer. Raises InputError for a part that is
    unknown, or where no GPU is.
    """
    unknown = [name for name in only if name not in PARTS]
    if unknown:
        raise InputError([f"--only: {unknown[0]!r} is unknown; parts: {', '.join(PARTS)}"])
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(["--device: cuda, but torch finds no GPU here; `--device cpu` runs the parts that a CPU can"])
    chosen = torch.device(device)
    found = Acceptance(_machine(chosen), [])
    with tempfile.TemporaryDirectory(prefix="harness-gpu-") as folder:
        lab = _lab(chosen, Path(folder), time.perf_counter() + 60 * minutes)
        for name in only or PARTS:
            part = Part(name)
            started = time.perf_counter()
            if started > lab.deadline:
                part.left_out.append(f"the {minutes:g} minutes were over")
            else:
                try:
                    PARTS[name](lab, part)
                except Exception as error:  # the others are worth their time all the same
                    part.problems.append(" ".join(f"{type(error).__name__}: {error}".split())[:500])
                if lab.cuda:
                    torch.cuda.empty_cache()
            part.seconds = round(time.perf_counter() - started, 1)
            found.parts.append(part)
            told(found)
    return found


def _lab(device: torch.device, folder: Path, deadline: float) -> Lab:
    if device.type == "cuda":
        return Lab(device, folder, deadline, {}, 299, 32, NETWORKS, 15, PER_GPU)
    small = {"width": 0.0625, "repeats": [1, 1, 1]}
    return Lab(device, folder, deadline, small, 75, 2, NETWORKS[-2:-1], 1, (2,))


def _machine(device: torch.device) -> dict[str, object]:
    told: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": cpu_count(),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        told |= {
            "device": card.name,
            "memory": f"{card.total_memory / 2**30:.0f} GiB",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return told


def _cell(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _config(lab: Lab, **sections: Mapping[str, object]) -> RunConfig:
    """The un-scaled Inception-ResNet-v2 on synthetic images, at the lab's size; sections changed field by field."""
    plain: dict[str, Mapping[str, object]] = {
        "model": {"name": "inception_resnet_v2", "dropout_keep": 1.0, **lab.model},
        "data": {
            "name": "synthetic",
            "num_images": max(64, 2 * lab.batch),
            "image_size": lab.pixels,
            "batch_size": lab.batch,
        },
        "train": {"steps": 1000},
        "compute": {"device": lab.device.type},
    }
    merged = {key: {**plain.get(key, {}), **sections.get(key, {})} for key in {**plain, **sections}}
    return RunConfig.model_validate(merged)


# -- the parts ---------------------------------------------------------------------------------------------------------


def tests(lab: Lab, part: Part) -> None:
    """The tests marked `gpu`, which a checkout has."""
    folder = Path(__file__).parent.parent.parent / "tests"
    if not (lab.cuda and folder.is_dir()):
        part.left_out.append("not in a checkout: there is no tests/ beside the package" if lab.cuda else "needs a GPU")
        return
    report = lab.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-n", "0", "-p", "no:cacheprovider"]
    marked = sorted(str(file) for file in folder.glob("test_*.py") if "mark.gpu" in file.read_text())
    command += ["--continue-on-collection-errors", "-W", "default", f"--junitxml={report}", *marked]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)
    if not report.is_file():
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}")
    for case in ElementTree.parse(report).iter("testcase"):
        broken = [each for kind in ("failure", "error") for each in case.findall(kind)]
        outcome = "failed" if broken else "skipped" if case.find("skipped") is not None else "passed"
        part.rows.append({"test": case.get("name"), "outcome": outcome, "s": round(float(case.get("time", 0)), 1)})
        part.problems += [f"{case.get('name')}: {(each.get('message') or '')[:300]}" for each in broken]
        if outcome == "skipped":
            part.problems.append(f"{case.get('name')}: skipped")
    if not part.rows:
        part.problems.append("no test is marked gpu")


def arithmetic(lab: Lab, part: Part) -> None:
    """Logits of a first step against double precision on the CPU, and its gradient.

    The CPU's own single precision sets what is allowed of the logits: ten times its error, more by the bits that tf32
    (13 fewer) and bf16 (16 fewer) leave off. The gradient is told only: one ReLU or maximum that falls to the other
    side of a tie moves it by more than any rounding.
    """
    sizes: dict[str, Mapping[str, object]] = {
        "model": {"name": "inception_resnet_v2", "dropout_keep": 1.0, "width": 0.25, "repeats": [1, 2, 1]},
        "data": {"name": "synthetic", "num_images": 64, "image_size": min(96, lab.pixels), "batch_size": 16},
    }
    cpu = {"compute": {"device": "cpu"}}
    exact = _first_step(_config(lab, **sizes, **cpu), torch.device("cpu"), double=True)
    of_cpu = _errors(_first_step(_config(lab, **sizes, **cpu), torch.device("cpu")), exact)
    row = {"arithmetic": "float32 on the CPU", "error of logits": of_cpu[0], "allowed": None}
    part.rows.append({**row, "error of gradient": of_cpu[1]})
    bits = {"float32": 0, "tf32": 13, "bf16": 16} if lab.cuda else {"float32": 0, "bf16": 16}
    ways = [(precision, False) for precision in bits] + ([("float32", True)] if lab.cuda else [])
    for precision, compiled in ways:
        config = _config(lab, **sizes, train={"steps": 1000, "precision": precision, "compile": compiled})
        of_logits, of_gradient = _errors(_first_step(config, lab.device), exact)
        allowed = min(1.0, 10 * of_cpu[0] * 2 ** bits[precision])
        words = precision + (", compiled" if compiled else "")
        row = {"arithmetic": words, "error of logits": of_logits, "allowed": allowed}
        part.rows.append({**row, "error of gradient": of_gradient})
        if not of_logits <= allowed:
            part.problems.append(f"{words}: the logits are off by {of_logits:.2g}; at most {allowed:.2g}")


def sync_batch_norm(lab: Lab, part: Part) -> None:
    """Two processes on one GPU with SyncBN train as one with the whole batch does, probe set's readings included.

    They meet through gloo, since nccl takes no two processes of one GPU.
    """
    if not lab.cuda:
        part.left_out.append("torch has no synchronised batch-norm on the CPU")
        return
    sizes: dict[str, Mapping[str, object]] = {
        "model": {"name": "inception_resnet_v2", "dropout_keep": 1.0, "width": 0.125, "repeats": [1, 1, 1]},
        "data": {"name": "synthetic", "num_images": 64, "image_size": 75, "batch_size": 16},
        "optim": {"lr": 0.01},
        "probes": {"preset": "blocks", "every": 1, "probe_set_every": 3},
    }
    one = _config(lab, **sizes, train={"steps": 6})
    two = _config(lab, **sizes, train={"steps": 6, "sync_batch_norm": True})
    _train(one, lab.folder / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    code = "import sys; from harness.bench.gpu import one_of_two; one_of_two(*sys.argv[1:])"
    file = lab.folder / "two.json"
    file.write_text(two.model_dump_json(exclude_none=True))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file), str(lab.folder / "two")],
            env={**os.environ, **meeting, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=90)
            if process.returncode:
                raise RuntimeError(errors[-400:])
    finally:
        for process in processes:
            process.kill()
    folders = [run for name in ("one", "two") for run in store.runs(lab.folder / name)]
    of_one, of_two = (
        {int(row["step"]): float(row["train/loss"]) for row in run.rows() if row.get("train/loss") is not None}
        for run in folders
    )
    for step, loss in of_one.items():
        off = abs(of_two[step] / loss - 1)
        part.rows.append({"step": step, "loss, one process": loss, "loss, two": of_two[step], "apart by": off})
        if step <= 3 and not off < 1e-3:
            part.problems.append(f"step {step}: the losses are apart by {off:.2g}; at most 1e-3")


def one_of_two(file: str, folder: str) -> None:
    """One of the processes of `sync_batch_norm`."""
    from torch import distributed as dist

    dist.init_process_group("gloo")
    _train(RunConfig.model_validate_json(Path(file).read_text()), Path(folder))
    dist.destroy_process_group()


def steps(lab: Lab, part: Part) -> None:
    """Forward and backward pass of each architecture at its paper's size, bf16, beside timm's."""
    for name in lab.networks:
        if time.perf_counter() > lab.deadline:
            part.left_out.append(f"{name}: no time left")
            continue
        part.rows += _step_rows(name, lab.device, lab.pixels, lab.batch, lab.rounds)


def compiled_steps(lab: Lab, part: Part) -> None:
    """The same compiled, as many architectures as time allows, each in a process that can be ended."""
    for name in lab.networks:
        left = lab.deadline - time.perf_counter()
        if left < COMPILING:
            part.left_out.append(
                f"{name}: {left:.0f} s were left, which are too few; with `--minutes 30` there are more"
            )
            continue
        code = "import sys; from harness.bench.gpu import compiled_step; compiled_step(*sys.argv[1:])"
        sizes = map(str, (lab.device.type, lab.pixels, lab.batch, lab.rounds))
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, name, *sizes], capture_output=True, text=True, timeout=left
            )
        except subprocess.TimeoutExpired:
            part.left_out.append(f"{name}: not compiled and timed in the {left:.0f} s that were left")
            continue
        if done.returncode:
            part.problems.append(f"{name}: {done.stderr.strip()[-300:]}")
            continue
        part.rows += json.loads(done.stdout.splitlines()[-1])


def compiled_step(name: ArchitectureName, device: str, pixels: str, batch: str, rounds: str) -> None:
    """The process of one network of `compiled_steps`: prints its rows as JSON."""
    print(json.dumps(_step_rows(name, torch.device(device), int(pixels), int(batch), int(rounds), compiled=True)))


def updates(lab: Lab, part: Part) -> None:
    """Whole updates of the un-scaled net as a run makes them, and the memory that they take beside what is foretold."""
    for replicas in (1, 20):
        for precision in ("float32", "tf32", "bf16") if lab.cuda else ("float32",):
            config = _config(lab, optim={"replicas": replicas}, train={"steps": 1000, "precision": precision})
            held = torch.cuda.memory_allocated() if lab.cuda else 0
            data = load_dataset(config.data, lab.device)
            if lab.cuda:
                torch.cuda.reset_peak_memory_stats()
            trainer = Trainer.new(config, data, lab.device)
            with data.batches(config.seed) as batches:
                trainer.begin(batches)
                for _ in range(3):
                    trainer.forward_backward(*next(batches))
                    trainer.update()
                wait(lab.device)
                started = time.perf_counter()
                for _ in range(lab.rounds):
                    trainer.forward_backward(*next(batches))
                    trainer.update()
                wait(lab.device)
            seconds = (time.perf_counter() - started) / lab.rounds
            need = memory_need(config).total
            peak = torch.cuda.max_memory_allocated() - held if lab.cuda else None
            row = {"replicas": replicas, "precision": precision, "ms an update": round(seconds * 1e3, 2)}
            part.rows.append(
                {**row, "images/s": round(config.data.batch_size / seconds), "foretold MB": round(need / 1e6)}
            )
            part.rows[-1]["peak MB"] = None if peak is None else round(peak / 1e6)
            if peak is not None and need > 1.05 * peak:
                part.problems.append(f"{replicas} replicas, {precision}: {need / 1e6:.0f} MB are foretold as the least")
            del trainer, data, batches


def probes(lab: Lab, part: Part) -> None:
    """What the instruments cost a step."""
    costs = bench_probes(_config(lab), pairs=5 if lab.cuda else 2)
    for cost in costs.costs:
        share, half = cost.share(1)
        times = {"plain ms": round(cost.plain * 1e3, 2), "firing ms": round(cost.firing * 1e3, 2)}
        part.rows.append({"instrument": cost.name.strip(), **times, "share of a step": round(share, 3)})
        part.rows[-1] |= {"±": round(half, 3), "at its cadence": round(cost.share()[0], 4)}


def quickstart(lab: Lab, part: Part) -> None:
    """The quickstart's runs end on the GPU as they do on the CPU."""
    text = yaml.safe_load(shipped.quickstart().read_text())
    if not lab.cuda:
        text["parameters"]["model"]["parameters"] |= {
            "branch_width": {"value": 4},
            "repeats": {"value": [1, 1, 1]},
            "residual_scale": {"value": 1.0},
        }
        text["parameters"]["train"]["parameters"]["steps"] = {"value": 10}
        text["parameters"]["seed"] = {"value": 0}
    ends: list[dict[str, str]] = []
    scales: dict[str, object] = {}
    for device, many in ((lab.device.type, ["--per-gpu", "4"] if lab.cuda else ["--workers", "2"]), ("cpu", [])):
        out = lab.folder / f"quickstart-{len(ends)}"
        seconds = _sweep(text, device, out, many)
        ends.append({run.run_id: run.outcome()[0].outcome for run in store.runs(out)})
        scales |= {run.run_id: run.config().model.residual_scale for run in store.runs(out)}
        died = list(ends[-1].values()).count("died")
        part.rows.append({"device": device, "runs": len(ends[-1]), "died": died, "s": round(seconds, 1)})
    there, here = ends
    differ = [run_id for run_id in here if there[run_id] != here[run_id]]
    part.rows.append({"device": "both end alike", "runs": len(here) - len(differ)})
    if len(differ) > len(here) // 9:  # training is chaotic in its rounding: single runs at a boundary may differ
        words = "; ".join(f"scale {scales[i]}: {there[i]}, on the CPU {here[i]}" for i in differ)
        part.problems.append(f"{len(differ)} of {len(here)} runs end otherwise than on the CPU: {words}")


def per_gpu(lab: Lab, part: Part) -> None:
    """Runs a minute with several workers on the GPU, from the first run's first step to the last run's end."""
    text = yaml.safe_load(shipped.quickstart().read_text())
    model, train_ = text["parameters"]["model"]["parameters"], text["parameters"]["train"]["parameters"]
    model |= {"branch_width": {"value": 8 if lab.cuda else 4}, "residual_scale": {"value": 0.1}}
    train_["steps"] = {"value": 60 if lab.cuda else 5}
    text["parameters"]["seed"] = {"values": list(range(8 if lab.cuda else 2))}
    if not lab.cuda:
        model["repeats"] = {"value": [1, 1, 1]}
    for workers in lab.workers:
        if time.perf_counter() > lab.deadline:
            part.left_out.append(f"{workers} workers: no time left")
            continue
        out = lab.folder / f"per-gpu-{workers}"
        seconds = _sweep(text, lab.device.type, out, ["--per-gpu" if lab.cuda else "--workers", str(workers)])
        runs = list(store.runs(out))
        begun = min(run.file("config.json").stat().st_mtime for run in runs)
        ended = max(run.file("outcome.json").stat().st_mtime for run in runs)
        row: Row = {"workers": workers, "runs": len(runs), "command s": round(seconds, 1)}
        part.rows.append({**row, "runs/minute": round(60 * len(runs) / (ended - begun), 1)})
    if part.rows:
        best = max(part.rows, key=lambda row: float(row["runs/minute"]))
        for row in part.rows:
            row["of the fewest"] = round(row["runs/minute"] / part.rows[0]["runs/minute"], 2)
            row["best"] = "best" if row is best else None


PARTS: Mapping[str, Callable[[Lab, Part], None]] = {
    "tests": tests,
    "arithmetic": arithmetic,
    "sync_batch_norm": sync_batch_norm,
    "updates": updates,
    "steps": steps,
    "probes": probes,
    "per_gpu": per_gpu,
    "quickstart": quickstart,
    "compiled_steps": compiled_steps,
}
"""In the order in which they run: what is cheap and tells most first."""


def _step_rows(
    name: ArchitectureName, device: torch.device, pixels: int, batch: int, rounds: int, compiled: bool = False
) -> list[Row]:
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = {"image_size": pixels, "batch_size": batch, "rounds": rounds}
    return measure_step(name, device=device, precision=precision, compiled=compiled, **size).rows()


def _first_step(config: RunConfig, device: torch.device, double: bool = False) -> tuple[Tensor, Tensor]:
    """Logits and gradient of a run's first step, each as one vector on the CPU in double precision."""
    data = load_dataset(config.data, device)
    trainer = Trainer.new(config, data, device)
    with data.batches(config.seed) as batches:
        images, labels = next(batches)
    if double:
        trainer.model.double()
        images = images.double()
    logits = trainer.forward_backward(images, labels).detach().flatten().double().cpu()
    gradients = [p.grad.flatten().double().cpu() for p in trainer.model.parameters() if p.grad is not None]
    return logits, torch.cat(gradients)


def _errors(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The relative errors, in Euclidean norm."""
    of_logits, of_gradient = (float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return of_logits, of_gradient


def _train(config: RunConfig, folder: Path) -> None:
    run = store.RunDirectory(folder / "runs" / config.run_id)
    if int(os.environ.get("RANK", "0")):
        train(config, run)
        return
    with run.lock():
        run.write_config(config, {})
        train(config, run)


def _sweep(text: dict[str, Any], device: str, out: Path, more: Sequence[str]) -> float:
    """Seconds that a sweep takes on a device."""
    text["parameters"]["compute"]["parameters"]["device"] = {"value": device}
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(text))
    command = [sys.executable, "-m", "harness", "sweep", str(file), "--out", str(out), "--wandb", "disabled", *more]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[3:])}: ended with {done.returncode}: {done.stderr[-300:]}")
    return time.perf_counter() - started
