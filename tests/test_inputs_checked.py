"""What can be known of a run before it starts is said before anything is written."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import store
from harness.architectures import network_size
from harness.cli import main
from harness.config import RunConfig
from harness.config.command_line import resolve
from harness.devices import total_memory
from harness.located import InputError
from harness.models import build_model
from harness.models.network import Network
from harness.sweep.check import check_inputs, memory_need
from tests.jpegs import write_jpegs

QUIET = ["--wandb", "disabled"]
SMALL = [
    "model.width=0.03125", "model.repeats=[1,1,1]", "data.image_size=32", "data.batch_size=6", "train.steps=2",
    "compute.device=cpu",
]  # fmt: skip
FOLDER = [*SMALL, "data.name=imagefolder", "data.num_classes=3", "data.workers=0"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a command that is refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


# -- whose images a run was trained on -------------------------------------------------------------------------------------


@pytest.fixture
def two_folders(tmp_path: Path) -> Path:
    for name in ("one", "other"):
        write_jpegs(tmp_path / name / "imgs", train=4, val=2)
    return tmp_path


def test_a_run_on_another_folders_images_does_not_answer(
    two_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = two_folders / "out"
    command = ["run", *FOLDER, "data.root=imgs", "--out", str(out), *QUIET]
    monkeypatch.chdir(two_folders / "one")
    assert main(command) == 0
    (run,) = store.runs(out)
    before = run.file("outcome.json").read_bytes()
    assert main([*command[:-2], "--wandb", "disabled"]) == 0  # from the same folder it is found finished

    monkeypatch.chdir(two_folders / "other")
    said = refused(command, capsys)
    assert f"data.root: imgs is {two_folders}/other/imgs here" in said
    assert f"the run on the images in {two_folders}/one/imgs: give data.root in full, or choose another --out" in said
    assert run.file("outcome.json").read_bytes() == before

    assert main(["run", *FOLDER, f"data.root={two_folders}/other/imgs", "--out", str(out), *QUIET]) == 0
    assert len(store.runs(out)) == 2

    content = json.loads(run.file("config.json").read_bytes())
    del content["provenance"]["images"]  # as older versions left it
    run.file("config.json").write_text(json.dumps(content))
    assert main(command) == 0


def test_finished_runs_of_other_images_are_not_taken_over(
    two_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = two_folders / "sweep.yaml"
    sweep.write_text("method: grid\nparameters: {data: {value: {name: imagefolder, root: imgs, num_classes: 3, workers: 0, image_size: 32, batch_size: 6}}, train: {value: {steps: 2}}, compute: {value: {device: cpu}}, model: {value: {width: 0.03125, repeats: [1, 1, 1]}}}\n")  # fmt: skip
    inline = ["--executor", "inline", *QUIET]
    monkeypatch.chdir(two_folders / "one")
    assert main(["sweep", str(sweep), "--out", str(two_folders / "first"), *inline]) == 0
    reuse = ["sweep", str(sweep), "--reuse", str(two_folders / "first"), *inline]
    capsys.readouterr()
    assert main([*reuse, "--out", str(two_folders / "second")]) == 0
    assert "1 finished runs taken over" in capsys.readouterr().out
    monkeypatch.chdir(two_folders / "other")
    assert main([*reuse, "--out", str(two_folders / "third")]) == 0
    assert "taken over" not in capsys.readouterr().out


# -- what a run asks of the machine --------------------------------------------------------------------------------------


def write_weights(folder: Path) -> None:
    """Files that are offered as weights: of another width, cut short, not tensors, and right."""
    fields: dict[str, Any] = {"width": 0.03125, "repeats": [1, 1, 1]}
    for name, width in (("right.pt", 0.03125), ("wider.pt", 0.0625)):
        model = build_model("inception_resnet_v2", num_classes=10, image_size=32, **fields | {"width": width})
        torch.save(model.state_dict(), folder / name)
    (folder / "cut.pt").write_bytes((folder / "right.pt").read_bytes()[:2000])
    (folder / "empty.pt").touch()
    (folder / "text.safetensors").write_text("no tensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.precision=tf32"], "train.precision: tf32 needs a GPU"),
        (["train.sync_batch_norm=true"], "train.sync_batch_norm: needs GPUs"),
        (["compute.device=auto", "train.precision=tf32"], "train.precision: tf32 needs a GPU"),
        (["optim.name=adam", "optim.betas=[1, 1]"], "optim.betas: found [1, 1]; expected two numbers >= 0 and below 1"),
        (["optim.lr=1.0e+39"], "optim.lr: found 1e+39; expected at most 1.0e+30"),
        (["optim.lr=1.0e+30", "optim.up_projection_lr=1.0e+9"], "optim.lr: with its factors the largest learning rate is 1e+39"),
        (["optim.name=adam", "optim.lr=1.0e+30", "optim.betas=[0.9999999999, 0.9]"], "optim.lr: with its factors the largest"),
        (["train.steps=null", "train.epochs=1", "data.batch_size=64", "optim.warmup={name: constant, lr: 0.1, steps: 22}"],
         "optim.warmup.steps: 22 is not below the 22 steps of 1 epochs"),
        (["model.weights=wider.pt"], "model.weights: wider.pt: the weights do not fit this network"),
        (["model.weights=cut.pt"], "model.weights: cut.pt"),
        (["model.weights=empty.pt"], "model.weights: empty.pt"),
        (["model.weights=text.safetensors"], "model.weights: text.safetensors"),
        (["model.weights=/dev/zero"], "model.weights: /dev/zero is not a file"),
        (["model.weights=gone.pt"], "model.weights: gone.pt cannot be read: No such file or directory"),
        (["model.width=100"], "inception_resnet_v2 of width 100 on 32x32 in batches of 6 needs at least "),
        (["data.image_size=16000"], " MB for a batch"),
        (["data.name=synthetic", "data.num_images=1000000000"], "15,360,000 MB for the images); this machine has "),
        (["model.repeats=[1000, 1000, 1000]", "model.width=10"], " MB for parameters and optimizer"),
        (["optim.replicas=10000", "model.width=1"], " MB for the gradients of optim.replicas: 10000, "),
        (["probes.preset=curvature", "probes.curvature.batches=256", "data.image_size=2000", "model.width=1"],
         " MB for the Hessian products of probes.preset: curvature, "),
        (["probes.preset=curvature", "train.sync_batch_norm=true"],
         "probes.preset: curvature needs second derivatives, which train.sync_batch_norm lacks"),
        (["probes.preset=curvature", "probes.curvature.every=0"], "probes.curvature.every: found 0"),
        (["probes.preset=curvature", "probes.curvature.products=1.5"], "probes.curvature.products: found 1.5"),
        (["probes.preset=curvature", "probes.curvature.batches=257"], "probes.curvature.batches: found 257"),
        (["data.batch_size=1000000000"], "data.batch_size: 1000000000 is above the 1437 training images"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    settings: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.sweep.check.visible_gpus", list)
    if "weights" in message:
        write_weights(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    said = refused(["run", *SMALL, *settings, *QUIET], capsys)
    assert message in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_fit_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(tmp_path)
    assert main(["run", *SMALL, "model.weights=right.pt", "--out", "out", *QUIET]) == 0


def test_a_warm_up_of_a_folder_is_held_against_its_number_of_files(
    two_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", *FOLDER, f"data.root={two_folders}/one/imgs", "train.steps=null", "train.epochs=3"]
    said = refused([*command, "optim.warmup={name: gradual, lr: 0.1, steps: 6}", *QUIET], capsys)
    assert "optim.warmup.steps: 6 is not below the 6 steps of 3 epochs" in said


def test_the_largest_of_a_sweep_is_named(tmp_path: Path) -> None:
    configs = [RunConfig.model_validate({"model": {"width": width}}) for width in (0.1, 90.0, 100.0)]
    with pytest.raises(InputError) as caught:
        check_inputs(configs)
    (problem,) = caught.value.problems
    assert "of width 100 on" in problem


def test_what_a_gpu_can_do_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.sweep.check._finds_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=10**16))
    huge = {"model": {"width": 100}, "train": {"precision": "tf32", "sync_batch_norm": True}}
    check_inputs([RunConfig.model_validate(huge)])
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 10**9))
    with pytest.raises(InputError, match="the GPU has 80,000 MB"):
        check_inputs([RunConfig.model_validate(huge)])


def test_a_control_group_limits_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda _: "1000000\n")
    assert total_memory() == 1_000_000
    monkeypatch.setattr("pathlib.Path.read_text", lambda _: "max\n")
    assert total_memory() > 1_000_000


# -- how much memory a run takes -----------------------------------------------------------------------------------------


def kept_by_torch(model: Network, images: Tensor) -> int:
    """Numbers that a forward pass keeps for the backward pass, parameters apart."""
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(images, with_aux=True) if model.aux_head is not None else model(images)
    assert out is not None
    return sum(kept.values()) // len(images)


@pytest.mark.parametrize(
    ("name", "image_size", "fields"),
    [
        ("inception_resnet_v1", 75, {}),
        ("inception_resnet_v2", 32, {}),
        ("inception_resnet_v2", 32, {"residual_scale": "learned"}),
        ("inception_resnet_v2", 32, {"batch_norm": "none"}),
        ("inception_resnet_v2", 32, {"batch_norm": "after_sum"}),
        ("inception_resnet_v2", 32, {"batch_norm": "branch_output"}),
        ("inception_resnet_v1_released", 107, {}),
        ("inception_resnet_v2_released", 107, {}),
        ("inception_v4", 75, {}),
        ("inception_v3", 107, {"aux_head": True}),
        ("resnet20_cifar", 32, {}),
        ("resnet110_cifar", 32, {}),
    ],
)
def test_sizes_are_those_of_the_network_that_torch_builds(name: str, image_size: int, fields: dict[str, Any]) -> None:
    model = build_model(name, num_classes=10, image_size=image_size, width=0.25, **fields)
    size = network_size(model.config, 10, image_size)
    assert size.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=1e-3)
    assert 0.85 < size.activations / kept_by_torch(model, torch.zeros(2, 3, image_size, image_size)) <= 1.0


PEAK = """\
import sys
from harness.cli import main
import torch
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = peak()
assert main(sys.argv[1:]) == 0
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
@pytest.mark.parametrize(
    "settings",
    [
        ["model.width=0.7", "optim.name=adam", "optim.replicas=4"],
        ["data.image_size=96", "data.batch_size=32", "model.width=0.5"],
        ["data.image_size=64", "data.batch_size=32", "model={width: 0.25, repeats: [1, 1, 2]}",
         "probes={preset: curvature, curvature: {products: 2}}"],
    ],
    ids=["parameters", "activations", "curvature"],
)  # fmt: skip
def test_a_run_takes_about_the_memory_that_is_said(settings: list[str], tmp_path: Path) -> None:
    """Not less than the estimate from below, nor another order of magnitude."""
    data = ["data.name=synthetic", "data.num_images=100"]
    settings = ["train.steps=2", "compute.device=cpu", "data.batch_size=8", *data, *settings]
    arguments = ["run", *settings, "--out", str(tmp_path), *QUIET]
    done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
    need = memory_need(resolve(settings)).total
    assert 0.9 < int(done.stdout.splitlines()[-1]) / need < 4


