"""Weights from a local file: what is loaded, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.models import Network, build_model, load_weights
from harness.models.weights import timm_keys

safetensors = pytest.importorskip("safetensors.torch")


def net(seed: int, width: float = 1 / 16, num_classes: int = 10) -> Network:
    torch.manual_seed(seed)
    return build_model(
        "inception_v4", num_classes=num_classes, image_size=75, width=width, repeats=[1, 1, 1], dropout_keep=1.0
    )


def save(path: Path, state_dict: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        safetensors.save_file(state_dict, path)
    else:
        torch.save(state_dict, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("names", ["ours", "timm's"])
def test_a_file_is_loaded_whole(tmp_path: Path, file: str, names: str) -> None:
    source, target = net(1), net(2)
    keys = timm_keys(source) if names == "timm's" else {key: key for key in source.state_dict()}
    path = save(tmp_path / file, {keys[key]: tensor for key, tensor in source.state_dict().items()})
    load_weights(target, path)
    images = torch.randn(2, 3, 75, 75)
    assert torch.equal(source(images), target(images))


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_checkpoint_holds_weights_too(tmp_path: Path, key: str) -> None:
    source, target = net(1), net(2)
    torch.save({"step": 3, key: source.state_dict()}, tmp_path / "checkpoint.pt")
    load_weights(target, tmp_path / "checkpoint.pt")
    assert torch.equal(source.classifier.weight, target.classifier.weight)


def test_a_net_is_built_with_the_weights_of_a_file(tmp_path: Path) -> None:
    source = net(1)
    path = save(tmp_path / "weights.pt", source.state_dict())
    config = source.config.model_copy(update={"weights": str(path)})
    model = build_model(config, num_classes=10, image_size=75)
    images = torch.randn(2, 3, 75, 75)
    assert torch.equal(source(images), model(images))


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_weights_of_another_width_are_refused(tmp_path: Path, file: str) -> None:
    path = save(tmp_path / file, net(1, width=1 / 8).state_dict())
    with pytest.raises(ValueError, match=rf"{file}: .*of another shape: stem.0.conv.weight is \(4, 3, 3, 3\), not \(2"):
        load_weights(net(2), path)


def test_weights_for_other_classes_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", net(1, num_classes=7).state_dict())
    with pytest.raises(ValueError, match=r"2 of another shape: classifier\.weight is \(7, 96\), not \(10, 96\)"):
        load_weights(net(2), path)


class Harmful:
    """Its unpickling would run code: here, it would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save({"a": Harmful(trace)}, tmp_path / "weights.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Harmful(trace)))
    for file in ("weights.pt", "plain.pkl"):
        with pytest.raises(ValueError, match=rf"{file}: a pickle with more than tensors .*refused"):
            load_weights(net(1), tmp_path / file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("w.safetensors", b"", r"w\.safetensors: not a file of tensors"),
        ("w.safetensors", b"\xff" * 64, r"w\.safetensors: not a file of tensors"),
        ("w.pt", b"", r"w\.pt: not a file of tensors"),
        ("w.pt", b"PK\x03\x04 cut short", r"w\.pt: not a file of tensors"),
        ("w.pt", b"hello", r"w\.pt: .*(refused|not a file of tensors)"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, file: str, content: bytes, says: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load_weights(net(1), tmp_path / file)


def test_a_file_of_anything_else_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="not a state dict"):
        load_weights(net(1), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"nowhere\.pt: no such file"):
        load_weights(net(1), tmp_path / "nowhere.pt")
