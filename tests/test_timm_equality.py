"""With timm's weights, here random ones, our networks compute what timm's do. timm is needed for tests only."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.models import Network, build_model, load_weights
from tests.foreign import keys_of


@pytest.fixture(autouse=True, scope="module")
def _timm() -> None:
    """Imported here, since it takes seconds, for which no process that only collects the tests need wait."""
    pytest.importorskip("timm")


def of_timm(name: str, **fields: Any) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, **fields)
    return network


# Ours, timm's, tensors in timm's state dict (harness/architectures/README.md).
NETS = [
    ("inception_resnet_v2_released", "inception_resnet_v2", 1306),
    ("inception_v4", "inception_v4", 896),
    ("inception_v3", "inception_v3", 566),
]


@cache
def shapes_of_timms() -> dict[str, Tensor]:
    """The tensors of timm's Inception-ResNet-v2, without values."""
    with torch.device("meta"):
        state: dict[str, Tensor] = of_timm("inception_resnet_v2", num_classes=10).state_dict()
    return state


def unwritten(ours: str, size: int, **fields: Any) -> Network:
    """Our network before its weights are loaded, of which every test that uses it loads all: none is drawn."""
    with torch.device("meta"):
        model = build_model(ours, num_classes=20, image_size=size, dropout_keep=1.0, **fields)
    return model.to_empty(device="cpu")


def pair(ours: str, theirs: str, size: int) -> tuple[Network, nn.Module, Tensor]:
    """Our network with the weights of timm's, and images. timm's running statistics are those of the images."""
    torch.manual_seed(0)
    reference = of_timm(theirs, num_classes=20)
    images = torch.randn(4 if size < 200 else 1, 3, size, size)
    norms = [module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.momentum = 1.0
    with torch.no_grad():
        reference.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    model = unwritten(ours, size)
    load_weights(model, reference.state_dict())
    return model, reference, images


@pytest.mark.parametrize("size", [107, pytest.param(299, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("ours", "theirs"), [net[:2] for net in NETS])
def test_outputs_and_gradients_equal_timms(ours: str, theirs: str, size: int) -> None:
    model, reference, images = pair(ours, theirs, size)
    with torch.no_grad():
        theirs_out, ours_out = reference.eval()(images), model.eval()(images)
    assert theirs_out.std() > 0.01
    assert (ours_out - theirs_out).abs().max() <= 1e-4 * theirs_out.abs().max()

    theirs_out, ours_out = reference.train()(images), model.train()(images)
    assert (ours_out - theirs_out).abs().max() <= 1e-4 * theirs_out.abs().max()

    weights = torch.randn_like(theirs_out)
    (theirs_out * weights).sum().backward()
    (ours_out * weights).sum().backward()
    keys, parameters = keys_of(model, "timm"), dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        gradient = parameters[keys[name]].grad
        assert gradient is not None and parameter.grad is not None
        # The last up-projection's bias stands before a batch-norm: both its gradients are rounding errors of zero.
        assert (parameter.grad - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-6, name

    theirs_buffers = dict(reference.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, theirs_buffers[keys[name]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ours", "theirs", "count"), NETS)
def test_every_tensor_of_timms_is_used_once(ours: str, theirs: str, count: int) -> None:
    with torch.device("meta"):
        reference = of_timm(theirs)
        model = build_model(ours, num_classes=1000, image_size=299)
    keys, own, timms = keys_of(model, "timm"), model.state_dict(), reference.state_dict()
    assert len(keys) == count
    assert sorted(keys.values()) == sorted(timms)
    assert sorted(keys) == sorted(own)
    assert all(own[key].shape == timms[keys[key]].shape for key in keys)


@pytest.mark.parametrize("size", [299, 347])
def test_inception_v3_with_its_auxiliary_head_too(size: int) -> None:
    """At 347x347 the head's 5x5 layer leaves 2x2 positions, whose mean it takes."""
    torch.manual_seed(0)
    reference = of_timm("inception_v3", num_classes=20, aux_logits=True)
    model = unwritten("inception_v3", size, aux_head=True)
    load_weights(model, reference.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for ours, theirs in zip(model(images, with_aux=True), reference.train()(images), strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_below_299_the_auxiliary_heads_layer_is_as_large_as_the_pooled_map_and_timms_does_not_fit() -> None:
    with torch.device("meta"):
        reference = of_timm("inception_v3", num_classes=20, aux_logits=True)
        model = build_model("inception_v3", num_classes=20, image_size=298, aux_head=True)
        with pytest.raises(
            ValueError, match=r"1 of another shape: AuxLogits\.conv1\.conv\.weight is .*5, 5\), not .*4, 4\)"
        ):
            load_weights(model, reference.state_dict())


def test_a_network_without_an_auxiliary_head_leaves_timms_unread() -> None:
    with torch.device("meta"):
        weights = of_timm("inception_v3", num_classes=10, aux_logits=True).state_dict()
    model = build_model("inception_v3", num_classes=10, image_size=75)
    load_weights(model, {key: torch.full_like(tensor, 0.5, device="cpu") for key, tensor in weights.items()})
    assert bool((model.classifier.weight == 0.5).all())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"remove": "repeat.3.conv2d.bias"}, r"1 missing: repeat\.3\.conv2d\.bias"),
        ({"add": "repeat.99.conv2d.bias"}, r"1 left over: repeat\.99\.conv2d\.bias"),
        ({"reshape": "classif.bias"}, r"1 of another shape: classif\.bias is \(7,\), not \(10,\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_and_nothing_loaded(change: dict[str, str], says: str) -> None:
    model = build_model("inception_resnet_v2_released", num_classes=10, image_size=75, width=0.125)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = {timm: torch.rand_like(before[own].float()) for own, timm in keys_of(model, "timm").items()}
    weights |= {key: torch.zeros(7) for key in (change.get("add"), change.get("reshape")) if key}
    weights.pop(change.get("remove", ""), None)
    with pytest.raises(ValueError, match=says):
        load_weights(model, weights)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        (
            "inception_resnet_v2",
            {},
            "none of its 1306 tensors has a name .*are known for inception_resnet_v1_released, ",
        ),
        ("inception_resnet_v2_released", {"stem": "small"}, "none of its 1306 .*have the paper's stem"),
        ("inception_resnet_v2_released", {"width": 0.5}, "of another shape: conv2d_1a.conv.weight is"),
        ("inception_resnet_v2_released", {"repeats": [10, 20, 9]}, r"left over: repeat_2\.8\.branch0\.conv\.weight"),
        ("inception_resnet_v2_released", {"repeats": [10, 20, 11]}, r"missing: repeat_2\.9\.branch0\.conv\.weight"),
        ("inception_resnet_v2_released", {"bn_gamma": False}, r"left over: conv2d_1a\.bn\.weight"),
        ("inception_resnet_v2_released", {"up_projection_bias": "off"}, r"left over: repeat\.0\.conv2d\.bias"),
        ("inception_resnet_v2_released", {"batch_norm": "after_sum"}, r"missing: stages\.0\.0\.sum_norm\.weight"),
        ("inception_resnet_v2_released", {"residual_scale": "learned"}, "missing: stages.0.0.residual_sum.scale"),
        ("inception_resnet_v2_released", {"aux_head": True}, r"missing: aux_head\.reduce\.conv\.weight"),
    ],
)
def test_a_network_unlike_timms_is_refused(name: str, fields: dict[str, Any], says: str) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=10, image_size=299, **fields)
        with pytest.raises(ValueError, match=says):
            load_weights(model, shapes_of_timms())
