"""A folder of image files: real JPEGs, streamed the same by any number of workers, and what is wrong with a folder."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.config import DataConfig, RunConfig
from harness.data.check import check_data
from harness.data.dataset import Dataset, load_dataset, load_held_out
from harness.data.part import Batch
from harness.data.views import whole
from harness.located import InputError
from harness.outcome import Outcome
from harness.store import RunDirectory
from harness.training.train import train
from tests.jpegs import folder_data, write_jpegs
from tests.runs import timeless, tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes: 3 classes of 8 training and 4 validation images."""
    return write_jpegs(tmp_path_factory.mktemp("jpegs"))


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(shared, tmp_path / "images"))


def configured(root: Path, **fields: Any) -> DataConfig:
    return RunConfig.model_validate({"data": folder_data(root, **fields)}).data


def load(root: Path, **fields: Any) -> Dataset:
    return load_dataset(configured(root, **fields), CPU)


def take(data: Dataset, steps: int, start: int = 0, seed: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
    with data.batches(seed, start, rank, world) as batches:
        return [next(batches) for _ in range(steps)]


def same(a: list[Batch], b: list[Batch]) -> bool:
    return all(torch.equal(x, y) and torch.equal(k, m) for (x, k), (y, m) in zip(a, b, strict=True))


def spoil(folder: Path, name: str, content: bytes = b"not a picture") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def truncate(folder: Path, name: str) -> Path:
    return spoil(folder, name, (folder / name).read_bytes()[:800])


# What a batch is.


def test_a_training_batch(shared: Path) -> None:
    data = load(shared)
    assert (len(data.train), len(data.held_out), data.num_classes, data.steps_per_epoch) == (24, 12, 3, 4)
    images, labels = take(data, 1)[0]
    assert images.shape == (6, 3, 32, 32) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1
    assert labels.dtype == torch.int64 and set(labels.tolist()) <= {0, 1, 2}


def test_an_epoch_has_every_image_once_and_the_next_in_another_order(shared: Path) -> None:
    data = load(shared, augment="none")
    seen = [tuple(image.flatten().tolist()) for images, _ in take(data, 8) for image in images]
    assert len(set(seen[:24])) == 24 and set(seen[:24]) == set(seen[24:]) and seen[:24] != seen[24:]


def test_labels_are_the_place_of_the_class_folder_in_alphabetical_order(shared: Path) -> None:
    data = load(shared, augment="none")
    position = {tuple(image.flatten().tolist()): i for i, image in enumerate(data.train[slice(None)][0])}
    for images, labels in take(data, 4):
        for image, label in zip(images, labels.tolist(), strict=True):
            assert label == position[tuple(image.flatten().tolist())] // 8
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8


def scaled(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def test_evaluation_sees_the_central_square(shared: Path) -> None:
    file = shared / "val" / "class_0" / "val_000.jpg"
    image = Image.open(file)
    assert image.size == (120, 90)  # 0.875 of 90 is 78.75
    box = ((120 - 78.75) / 2, (90 - 78.75) / 2, (120 + 78.75) / 2, (90 + 78.75) / 2)
    expected = scaled(image.resize((32, 32), Image.Resampling.BILINEAR, box=box))
    held_out = load(shared).held_out
    assert torch.equal(held_out[slice(0, 1)][0][0], expected)
    assert torch.equal(next(iter(held_out.in_order(4)))[0][0], expected)
    full = load(shared, eval_crop=1.0).held_out[slice(0, 1)][0][0]
    assert torch.equal(full, scaled(image.resize((32, 32), Image.Resampling.BILINEAR, box=(15, 0, 105, 90))))


def test_in_order_gives_every_image_once(shared: Path) -> None:
    held_out = load(shared, workers=2).held_out
    batches = list(held_out.in_order(5))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    images, labels = held_out[slice(None)]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), images)
    assert (
        torch.equal(torch.cat([batch for _, batch in batches]), labels)
        and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    )


def test_the_probe_set_is_unaugmented_and_the_same_for_any_seed(shared: Path) -> None:
    data = load(shared)
    assert torch.equal(data.probe_set(), data.train[slice(None)][0])  # fewer than 256: all
    assert torch.equal(data.probe_set(), load(shared, augment="none").probe_set())


