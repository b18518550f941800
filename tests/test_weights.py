"""Weights from elsewhere: what is loaded, whatever its file and keys are called, and what is refused, by its name."""

from __future__ import annotations

import argparse
import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.models import Network, build_model, load_weights
from tests.foreign import keys_of

safetensors = pytest.importorskip("safetensors.torch")
StateDict = dict[str, Tensor]


def net(seed: int, width: float = 1 / 16, num_classes: int = 10, name: str = "inception_v4", **fields: Any) -> Network:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"image_size": 75, "repeats": [1, 1, 1], "dropout_keep": 1.0} | fields
    return build_model(name, num_classes=num_classes, width=width, **settings)


@cache
def source() -> Network:
    """Not changed by any test."""
    return net(1)


@cache
def _reused() -> Network:
    return net(2)


def blank() -> Network:
    """A network of the same kind with nothing but zeros."""
    model = _reused()
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def save(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.save_file(content, path)
    else:
        torch.save(content, path)
    return path


def same(a: Network, b: Network) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in a.state_dict().items())


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("names", ["this harness", "timm"])
def test_a_file_is_loaded_whole(tmp_path: Path, file: str, names: str) -> None:
    target = blank()
    keys = keys_of(source(), names)
    load_weights(target, save(tmp_path / file, {keys[key]: tensor for key, tensor in source().state_dict().items()}))
    assert same(source(), target)


def test_a_net_is_built_with_the_weights_of_a_file(tmp_path: Path) -> None:
    source = net(1)
    path = save(tmp_path / "weights.pt", source.state_dict())
    config = source.config.model_copy(update={"weights": str(path)})
    model = build_model(config, num_classes=10, image_size=75)
    images = torch.randn(2, 3, 75, 75)
    assert torch.equal(source(images), model(images))


# The content tells what a file is, not its name.


def as_zip(state: StateDict, path: Path) -> None:
    torch.save(state, path)


