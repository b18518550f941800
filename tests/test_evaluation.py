"""Error rates: what is averaged, what is counted, from which weights, and within which memory."""

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from scipy.stats import binomtest
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data.dataset import load_held_out
from harness.data.memory import Images
from harness.evaluation.command import run_evaluation
from harness.evaluation.evaluate import Errors, evaluate, mean_probabilities
from harness.evaluation.members import load_member
from harness.evaluation.protocols import views
from harness.located import InputError
from harness.store import RunDirectory
from harness.training.recorder import held_out_reading
from harness.training.train import train
from tests.jpegs import folder_data, write_jpegs
from tests.runs import INCEPTION, tiny

CPU = torch.device("cpu")


class Scores(nn.Module):
    """Gives each image the logits that are written into its first pixels; notes the batches that it saw."""

    def __init__(self, classes: int, factor: float = 1.0) -> None:
        super().__init__()
        self.classes, self.factor = classes, nn.Parameter(torch.tensor(factor))
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(tuple(images.shape))
        return self.factor * images[:, 0, 0, : self.classes]


def scored(rows: list[list[float]], labels: list[int]) -> Images:
    """Images of 8x8 whose first pixels are these logits."""
    images = torch.zeros(len(rows), 3, 8, 8)
    for image, row in zip(images, rows, strict=True):
        image[:, 0, : len(row)] = torch.tensor(row)
    return Images(images, torch.tensor(labels))


SINGLE = views("single", 8, 1.0)


def test_top_1_and_top_5_errors_are_counted() -> None:
    rows = [[7.0 - k for k in range(7)]] * 4  # class 0 first, class 6 last
    assert evaluate([Scores(7)], scored(rows, [0, 4, 5, 6]), SINGLE) == Errors(images=4, top1=3, top5=2)


def test_with_few_classes_top_5_is_always_right() -> None:
    assert evaluate([Scores(3)], scored([[1.0, 2.0, 3.0]], [0]), SINGLE) == Errors(images=1, top1=1, top5=0)


def test_an_ensemble_averages_probabilities_not_logits() -> None:
    # alone: the first prefers class 0 slightly, the second class 1 strongly in logits but not in probability
    image = torch.zeros(3, 8, 8)
    image[:, 0, :3] = torch.tensor([1.0, 0.0, 0.0])
    steep, flat = Scores(3, 3.0), Scores(3, -1.0)
    expected = (torch.softmax(torch.tensor([3.0, 0.0, 0.0]), 0) + torch.softmax(torch.tensor([-1.0, 0.0, 0.0]), 0)) / 2
    assert torch.allclose(mean_probabilities([steep, flat], [[image]], 8)[0], expected)


def test_views_of_an_image_are_averaged_whatever_their_sizes_and_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [[torch.randn(3, size, size, generator=generator) for size in (8, 9, 8)] for _ in range(5)]
    expected = torch.stack([torch.stack([torch.softmax(view[0, 0, :4], 0) for view in one]).mean(0) for one in images])
    for batch_size in (1, 3, 100):
        model = Scores(4)
        assert torch.allclose(mean_probabilities([model], images, batch_size), expected, atol=1e-6)
        assert max(batch[0] for batch in model.batches) <= batch_size


def test_larger_views_pass_in_smaller_batches() -> None:
    model = Scores(4)
    mean_probabilities([model], [[torch.zeros(3, size, size) for size in (8, 16)]] * 10, batch_size=8)
    assert model.batches == [(8, 3, 8, 8), (2, 3, 8, 8), *[(2, 3, 16, 16)] * 5]


def test_progress_ends_with_every_image() -> None:
    told: list[int] = []
    evaluate([Scores(3)], scored([[1.0, 2.0, 3.0]] * 7, [2] * 7), SINGLE, batch_size=3, progress=told.append)
    assert told == [3, 6, 7]


def test_models_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate([model], scored([[1.0, 2.0, 3.0]] * 4, [2] * 4), SINGLE)
    assert model.training and model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("count", "images"), [(0, 10), (3, 10), (10, 10), (1234, 50_000)])