def test_crop_flip_leaves_the_colours_and_inception_distorts_them(shared: Path) -> None:
    """Single-colour images stay what they are under any crop and flip."""
    image = Image.new("RGB", (80, 60), (200, 100, 50))
    for part in ("train", "val"):
        for number in range(2):
            target = shared.parent / "plain" / part / str(number)
            target.mkdir(parents=True, exist_ok=True)
            for i in range(3):
                image.save(target / f"{i}.png")
    root = shared.parent / "plain"
    colour = torch.tensor([200, 100, 50])[:, None, None] / 127.5 - 1
    cropped = take(load(root, num_classes=2, augment="crop_flip"), 1)[0][0]
    assert torch.allclose(cropped, colour.expand(6, 3, 32, 32), atol=1e-6)
    distorted = take(load(root, num_classes=2, augment="inception"), 1)[0][0]
    assert not any(torch.allclose(one, colour.expand(3, 32, 32), atol=1e-3) for one in distorted)


def test_the_same_image_is_seen_differently_in_the_next_epoch(shared: Path) -> None:
    data = load(shared, augment="crop_flip")
    assert len({tuple(image.flatten().tolist()) for images, _ in take(data, 8) for image in images}) == 48


# Chance: a pure function of seed and step.


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(shared: Path, workers: int) -> None:
    assert same(take(load(shared), 10), take(load(shared, workers=workers), 10))