# -- the limits of the fields are ones that can be trained ----------------------------------------------------------------

LARGEST = [
    "seed=9223372036854775807", "data.seed=9223372036854775807", "train.check_every=100000", "probes.every=1000000000",
    "probes.probe_set_every=1000000000", "compute.checkpoint_every=1000000000",
    "probes.cadence={every: 1000000000, burst_steps: 1000000000}", "probes.preset=curvature",
    "probes.curvature={every: 1000000000, products: 1000, batches: 256}",
    "optim.schedule={name: exponential, every: 1000000000, rate: 1.0e-30}",
    "optim.warmup={name: two_phase, lr: 1.0e+30, window: 100000}", "optim.lr=1.0e+30", "optim.eps=1.0e+30",
    "optim.weight_decay=1.0e+30", "optim.up_projection_lr=1.0e+7", "optim.clip_norm=1.0e+30", "optim.clip_value=1.0e+30",
    "model.bn_eps=1.0e+30", "model.residual_scale=1.0e+30", "model.up_projection_init=1.0e+30",
]  # fmt: skip
SMALLEST = [
    "seed=0", "optim.lr=1.0e-30", "optim.eps=1.0e-30", "optim.clip_norm=1.0e-30", "optim.clip_value=1.0e-30",
    "model.bn_eps=1.0e-30", "model.residual_scale=0", "model.up_projection_init=1.0e-30", "model.dropout_keep=1.0e-30",
    "optim.warmup={name: constant, lr: 1.0e-30, steps: 1}", "train.averaging={decay: 1.0e-300}",
]  # fmt: skip