def test_wilson_intervals(count: int, images: int) -> None:
    share, low, high = Errors(images, count, 0).rate(count)
    expected = binomtest(count, images).proportion_ci(0.95, method="wilson")
    assert (share, low, high) == (count / images, expected.low, expected.high)


def test_no_image_no_rate() -> None:
    assert all(math.isnan(value) for value in Errors(0, 0, 0).rate(0))


# Runs and files of weights.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on synthetic images that kept an average of its parameters."""
    config = tiny(model=INCEPTION, train={"steps": 12, "averaging": {"decay": 0.9}}, data={"num_images": 64})
    directory = RunDirectory(tmp_path_factory.mktemp("runs") / config.run_id)
    with directory.lock():
        directory.write_config(config, {})
        train(config, directory)
    return directory.path


def on(path: Path, which: str, **settings: Any) -> tuple[nn.Module, str]:
    member = load_member(path, CPU, weights=which, **settings)  # type: ignore[arg-type]
    return member.model, member.weights


def test_a_single_crop_equals_the_validation_of_the_training(run: Path) -> None:
    rows = RunDirectory(run).rows()
    held_out = load_held_out(RunDirectory(run).config().data, CPU)
    for which, suffix in (("current", ""), ("averaged", "_averaged")):
        model, found = on(run, which)
        assert found == which
        errors = evaluate([model], held_out, views("single", 16, 1.0))
        assert 1 - errors.rate(errors.top1)[0] == pytest.approx(rows[-1][f"val/accuracy{suffix}"])
        assert held_out_reading(model, held_out, 64)["val/loss"] == pytest.approx(
            rows[-1][f"val/loss{suffix}"], rel=1e-5
        )


def test_averaged_weights_are_preferred_where_there_are_any(run: Path, tmp_path: Path) -> None:
    assert on(run, "averaged")[1] == "averaged"
    config = tiny(train={"steps": 2})
    plain = RunDirectory(tmp_path)
    with plain.lock():
        plain.write_config(config, {})
        train(config, plain)
    assert on(tmp_path, "averaged")[1] == "current"


def test_a_file_of_weights_with_its_settings(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, _ = on(run, "current")
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    config = RunDirectory(run).config()
    member = load_member(file, CPU, settings=config)
    assert member.weights == "file"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in member.model.state_dict().items())


def test_what_cannot_be_evaluated_says_why(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "runs" / "abc").mkdir(parents=True)
    begun = RunDirectory(tmp_path / "begun")
    begun.path.mkdir()
    begun.write_config(tiny(), {})
    file = tmp_path / "weights.pt"
    file.write_bytes(b"nonsense")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "nothing", {}, "no such run directory or file of weights"),
        (out, {}, r"not a run directory \(no config.json\); it holds the runs .*runs/abc"),
        (begun.path, {}, "no checkpoint yet"),
        (file, {}, "needs its network and data"),
        (file, {"settings": tiny()}, r"weights\.pt: a text, which begins 'nonsense'"),
    ]
    for path, settings, message in cases:
        with pytest.raises(InputError, match=message):
            load_member(path, CPU, **settings)


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_our_errors_above_the_papers(run: Path) -> None:
    screen = console()
    result = run_evaluation([run], "ten_crop", CPU, screen)
    text = shown(screen)
    assert "16 of 16 images" in text
    share, low, high = (100 * value for value in result.errors.rate(result.errors.top1))
    assert f"{share:.2f} [{low:.2f}, {high:.2f}]" in text
    assert "Table 3" in text and "18.7" in text and "inception_v4" in text and "21.4" in text
    assert "for ImageNet, not for synthetic" in text
    kept = result.as_dict()
    assert kept["top1_error"] == result.errors.top1 / 16 and kept["weights"] == ("averaged",)
    assert kept["networks"] == ("inception_resnet_v2",) and kept["protocol"] == "ten_crop" and kept["images"] == 16