def test_a_seed_gives_its_own_batches(shared: Path) -> None:
    assert same(take(load(shared), 2), take(load(shared), 2))
    assert not same(take(load(shared), 2), take(load(shared), 2, seed=1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_run_goes_on_in_mid_epoch(shared: Path, workers: int, step: int) -> None:
    assert same(take(load(shared, workers=workers), 3, start=step), take(load(shared), step + 3)[step:])


def test_ranks_share_the_batch(shared: Path) -> None:
    data = load(shared)
    ranks = [take(data, 5, rank=rank, world=3) for rank in range(3)]
    joined = [
        (torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))
        for parts in zip(*ranks, strict=True)
    ]
    assert same(joined, take(data, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(shared: Path, workers: int) -> None:
    before = torch.get_rng_state()
    data = load(shared, workers=workers)
    take(data, 2)
    list(data.held_out.in_order(4))
    data.probe_set()
    assert torch.equal(torch.get_rng_state(), before)


def test_closing_ends_the_workers(shared: Path) -> None:
    me = psutil.Process()
    before = set(me.children())
    batches = load(shared, workers=2).batches(0)
    next(batches)
    started = set(me.children()) - before
    assert len(started) == 2
    batches.close()
    assert psutil.wait_procs(started, timeout=10)[1] == []


KILLED = """
import sys, psutil, torch
from pathlib import Path
from harness.config import RunConfig
from harness.data.dataset import load_dataset
from tests.jpegs import folder_data

config = RunConfig.model_validate({"data": folder_data(Path(sys.argv[1]), workers=1)}).data
batches = load_dataset(config, torch.device("cpu")).batches(0)
next(batches)
psutil.Process().children()[0].kill()
while True:
    next(batches)
"""


def test_a_killed_worker_is_an_error_and_no_hang(shared: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(shared)]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1 and "Error" in process.stderr  # which one depends on what the worker was at


def test_the_share_of_the_time_spent_waiting(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the start; waits of 3 and 1; a reading at 20; a wait of 1; a reading at 40
    clock = iter([0.0, 10.0, 13.0, 19.0, 20.0, 20.0, 30.0, 31.0, 40.0])
    monkeypatch.setattr("harness.data.dataset.time.perf_counter", lambda: next(clock))
    batches = load(shared).batches(0)
    next(batches)
    next(batches)
    assert batches.readings() == {"time/data/wait_fraction": pytest.approx(4 / 20)}
    next(batches)
    assert batches.readings() == {"time/data/wait_fraction": pytest.approx(1 / 20)}


def test_images_in_memory_have_no_waiting() -> None:
    with load_dataset(tiny().data, CPU).batches(0) as batches:
        next(batches)
        assert batches.readings() == {}


# Training on it.


class Interrupted(Exception):
    """Stands for the end of the process."""


class Stop:
    wants_histogram = False

    def row(self, step: int, metrics: object, histogram: object) -> None:
        if step >= 6:
            raise Interrupted

    def close(self, outcome: Outcome | None) -> None:
        assert outcome is None


def test_a_run_killed_in_mid_epoch_continues_bitwise(shared: Path, tmp_path: Path) -> None:
    config = tiny(
        data={**folder_data(shared, workers=1), "num_images": None},
        model={"dropout_keep": 0.8},
        train={"steps": 10, "check_every": 3},
        probes={"every": 3, "probe_set_every": 6},
        compute={"checkpoint_every": 5},
    )
    ends = []
    for name, stops in (("whole", [None]), ("parts", [Stop(), None])):
        run = RunDirectory(tmp_path / name)
        with run.lock():
            run.write_config(config, {})
            for stop in stops:
                if stop is None:
                    train(config, run)
                else:
                    with pytest.raises(Interrupted):
                        train(config, run, lambda stop=stop: [stop])  # type: ignore[misc]
        ends.append((run.checkpoint(), timeless(run.rows())))
    (whole, rows), (parts, other) = ends
    assert whole is not None and parts is not None
    assert rows == other
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())


# Files that cannot be read.


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [spoil, truncate])
def test_a_corrupt_image_is_refused_by_its_path(folder: Path, workers: int, damage: Any) -> None:
    path = damage(folder, "train/class_1/train_003.jpg")
    with pytest.raises(InputError) as caught:
        take(load(folder, workers=workers), 4)
    assert f"{path}: cannot be read as an image" in str(caught.value)
    assert "data.corrupt=skip" in str(caught.value)
    held_out = spoil(folder, "val/class_0/val_000.jpg")
    with pytest.raises(InputError, match=str(held_out)):
        list(load(folder, workers=workers).held_out.in_order(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_image_is_reported_once_and_the_next_stands_in_for_it(
    folder: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = spoil(folder, "train/class_1/train_003.jpg")
    data = load(folder, corrupt="skip", augment="none", workers=workers)
    batches = take(data, 8)  # two epochs
    images = data.train[slice(None)][0]
    assert torch.equal(images[8 + 3], images[8 + 4])
    seen = [tuple(image.flatten().tolist()) for images, _ in batches for image in images]
    assert seen.count(tuple(images[8 + 4].flatten().tolist())) == 4
    complaints = capfd.readouterr().err.strip().splitlines()
    assert len(complaints) == 1 and str(path) in complaints[0]
    assert [str(path) in problem for problem in data.train.corrupt] == [True]  # type: ignore[attr-defined]


def test_evaluation_leaves_a_corrupt_image_out(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        spoil(folder, f"val/class_1/val_{i:03}.jpg")
    held_out = load(folder, corrupt="skip").held_out
    assert [labels.tolist() for _, labels in held_out.in_order(4)] == [[0] * 4, [2] * 4]
    assert [label for _, label in held_out.views(lambda width, height: [whole(width, height)])] == [0] * 4 + [2] * 4
    assert len(capfd.readouterr().err.strip().splitlines()) == 4


def test_a_folder_without_one_readable_image_is_refused_even_then(folder: Path) -> None:
    for file in folder.glob("train/*/*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="not one image can be read"):
        take(load(folder, corrupt="skip"), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_without_one_right_picture_is_refused_by_what_it_is(folder: Path, workers: int) -> None:
    """Which kinds those are is told in test_data_decoding.py."""
    path = folder / "train" / "class_0" / "train_000.jpg"
    Image.new("RGBA", (40, 40), (1, 2, 3, 4)).save(path, format="PNG")
    with pytest.raises(InputError, match=f"{path}: cannot be read as an image: 1600 of 1600 pixels are transparent"):
        take(load(folder, workers=workers), 4)


def test_the_views_are_those_of_the_upright_image(folder: Path) -> None:
    path = folder / "val" / "class_0" / "val_000.jpg"
    upright = Image.open(path).convert("RGB")  # wide
    upright.save(path, format="PNG")
    expected = load(folder).held_out[slice(0, 1)][0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(path, format="PNG", exif=exif)
    assert torch.equal(load(folder).held_out[slice(0, 1)][0], expected)


# Folders that are not as they should be, told before anything is decoded.


def problems(root: Path, **fields: Any) -> str:
    config = configured(root, **fields)
    with pytest.raises(InputError) as caught:
        check_data(config)
    return str(caught.value)


def test_a_good_folder_passes(shared: Path) -> None:
    check_data(configured(shared))


def test_no_folder(tmp_path: Path) -> None:
    text = problems(tmp_path / "nothing")
    assert f"{tmp_path}/nothing/train: no such folder; expected {tmp_path}/nothing/train/CLASS/IMAGE.jpg" in text
    assert f"{tmp_path}/nothing/val: no such folder" in text


def test_an_empty_class_folder(folder: Path) -> None:
    (folder / "train" / "class_9").mkdir()
    text = problems(folder, num_classes=4)
    assert f"{folder}/train/class_9: no images in this class folder" in text


@pytest.mark.parametrize("configured_classes", [2, 5])
def test_another_number_of_classes(folder: Path, configured_classes: int) -> None:
    text = problems(folder, num_classes=configured_classes)
    assert f"{folder}/train: 3 class folders, but data.num_classes is {configured_classes}" in text


def test_different_classes_in_the_two_parts(folder: Path) -> None:
    (folder / "val" / "class_2").rename(folder / "val" / "class_two")
    assert "train and val have different classes; only in one of them: class_2, class_two" in problems(folder)


def test_files_that_are_no_images(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(12):
        spoil(folder / "train" / "class_0", f"note_{i:02}.txt")
    spoil(folder / "train" / "class_0", ".hidden")
    text = problems(folder)
    assert f"{folder}/train/class_0/note_00.txt: not an image by its name" in text
    assert "... and 2 more such files" in text and "hidden" not in text and "data.corrupt=skip" in text
    assert len(load(folder, corrupt="skip").train) == 24
    assert f"{folder}/train/class_0/note_00.txt" in capfd.readouterr().err


def test_images_outside_class_folders(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / part / "a.jpg")
    assert "no class folders (1 files lie in it directly)" in problems(tmp_path)


def test_every_problem_is_told_at_once(folder: Path) -> None:
    spoil(folder / "train" / "class_0", "note.txt")
    shutil.rmtree(folder / "val")
    text = problems(folder, num_classes=7)
    assert all(part in text for part in ("note.txt", "3 class folders", f"{folder}/val: no such folder"))


def test_a_batch_larger_than_the_folder(shared: Path) -> None:
    assert f"data.batch_size: 25 is above the 24 images in {shared}/train" in problems(shared, batch_size=25)
    with pytest.raises(InputError, match="25 is above the 24 training images"):
        load(shared, batch_size=25).batches(0)


def test_validation_images_alone_are_enough_to_evaluate(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    assert len(load_held_out(configured(folder), CPU)) == 12


# The configuration.


def test_the_folder_is_part_of_the_identity_and_the_workers_are_not() -> None:
    def run_id(**fields: Any) -> str:
        return RunConfig.model_validate({"data": folder_data(Path("here")) | fields}).run_id

    assert run_id() == run_id(workers=7)
    assert len({run_id(), run_id(root="there"), run_id(augment="none"), run_id(eval_crop=0.9)}) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "cifar10", "augment": "inception"}, "inception is for imagefolder only; allowed: none, crop_flip"),
        ({"name": "digits", "augment": "none"}, "digits has no augment"),
        ({"name": "cifar10", "workers": 2}, "cifar10 has no workers; only imagefolder has"),
        ({"name": "imagefolder", "download": True}, "imagefolder has no download"),
        ({"name": "imagefolder", "eval_crop": 0.0}, "greater than 0"),
        ({"name": "cifar10", "batch_size": 50_001}, "50001 is above the 50000 training images"),
    ],
)
def test_fields_of_another_dataset_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"data": data})


@pytest.mark.parametrize("module", ["harness.data", "harness.data.check", "harness.evaluation.published"])
def test_checking_imports_neither_torch_nor_pil(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
