"""facenet-pytorch's and Keras's weights: their names and layouts, held against what their own code printed.

The packages themselves are no dependencies: where they are installed, whole networks are compared too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.models import Network, build_model, load_weights
from harness.models.weights.keras import VARIABLES
from tests.foreign import keys_of, table

FACENET, KERAS = "inception_resnet_v1_released", "inception_resnet_v2_released"


def small(name: str, seed: int, **fields: Any) -> Network:
    """A small network whose batch-norms are not what they are at first."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes=7, image_size=75, width=1 / 16, repeats=[1, 2, 2], dropout_keep=1.0, **fields)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for name, tensor in norm.state_dict().items():  # without gamma, the scale is not in it
            if name != "num_batches_tracked":
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.double().eval()


def whole(name: str, **fields: Any) -> Network:
    with torch.device("meta"):
        return build_model(name, num_classes=7, image_size=299, **fields)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    out: Tensor = model(images)
    return out


IMAGES = torch.randn(2, 3, 75, 75, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

# facenet-pytorch: the trunk by name, the head folded.


def facenet_tensors() -> dict[str, tuple[int, ...]]:
    return {
        f"{layer}.{key}": tuple(map(int, shape.split("x"))) if shape else ()
        for layer, *tensors in table("facenet.txt")
        for key, _, shape in (tensor.partition(":") for tensor in tensors)
    }


def test_every_tensor_of_facenets_trunk_is_used_once() -> None:
    model = whole(FACENET)
    own, keys = model.state_dict(), keys_of(model, "facenet")
    trunk = {key: shape for key, shape in facenet_tensors().items() if not key.startswith(("last_", "logits"))}
    ours = {keys[key]: tuple(tensor.shape) for key, tensor in own.items() if not key.startswith("classifier")}
    assert ours == trunk


def facenet(model: Network, classes: bool) -> tuple[dict[str, Tensor], nn.Module]:
    """A state dict as facenet-pytorch has it, with the trunk of the model, and its head as modules."""
    width = model.classifier.in_features
    parts = {"last_linear": nn.Linear(width, 5, bias=False), "last_bn": nn.BatchNorm1d(5, eps=1e-3)}
    for tensor in parts["last_bn"].state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    if classes:
        parts["logits"] = nn.Linear(5, 7)
    head = nn.Sequential(*parts.values()).double().eval()
    keys = keys_of(model, "facenet")
    state = {keys[key]: tensor for key, tensor in model.state_dict().items() if not key.startswith("classifier")}
    return state | {f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict().items()}, head


@pytest.mark.parametrize("classes", [True, False])
def test_facenets_head_is_folded_into_the_classifier(classes: bool) -> None:
    source = small(FACENET, 1)
    state, head = facenet(source, classes)
    source.classifier = head  # type: ignore[assignment]
    target = build_model(FACENET, num_classes=7 if classes else 5, image_size=75, width=1 / 16, repeats=[1, 2, 2])
    target.double().eval()
    load_weights(target, state)
    torch.testing.assert_close(logits(target, IMAGES), logits(source, IMAGES), rtol=1e-12, atol=1e-12)


def test_facenets_embedding_does_not_fit_other_classes() -> None:
    state, _ = facenet(small(FACENET, 1), classes=False)
    with pytest.raises(ValueError, match=r"2 of another shape: classifier\.weight is \(5, 112\), not \(7, 112\)"):
        load_weights(small(FACENET, 2), state)


@pytest.mark.slow
@pytest.mark.parametrize("size", [107, 160])
def test_outputs_equal_facenets(size: int) -> None:
    package = pytest.importorskip("facenet_pytorch")
    torch.manual_seed(0)
    reference = package.InceptionResnetV1(classify=True, num_classes=7)
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    for norm in (module for module in reference.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)):
        norm.momentum = 1.0
    logits(reference.double().train(), images)
    reference.eval()
    model = build_model(FACENET, num_classes=7, image_size=size, dropout_keep=1.0).double().eval()
    load_weights(model, reference.state_dict())
    expected = logits(reference, images)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits(model, images), expected, rtol=1e-12, atol=1e-12)


# Keras: layers numbered in the order in which they are made, kernels with the channels last, batch-norm without scale.


def keras_layers() -> dict[str, tuple[str, tuple[tuple[int, ...], ...]]]:
    """Group in the file and shapes of the variables, by the layer's own name."""
    return {
        name: (group, tuple(tuple(map(int, shape.split("x"))) for shape in shapes))
        for group, name, *shapes in table("keras.txt")
    }


def to_keras(tensor: Tensor) -> np.ndarray:
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.dim())
    return (tensor.permute(order) if order else tensor).numpy()


def kind(group: str) -> str:
    return re.sub(r"_\d+$", "", group)


def test_every_variable_of_keras_is_used_once() -> None:
    model = whole(KERAS, bn_gamma=False)
    own, keys = model.state_dict(), keys_of(model, "Keras")
    theirs = {
        f"{name}.{variable}": shape
        for name, (group, shapes) in keras_layers().items()
        for variable, shape in zip(VARIABLES[kind(group), len(shapes)], shapes, strict=True)
    }
    place = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    ours = {theirs: tuple(own[key].shape[i] for i in place[own[key].dim()]) for key, theirs in keys.items()}
    assert ours == theirs
    assert all(key in keys or key.endswith("num_batches_tracked") for key in own)


