"""CIFAR-10, CIFAR-100 and Fashion-MNIST: files in their genuine formats, written small, read by torchvision."""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.config import DataConfig, RunConfig
from harness.data.check import check_data, count_classes
from harness.data.dataset import Dataset, load_dataset, load_held_out
from harness.data.memory import Bytes
from harness.located import InputError

CPU = torch.device("cpu")
TRAIN, TEST = 20, 8


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int) -> list[int]:
    return [i % 7 for i in range(count)]


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_pickle(path: Path, content: dict[str, Any]) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return [path.name, digest(path)]


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    folder = root / "cifar-10-batches-py"
    data, targets = pixels(TRAIN, 3072), labels(TRAIN)
    quarter = TRAIN // 5
    parts = [
        write_pickle(folder / f"data_batch_{i + 1}", {"data": data[i * quarter :][:quarter], "labels": targets[i * quarter :][:quarter]})
        for i in range(5)
    ]  # fmt: skip
    test = write_pickle(folder / "test_batch", {"data": pixels(TEST, 3072), "labels": labels(TEST)})
    meta = write_pickle(folder / "batches.meta", {"label_names": [str(i) for i in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", parts)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [test])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta[1]})


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    folder = root / "cifar-100-python"
    train = write_pickle(folder / "train", {"data": pixels(TRAIN, 3072), "fine_labels": labels(TRAIN)})
    test = write_pickle(folder / "test", {"data": pixels(TEST, 3072), "fine_labels": labels(TEST)})
    meta = write_pickle(folder / "meta", {"fine_label_names": [str(i) for i in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [train])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [test])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": meta[1]})


def write_fashion_mnist(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = pixels(count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(labels(count)))


WRITERS = {"cifar10": write_cifar10, "cifar100": write_cifar100, "fashion_mnist": write_fashion_mnist}
NAMES = pytest.mark.parametrize("name", WRITERS)


def configured(name: str, root: Path, **fields: Any) -> DataConfig:
    data = {"name": name, "root": str(root), "batch_size": 5, **fields}
    return RunConfig.model_validate({"data": data}).data


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def loader(name: str, **fields: Any) -> Dataset:
        WRITERS[name](tmp_path, monkeypatch)
        config = configured(name, tmp_path, **fields)
        check_data(config)
        return load_dataset(config, CPU)

    return loader


@NAMES
def test_every_pixel_and_label_arrives(load: Any, name: str) -> None:
    data = load(name)
    for part, count in ((data.train, TRAIN), (data.held_out, TEST)):
        assert isinstance(part, Bytes) and part.images.dtype == torch.uint8
        if name == "fashion_mnist":  # padded from 28 to 32 by black
            expected = F.pad(torch.from_numpy(pixels(count, 28, 28))[:, None], (2, 2, 2, 2))
        else:
            expected = torch.from_numpy(pixels(count, 3072).reshape(count, 3, 32, 32))
        assert torch.equal(part.images, expected)
        assert part.labels.tolist() == labels(count)
        restored = part[slice(None)][0] * part.std + part.mean
        assert torch.allclose(restored, expected.float().expand(-1, 3, -1, -1), atol=1e-3)


@NAMES
def test_a_batch_is_normalised_by_the_training_parts_statistics(load: Any, name: str) -> None:
    images = load(name).train[slice(None)][0]
    assert images.shape == (TRAIN, 3, 32, 32) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


@NAMES
def test_the_classes_are_the_datasets_not_the_files(load: Any, name: str) -> None:
    data = load(name)
    assert data.num_classes == {"cifar10": 10, "cifar100": 100, "fashion_mnist": 10}[name]
    assert data.num_classes == count_classes(configured(name, Path("data")))


def test_other_sizes_are_interpolated(load: Any) -> None:
    images = load("cifar10", image_size=48).train[slice(0, 2)][0]
    assert images.shape == (2, 3, 48, 48) and images.is_contiguous(memory_format=torch.channels_last)


def test_cifar_is_augmented_in_training_and_nowhere_else(load: Any) -> None:
    data = load("cifar10")
    with data.batches(seed=0) as batches:
        images, _ = next(batches)
    plain = data.train[slice(None)][0]
    assert images.shape == (5, 3, 32, 32)
    assert not any(torch.equal(image, other) for image in images for other in plain)
    assert torch.equal(data.probe_set(), plain)
    assert torch.equal(next(iter(data.held_out.in_order(TEST)))[0], data.held_out[slice(None)][0])


def test_without_augmentation_the_batches_are_the_images(load: Any) -> None:
    data = load("cifar10", augment="none")
    with data.batches(seed=0) as batches:
        seen = [next(batches) for _ in range(data.steps_per_epoch)]
    everything = {tuple(image.flatten().tolist()) for image in data.train[slice(None)][0]}
    assert {tuple(image.flatten().tolist()) for images, _ in seen for image in images} == everything


@NAMES
def test_a_run_goes_on_in_mid_epoch(load: Any, name: str) -> None:
    data = load(name, augment="crop_flip")
    with data.batches(seed=3) as batches:
        whole = [next(batches) for _ in range(10)]
    with data.batches(seed=3, start_step=6) as batches:
        for images, targets in whole[6:]:
            again = next(batches)
            assert torch.equal(again[0], images) and torch.equal(again[1], targets)


def test_ranks_share_the_batch(load: Any) -> None:
    data = load("cifar10", batch_size=6)
    streams = [data.batches(0), data.batches(0, rank=0, world=2), data.batches(0, rank=1, world=2)]
    for _ in range(4):
        (whole, targets), *halves = [next(stream) for stream in streams]
        assert torch.equal(torch.cat([half for half, _ in halves]), whole)
        assert torch.equal(torch.cat([half for _, half in halves]), targets)
    with pytest.raises(InputError, match="6 is not divisible by 4 processes"):
        data.batches(0, world=4)


def test_a_batch_larger_than_the_files_hold_is_refused(load: Any) -> None:
    data = load("cifar10", batch_size=21)
    with pytest.raises(InputError, match=r"data\.batch_size: 21 is above the 20 training images"):
        data.batches(0)


@NAMES
def test_missing_files_are_named_with_the_expected_layout(tmp_path: Path, name: str) -> None:
    config = configured(name, tmp_path / "nothing")
    for find in (check_data, lambda c: load_dataset(c, CPU), lambda c: load_held_out(c, CPU)):
        with pytest.raises(InputError) as caught:
            find(config)
        message = str(caught.value)
        folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "FashionMNIST/raw"}
        assert str(tmp_path / "nothing" / folder[name]) in message
        assert "missing: " in message and "data.download=true" in message


def test_a_damaged_file_is_refused_unread(load: Any, tmp_path: Path) -> None:
    load("cifar10")
    with (tmp_path / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"cifar10 cannot be read from .*corrupted"):
        load_dataset(configured("cifar10", tmp_path), CPU)


def test_download_happens_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    asked: list[Path] = []

    def no_network(self: Any) -> None:
        asked.append(self.root)
        raise URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", no_network)
    with pytest.raises(InputError, match="missing"):
        load_dataset(configured("cifar10", tmp_path), CPU)
    assert not asked
    check_data(configured("cifar10", tmp_path, download=True))
    with pytest.raises(InputError, match=r"cifar10 cannot be downloaded to .*no network"):
        load_dataset(configured("cifar10", tmp_path, download=True), CPU)
    assert asked == [tmp_path]


def test_without_torchvision_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.check.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'residual-harness\[vision\]'"):
        load_dataset(configured("cifar10", tmp_path), CPU)


def test_where_the_files_lie_is_no_part_of_the_identity() -> None:
    ids = [
        RunConfig.model_validate({"data": {"name": "cifar10", **fields}}).run_id
        for fields in ({}, {"root": "elsewhere"}, {"download": True}, {"augment": "none"})
    ]
    assert ids[0] == ids[1] == ids[2] != ids[3]