@pytest.mark.parametrize("settings", [LARGEST, SMALLEST], ids=["largest", "smallest"])
@pytest.mark.parametrize("optimizer", ["rmsprop_tf", "rmsprop_torch", "adam"])
def test_a_run_at_the_limits_ends_and_is_indexed(
    settings: list[str], optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic = ["data.name=synthetic", "data.num_images=64", f"optim.name={optimizer}"]
    command = ["run", *SMALL, *synthetic, *settings, "--out", str(tmp_path), *QUIET]
    assert main(command) == 0, capsys.readouterr()
    assert main(command) == 0
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert '"finished": 1' in capsys.readouterr().out


# -- options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--width", "1e308"], "found 1e308; expected a number above 0 and up to 1000"),
        (["models", "--width", "nan"], "found nan; expected a number above 0"),
        (["models", "--width", "x"], "found x; expected a number above 0"),
        (["models", "--image-size", "9" * 30], "; expected a whole number from 1 to 16384"),
        (["models", "--num-classes", "9" * 5000], "; expected a whole number from 1 to 1000000000"),
        (["models", "--num-classes", "0"], "found 0; expected a whole number from 1"),
        (["sweep", "x.yaml", "--workers", "1.5"], "found 1.5; expected a whole number from 1"),
    ],
)
def test_options_have_limits_too(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_schedule_too_long_to_draw_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["schedule", "train.steps=1000000000", "--out", str(tmp_path / "x.png")], capsys)
    assert said == "train: 1000000000 steps are too many to draw; at most 10000000\n"