def variables(model: Network) -> dict[str, dict[str, np.ndarray]]:
    """A network's arrays as Keras would have them, by layer and variable."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    own = model.state_dict()
    for key, theirs in keys_of(model, "Keras").items():
        layer, variable = theirs.split(".")
        layers.setdefault(layer, {})[variable] = to_keras(own[key])
    return layers


def second(layer: str) -> str:
    """The name of a layer in a session's second network."""
    match = re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d+))?", layer)
    return f"{match[1]}_{int(match[2] or 0) + 203}" if match else layer


def write_keras_3(path: Path, layers: dict[str, dict[str, np.ndarray]], *, named: bool = True) -> None:
    """As Keras 3 writes: groups numbered by kind in another order than the layers, which have their names beside."""
    h5py = pytest.importorskip("h5py")
    counts: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for layer in sorted(layers):
            of = "batch_normalization" if "beta" in layers[layer] else "dense" if layer == "predictions" else "conv2d"
            number = counts[of] = counts.get(of, -1) + 1
            group = file.create_group(f"layers/{of}_{number}/vars" if number else f"layers/{of}/vars")
            if named:
                group.attrs["name"] = second(layer)
            for i, variable in enumerate(VARIABLES[of, len(layers[layer])]):
                group[str(i)] = layers[layer][variable]
        file["optimizer/vars/0"] = np.zeros(3)


def write_keras_2(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for layer, arrays in layers.items():
            for variable, array in arrays.items():
                file[f"model_weights/{second(layer)}/{second(layer)}/{variable}:0"] = array


def write_arrays(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> None:
    named = {f"{second(layer)}/{variable}": a for layer, arrays in layers.items() for variable, a in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("write", [write_keras_3, write_keras_2, write_arrays])
@pytest.mark.parametrize("gamma", [True, False])
def test_keras_files_give_the_same_network(tmp_path: Path, write: Any, gamma: bool) -> None:
    source, target = small(KERAS, 1, bn_gamma=gamma), small(KERAS, 2, bn_gamma=gamma)
    write(tmp_path / "w", variables(source))
    load_weights(target, tmp_path / "w")
    torch.testing.assert_close(logits(target, IMAGES), logits(source, IMAGES), rtol=0, atol=0)


def test_where_keras_has_no_scale_ours_is_one(tmp_path: Path) -> None:
    source, target = small(KERAS, 1, bn_gamma=False), small(KERAS, 2)
    write_keras_3(tmp_path / "w.weights.h5", variables(source))
    load_weights(target, tmp_path / "w.weights.h5")
    torch.testing.assert_close(logits(target, IMAGES), logits(source, IMAGES), rtol=0, atol=0)


def test_files_of_keras_that_are_no_whole_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = variables(small(KERAS, 1))
    path = tmp_path / "w.weights.h5"
    write_keras_3(path, layers, named=False)
    with pytest.raises(ValueError, match=r"w\.weights\.h5: a file of an early Keras 3, which does not name layers"):
        load_weights(small(KERAS, 2), path)
    write_keras_3(path, {name: arrays for name, arrays in layers.items() if name != "predictions"})
    with pytest.raises(ValueError, match=r"2 missing: predictions\.kernel, predictions\.bias"):
        load_weights(small(KERAS, 2), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"an HDF5 file that is cut short or damaged"):
        load_weights(small(KERAS, 2), path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"h5py is not installed: pip install 'residual-harness\[keras\]'"):
        load_weights(small(KERAS, 2), path)


def test_nothing_is_read_from_the_files_that_a_file_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel"] = np.zeros((1, 1))
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["predictions/kernel"] = h5py.ExternalLink("other.h5", "kernel")
    with pytest.raises(ValueError, match="not a state dict"):
        load_weights(small(KERAS, 2), tmp_path / "links.h5")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("a", (1,), "f4", external=[(str(tmp_path / "other.h5"), 0, 4)])
    with pytest.raises(ValueError, match="`a` lies in another file: refused"):
        load_weights(small(KERAS, 2), tmp_path / "raw.h5")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_outputs_equal_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Keras's torch backend, which computes batch-norms and means in float32 whatever is asked for."""
    pytest.importorskip("h5py")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    reference = keras.applications.InceptionResNetV2(
        weights=None, classes=7, classifier_activation=None, input_shape=(75, 75, 3)
    )
    rng = np.random.default_rng(0)
    for weight in reference.weights:
        if weight.path.endswith(("beta", "moving_mean", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    images = IMAGES.float()
    expected = logits(reference, images.permute(0, 2, 3, 1))
    assert expected.std() > 0.01
    reference.save_weights(tmp_path / "w.weights.h5")
    model = build_model(KERAS, num_classes=7, image_size=75, dropout_keep=1.0).eval()
    load_weights(model, tmp_path / "w.weights.h5")
    assert (logits(model, images) - expected.cpu()).abs().max() <= 1e-5 * expected.abs().max()
