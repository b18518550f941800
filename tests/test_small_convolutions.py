"""Convolutions on a CPU, each by the quickest way: the same to rounding as torch's, chosen by shapes alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.models import build_model, layers
from harness.models.layers import MANY, POINTWISE, UNFOLDED, WEIGHTS, Conv2d
from harness.probes import observe

SMALL: dict[str, Any] = {"width": 0.0625, "repeats": (1, 1, 2), "image_size": 32, "num_classes": 4, "stem": "small"}


ORDERS = (torch.channels_last, torch.contiguous_format)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = last(build_model("inception_resnet_v2", residual_scale=0.3, **SMALL))
    return net


def last(layer: nn.Module) -> Any:
    return layer.to(memory_format=torch.channels_last)


@pytest.fixture
def unfolded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each convolution that was a product of matrices."""
    calls: list[int] = []
    plain: Callable[..., Tensor] = torch._C._nn.thnn_conv2d  # type: ignore[attr-defined]

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(torch._C._nn, "thnn_conv2d", counted)
    return calls


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("order_back", ORDERS)
@pytest.mark.parametrize(("images", "pixels"), [(4, 9), (4, 2), (4, 1), (MANY, 1), (MANY, 3), (400, 9)])
def test_outputs_and_gradients_are_torchs_to_rounding(
    kernel: tuple[int, int],
    stride: int,
    order: torch.memory_format,
    order_back: torch.memory_format,
    images: int,
    pixels: int,
) -> None:
    """Whatever the order in memory of the images and of the gradient that comes back, and by whichever way."""
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    ours = last(Conv2d(6, 10, kernel, stride, padding))
    theirs = last(nn.Conv2d(6, 10, kernel, stride, padding))
    theirs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, theirs):
        x = torch.linspace(-1, 1, images * 6 * pixels**2).reshape(images, 6, pixels, pixels)
        x = x.contiguous(memory_format=order).requires_grad_()
        out = layer(x)
        back = torch.linspace(-1, 2, out.numel()).reshape(out.shape).contiguous(memory_format=order_back)
        found.append((out, *torch.autograd.grad(out, (x, layer.weight, layer.bias), back)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


def test_the_layers_of_a_small_net_are_read_as_before(unfolded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = []
    for largest in (UNFOLDED, 0):
        monkeypatch.setattr(layers, "UNFOLDED", largest)
        net = small_net()
        with observe(net, "full") as probe:
            probe.step(0)
            net(images).square().mean().backward()
        [row] = probe.rows
        found.append({key: value for key, value in row.items() if not key.startswith("time/")})
    assert unfolded and len(found[0]) > 100
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-4, nan_ok=True)


def test_the_choice_is_by_shapes_alone() -> None:
    layer = Conv2d(16, 16, (3, 3), padding=1)
    pixels = UNFOLDED // (16 * 9) // 3
    assert layer._way((1, 16, 3, pixels)).by == "unfolding"
    assert layer._way((1, 16, 3, pixels + 2)).by == "torch"
    heavy = Conv2d(256, 256, (3, 3), padding=1)
    images = WEIGHTS // heavy.weight.numel()
    assert heavy._way((images, 256, 3, 3)).by == "unfolding"
    assert heavy._way((images + 1, 256, 3, 3)).by == "torch"
    pointwise = Conv2d(16, 16, 1)
    assert pointwise._way((MANY - 1, 16, 1, 1)).by == "unfolding"
    assert pointwise._way((MANY, 16, 1, 1)).by == pointwise._way((1, 16, POINTWISE, 1)).by == "linear"


def test_taps_that_meet_padding_alone_are_left_out() -> None:
    layer = Conv2d(4, 4, (3, 7), padding=(1, 3))
    assert layer._way((2, 4, 4, 4)).taps is None
    assert layer._way((2, 4, 1, 2))[1:] == ((slice(1, 2), slice(2, 5)), (1, 3), (0, 1))
    assert layer._way((MANY, 4, 1, 1))[0] == "linear"
    for other in (Conv2d(4, 4, 3, 2, 1), Conv2d(4, 4, 3), Conv2d(4, 4, 3, padding=0)):
        assert other._way((2, 4, 3, 3)).taps is None, "strides and valid padding keep all"


@pytest.mark.parametrize("change", ["double", "bfloat16", "meta"])
def test_other_arithmetic_and_devices_keep_torchs_way(change: str, unfolded: list[int]) -> None:
    layer, x = last(Conv2d(4, 4, (3, 3), padding=1)), torch.zeros(2, 4, 5, 5)
    if change == "meta":
        layer, x = layer.to("meta"), x.to("meta")
    else:
        kind: torch.dtype = getattr(torch, change)
        layer, x = layer.to(kind), x.to(kind)
    layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv2d(4, 4, 1)(torch.zeros(2, 4, 5, 5)).dtype == torch.bfloat16
    assert not unfolded


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at its first jvp
def test_torch_func_and_forward_mode_differentiation_work() -> None:
    layer = last(Conv2d(4, 4, (3, 3), padding=1))
    batches = torch.randn(3, 2, 4, 5, 5)
    each = torch.stack([layer(x) for x in batches])
    torch.testing.assert_close(torch.func.vmap(layer)(batches), each)
    out, slope = torch.func.jvp(layer, (batches[0],), (batches[1],))[:2]
    torch.testing.assert_close(out, each[0])
    assert slope.shape == out.shape and slope.any()


def test_curvature_goes_through_it(unfolded: list[int]) -> None:
    layer = last(Conv2d(3, 5, (1, 3), padding=(0, 1)))
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    (slope,) = torch.autograd.grad(layer(x).tanh().square().sum(), layer.weight, create_graph=True)
    (curved,) = torch.autograd.grad((slope * slope.detach()).sum(), layer.weight)
    same = last(nn.Conv2d(3, 5, (1, 3), padding=(0, 1)))
    same.load_state_dict(layer.state_dict())
    (slope,) = torch.autograd.grad(same(x).tanh().square().sum(), same.weight, create_graph=True)
    (expected,) = torch.autograd.grad((slope * slope.detach()).sum(), same.weight)
    torch.testing.assert_close(curved, expected, rtol=1e-4, atol=1e-4)
    assert len(unfolded) == 1


def test_a_training_repeats_bitwise() -> None:
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    ends = []
    for _ in range(2):
        net = small_net()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ends.append(torch.cat([weight.detach().flatten() for weight in net.parameters()]))
    assert torch.equal(*ends)