def test_an_ensemble_of_runs(run: Path) -> None:
    screen = console()
    alone = run_evaluation([run], "multi_crop_144", CPU, console())
    twice = run_evaluation([run, run], "multi_crop_144", CPU, screen)
    assert twice.errors == alone.errors  # the mean of two equals
    assert "Table 5" in shown(screen) and "16.5" in shown(screen)


def test_an_ensemble_sees_the_same_images(run: Path, tmp_path: Path) -> None:
    config = tiny(train={"steps": 1}, data={"num_images": 32})
    other = RunDirectory(tmp_path)
    with other.lock():
        other.write_config(config, {})
        train(config, other)
    with pytest.raises(InputError, match=r"data\.num_images is 32, but 64 in"):
        run_evaluation([run, other.path], "single", CPU, console())


# A folder of JPEGs.


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jpegs(tmp_path_factory.mktemp("jpegs"))


def small_net(root: Path, **data: Any) -> RunConfig:
    return tiny(data={**folder_data(root, **data), "num_images": None})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("protocol", ["single", "ten_crop", "twelve_crop", "multi_crop_144", "dense"])
def test_every_protocol_on_files(jpegs: Path, tmp_path: Path, protocol: str, workers: int) -> None:
    from safetensors.torch import save_file

    config = small_net(jpegs, workers=workers)
    torch.manual_seed(0)
    model = _fresh(config)
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    result = run_evaluation([file], protocol, CPU, console(), settings=config)  # type: ignore[arg-type]
    assert result.errors.images == 12 and 0 < result.errors.top1 < 12
    elsewhere = small_net(Path("nowhere"), workers=0)
    again = run_evaluation([file], protocol, CPU, console(), settings=elsewhere, root=str(jpegs), batch_size=7)  # type: ignore[arg-type]
    assert again.errors == result.errors


def test_a_single_crop_of_files_equals_the_validation_of_the_training(jpegs: Path) -> None:
    config = small_net(jpegs)
    model = _fresh(config)
    held_out = load_held_out(config.data, CPU)
    errors = evaluate([model], held_out, views("single", 32, 0.875), batch_size=5)
    assert 1 - errors.rate(errors.top1)[0] == pytest.approx(held_out_reading(model, held_out, 64)["val/accuracy"])


def test_images_that_cannot_be_read_are_left_out_and_said(
    tmp_path: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_jpegs(tmp_path / "jpegs", train=2, val=2)
    bad = root / "val" / "class_1" / "val_000.jpg"
    bad.write_bytes(b"no picture")
    config = small_net(root, corrupt="skip")
    weights = tmp_path / "weights.pt"
    torch.save(_fresh(config).state_dict(), weights)
    screen = console()
    assert run_evaluation([weights], "single", CPU, screen, settings=config).errors.images == 5
    assert "1 of 6 images could not be read and were left out" in shown(screen)
    assert str(bad) in capfd.readouterr().err
    with pytest.raises(InputError, match=str(bad)):
        run_evaluation([weights], "single", CPU, console(), settings=small_net(root))


def _fresh(config: RunConfig) -> nn.Module:
    from harness.models import build_model

    return build_model(config.model, num_classes=3, image_size=32)


MEASURED = """
import resource, sys, torch
from pathlib import Path
from harness.data.dataset import load_held_out
from harness.evaluation.evaluate import evaluate
from harness.evaluation.protocols import views
from tests.jpegs import folder_data
from harness.config import RunConfig

class Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))

for root in sys.argv[1:]:
    config = RunConfig.model_validate({"data": folder_data(Path(root), image_size=128)}).data
    errors = evaluate([Mean()], load_held_out(config, torch.device("cpu")), views("multi_crop_144", 128), batch_size=16)
    print(errors.images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_peak_memory_of_144_crops_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """144 views of 128x128 are 28 MB an image: holding those of 15 more images would cost 400 MB."""
    roots = [str(write_jpegs(tmp_path / str(val), train=1, val=val)) for val in (1, 6)]
    done = subprocess.run([sys.executable, "-c", MEASURED, *roots], check=True, capture_output=True, text=True)
    (few, first), (many, second) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (3, 18)
    assert (second - first) / 1024 < 60, (first, second)