def as_old_pickle(state: StateDict, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_safetensors(state: StateDict, path: Path) -> None:
    path.write_bytes(safetensors.save(state))


def as_npz(state: StateDict, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{key: tensor.numpy() for key, tensor in state.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("write", [as_zip, as_old_pickle, as_safetensors, as_npz])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.h5", "w"])
def test_any_kind_under_any_name(tmp_path: Path, write: Callable[[StateDict, Path], None], name: str) -> None:
    target = blank()
    write(source().state_dict(), tmp_path / name)
    load_weights(target, tmp_path / name)
    assert same(source(), target)


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
    np.savez(tmp_path / "w.npz", a=np.array([Harmful(trace)]), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.array([Harmful(trace)]), allow_pickle=True)
        archive.writestr("a.npy", buffer.getvalue())
    for file, says in (
        ("weights.pt", "a pickle with more than tensors .*refused"),
        ("plain.pkl", "a pickle with more than tensors .*refused"),
        ("w.npz", "an archive of NumPy's that is damaged or holds more than numbers"),
    ):
        with pytest.raises(ValueError, match=rf"{file}: {says}"):
            load_weights(blank(), tmp_path / file)
    assert not trace.exists()


def torch_bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


WEIGHTS = {"a.weight": torch.arange(3000.0)}
ZIP, OLD = torch_bytes(WEIGHTS), torch_bytes(WEIGHTS, _use_new_zipfile_serialization=False)
SAFETENSORS: bytes = safetensors.save(WEIGHTS)


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name in names:
            content.writestr(name, b"x")
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 223774238\n"


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (LFS, "a Git LFS pointer, not the content it stands for: fetch that with `git lfs pull`"),
        (b"/annex/objects/SHA256E-s22--4d7a.pth\n", "a git-annex pointer"),
        (b"\n <!DOCTYPE html>\n<html><head>", "an HTML page"),
        (b"<html>404</html>", "an HTML page"),
        (b"\xef\xbb\xbf<HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "an XML document"),
        (b'{"weight_map": {"a": "model-1.safetensors"}}', "a JSON text"),
        (b"hello", "a text, which begins 'hello'"),
        (gzip.compress(ZIP), "compressed with gzip: unpack it first"),
        (b"\x28\xb5\x2f\xfd" + bytes(90), "compressed with zstd"),
        (bytes(600), "begins with nothing but zeros"),
        (b"\xff" * 64, "begins with the bytes ff ff ff"),
        (b"\x93NUMPY\x01\x00", "a single NumPy array"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image"),
        (ZIP[: len(ZIP) // 2], "a torch file or another zip archive, cut short or damaged"),
        (ZIP[:-30], "a torch file or another zip archive, cut short or damaged"),
        (b"PK\x03\x04 cut short", "a torch file or another zip archive, cut short or damaged"),
        (OLD[: len(OLD) // 2], "a torch file that is cut short or damaged"),
        (OLD[:300], "cut short or damaged"),
        (OLD[:40], "cut short or damaged"),
        (SAFETENSORS[:-1], "a safetensors file that is cut short or damaged"),
        (SAFETENSORS[:40], "a safetensors file that is cut short or damaged"),
        (SAFETENSORS + b"\0", "a safetensors file that is cut short or damaged"),
        (archive("readme.txt", "w/model.pt"), "a zip archive with readme.txt, w/model.pt in it: unpack it first"),
        (archive("net/data.pkl", "net/constants.pkl"), "a TorchScript program, which is not run"),
        (torch_bytes(torch.nn.Linear(2, 2)), r"more than tensors .* in it, torch\.nn\.modules\.linear\.Linear,"),
        (
            torch_bytes({**WEIGHTS, "args": argparse.Namespace(lr=1)}),
            r"in it, argparse\.Namespace, .*refused; save the",
        ),
        (torch_bytes({"epoch": 3}), "not a state dict .*, but 'epoch'"),
        (torch_bytes([1, 2]), "not a state dict .*, but list"),
        (torch_bytes({}), "not a state dict .*, but an empty mapping"),
    ],
)
def test_a_file_of_anything_else_is_refused_by_what_it_is(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{says}"):
        load_weights(blank(), tmp_path / name)


@pytest.mark.parametrize("cut", range(0, len(SAFETENSORS), 997))
@pytest.mark.parametrize("whole", [SAFETENSORS, ZIP, OLD])
def test_a_file_cut_anywhere_is_refused_in_one_sentence(tmp_path: Path, whole: bytes, cut: int) -> None:
    (tmp_path / "w").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"w: (an empty file|.*cut short or damaged)"):
        load_weights(blank(), tmp_path / "w")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "nowhere.pt", "no such file"),
        (tmp_path, "a folder, not a file"),
        (Path("/dev/zero"), "a device or pipe, not a file"),
    ):
        with pytest.raises(ValueError, match=f"{path}: {says}"):
            load_weights(blank(), path)


# Where in a checkpoint a state dict lies, and what its keys begin with.


def within(*keys: str) -> Callable[[StateDict], Any]:
    def wrap(state: StateDict) -> Any:
        content: Any = state
        for key in reversed(keys):
            content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
        return content

    return wrap


def prefixed(prefix: str) -> Callable[[StateDict], Any]:
    return lambda state: {f"{prefix}{key}": tensor for key, tensor in state.items()}


def uncounted(state: StateDict) -> StateDict:
    return {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


def averaged(state: StateDict) -> StateDict:
    return {"n_averaged": torch.tensor(7), **prefixed("module.")(state)}


def partly_compiled(state: StateDict) -> StateDict:
    return {
        key.replace("stages.0.", "stages.0._orig_mod.").replace("features.6.", "features.6._orig_mod."): tensor
        for key, tensor in state.items()
    }


@pytest.mark.parametrize("names", ["this harness", "timm"])
@pytest.mark.parametrize(
    "form",
    [
        within("model"),
        within("state_dict"),
        within("state_dict_ema"),
        within("model_ema"),
        within("checkpoint", "state_dict"),
        within("a", "b", "c"),
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("model."),
        prefixed("module._orig_mod."),
        prefixed("net.backbone."),
        lambda state: within("state_dict")(prefixed("model.")(state)),
        uncounted,
        averaged,
        partly_compiled,
        lambda state: {**state, "epoch": 3},
        lambda state: {"state_dict": state, "state_dict_ema": {key: tensor.clone() for key, tensor in state.items()}},
        lambda state: {key: tensor.double() for key, tensor in state.items()},
    ],
)
def test_a_state_dict_is_found_wherever_it_is_unambiguous(names: str, form: Callable[[StateDict], Any]) -> None:
    target = blank()
    keys = keys_of(source(), names)
    load_weights(target, form({keys[key]: tensor for key, tensor in source().state_dict().items()}))
    assert same(source(), target)


def test_a_checkpoint_that_holds_itself_is_read_once() -> None:
    target = blank()
    content: dict[str, Any] = {"model": source().state_dict()}
    content["self"] = content
    load_weights(target, content)
    assert same(source(), target)


@pytest.mark.parametrize("names", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("ema", "weights")])
def test_two_state_dicts_that_differ_are_a_guess_and_refused(names: tuple[str, str]) -> None:
    first, second = names
    with pytest.raises(ValueError, match=rf"several state dicts fit .*\['{first}'\], \['{second}'\]; save the one"):
        load_weights(net(3), {first: net(1).state_dict(), second: net(2).state_dict()})


def test_of_two_state_dicts_the_one_that_fits_is_loaded() -> None:
    target = blank()
    load_weights(target, {"teacher": net(3, width=1 / 8).state_dict(), "student": source().state_dict()})
    assert same(source(), target)


def test_of_a_checkpoint_with_an_average_the_current_parameters_are_loaded() -> None:
    target = blank()
    average = {key: torch.zeros_like(value) for key, value in source().named_parameters()}
    load_weights(target, {"step": 3, "model": source().state_dict(), "average": {"weights": average, "updates": 3}})
    assert same(source(), target)


def test_the_weights_of_an_auxiliary_head_that_a_net_lacks_are_left_unread() -> None:
    source, target = net(1, aux_head=True, image_size=107), net(2)
    load_weights(target, source.state_dict())
    assert torch.equal(source.classifier.weight, target.classifier.weight)
    with pytest.raises(ValueError, match=r"missing: aux_head\.reduce\.conv\.weight"):
        load_weights(net(3, aux_head=True, image_size=107), target.state_dict())


@pytest.mark.parametrize("name", ["inception_resnet_v2_released", "inception_v3"])
def test_cadenes_names(name: str) -> None:
    source, target = net(1, name=name), net(2, name=name)
    timm = keys_of(source, "timm")
    state = {timm[key]: tensor for key, tensor in source.state_dict().items()}
    own = {"classif": "last_linear", "fc": "last_linear"}
    renamed = {
        ".".join((own.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:])): t for key, t in state.items()
    }
    assert renamed.keys() != state.keys()
    load_weights(target, uncounted(renamed))
    assert same(source, target)


# What does not fit is refused, and nothing is loaded.


def changed(**changes: Tensor | None) -> Callable[[StateDict], StateDict]:
    def change(state: StateDict) -> StateDict:
        merged = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
        return {key: tensor for key, tensor in merged.items() if tensor is not None}

    return change


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (changed(classifier__bias=None), r"1 missing: classifier\.bias"),
        (changed(extra__bias=torch.zeros(1)), r"1 left over: extra\.bias"),
        (changed(classifier__bias=torch.zeros(7)), r"1 of another shape: classifier\.bias is \(7,\), not \(10,\)"),
        (
            changed(classifier__bias=torch.zeros(10, dtype=torch.int8)),
            r"1 of another kind: classifier\.bias is torch\.int8",
        ),
        (changed(classifier__bias=torch.zeros(10, dtype=torch.complex64)), r"1 of another kind: classifier\.bias"),
        (changed(classifier__bias=torch.zeros(10).to_sparse()), r"1 of another kind: classifier\.bias"),
        (changed(classifier__bias=torch.full((10,), torch.nan)), r"1 not finite: classifier\.bias"),
        (changed(classifier__bias=torch.full((10,), 1e300, dtype=torch.float64)), r"1 not finite: classifier\.bias"),
        (
            lambda state: prefixed("backbone.")(state) | {"head.weight": torch.zeros(1)},
            r"none of its \d+ tensors has a name",
        ),
        (
            lambda state: {"conv1.weight": torch.zeros(2)},
            r"none of its 1 tensors has a name .* gives it: conv1\.weight",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_whole(form: Callable[[StateDict], StateDict], says: str) -> None:
    target = blank()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(ValueError, match=f"the weights do not fit this network; .*{says}"):
        load_weights(target, form(source().state_dict()))
    assert all(torch.equal(before[key], tensor) for key, tensor in target.state_dict().items())


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_weights_of_another_width_are_refused(tmp_path: Path, file: str) -> None:
    path = save(tmp_path / file, net(1, width=1 / 8).state_dict())
    with pytest.raises(ValueError, match=rf"{file}: .*of another shape: stem.0.conv.weight is \(4, 3, 3, 3\), not \(2"):
        load_weights(blank(), path)


def test_weights_for_other_classes_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", net(1, num_classes=7).state_dict())
    with pytest.raises(ValueError, match=r"2 of another shape: classifier\.weight is \(7, 96\), not \(10, 96\)"):
        load_weights(blank(), path)
