"""How sharply a loss curves where a training is, as its optimizer sees it, and how noisy its gradient is.

>>> from harness.probes.curvature import sharpness
>>> sharpness(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (images, labels), optimizer)

Neither leaves a trace: parameters, their gradients, buffers, modes and random state are afterwards as before, and
`observe` takes no notice. Batch-norm uses the batch's statistics; dropout modules are off. All is computed in the
parameters' own precision, float32 or float64: without autocast and without TensorFloat-32. On the CPU the same
reading gives the same bits at an equal number of threads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.probes.lanczos import Eigenvalue, largest_eigenvalue
from harness.probes.passes import eager, undisturbed, unobserved, unwrap
from harness.probes.preconditioners import heavy_ball

Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], Tensor]
"""The loss of a model on a batch: a scalar, the mean over its samples. It must call the model that it is given."""


def sharpness(
    model: nn.Module,
    loss: Loss[Batch],
    batch: Batch,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    products: int = 30,
    tolerance: float = 1e-4,
) -> Eigenvalue:
    """The algebraically largest eigenvalue of P^-1/2 H P^-1/2, or of the Hessian H itself without an optimizer.

    H is of the loss on the batch, with the optimizer's L2 penalty, over the parameters that it trains, or else all that
    require gradients; P is what it divides gradients by (see `heavy_ball`). Directions of negative curvature, however
    strong, do not count: where there are no others, the value is negative. Training at a rate lr is stable while
    lr * gain * value is below `harness.optim.stability.threshold`.

    batch: handed on to `loss`. products: at most so many Hessian-vector products, each of which costs two to three
        gradients; memory holds the graph of a gradient and some vectors of the parameters' size.
    tolerance: stop when the error is estimated to be a smaller share of the value.
    Raises ValueError for a model that cannot be differentiated twice (DataParallel, compiled parts, SyncBatchNorm in a
    data-parallel training) or whose parameters are in lower precision, for a loss that depends on none of them, and as
    `heavy_ball` and `largest_eigenvalue` do; torch's own error where memory does not suffice.
    """
    core = _differentiable(model)
    parameters: list[Tensor]
    if optimizer is None:
        parameters = [parameter for parameter in core.parameters() if parameter.requires_grad]
        roots = penalty = None
    else:
        ball = heavy_ball(optimizer)
        parameters = ball.parameters
        pairs = list(zip(parameters, ball.divisors, strict=True))
        roots = _flat([torch.as_tensor(p, device=w.device).rsqrt().expand_as(w) for w, p in pairs], parameters)
        constants = [torch.full_like(w, each) for w, each in zip(parameters, ball.penalties, strict=True)]
        penalty = _flat(constants, parameters) if any(ball.penalties) else None
    with _traceless(core):
        gradients = _gradients(loss(core, batch), parameters, create_graph=True)

        def product(vector: Tensor) -> Tensor:
            scaled = vector if roots is None else roots * vector
            image = _flat(_hessian_product(gradients, parameters, scaled), parameters)
            image = image if penalty is None else image.addcmul_(penalty, scaled)
            return image if roots is None else image.mul_(roots)

        return largest_eigenvalue(product, _start(parameters), products, tolerance)


@dataclass(frozen=True)
class GradientNoise:
    """The gradient's square and its noise, estimated without bias; from two batches either can come out negative.

    square: squared norm of the mean gradient G. trace: sum of the variances of one sample's gradient.
    """

    square: float
    trace: float

    @property
    def scale(self) -> float:
        """trace / square, in samples: the batch size at which noise and gradient are alike. NaN unless both are > 0.

        To average over readings, average the two and divide then. Source: McCandlish et al. 1812.06162, appendix A.
        """
        return self.trace / self.square if self.trace > 0 and self.square > 0 else math.nan


def gradient_noise(model: nn.Module, loss: Loss[Batch], halves: tuple[Batch, Batch], size: int) -> GradientNoise:
    """The noise of the gradient, from those of two batches of `size` samples each: two gradients.

    With gradients g and h: square = <g, h>, trace = size |g - h|**2 / 2, which is McCandlish et al.'s estimate with
    batches of `size` and twice as many. Raises ValueError as `sharpness` does, and for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected a whole number >= 1")
    core = _differentiable(model)
    parameters = [parameter for parameter in core.parameters() if parameter.requires_grad]
    with _traceless(core):
        one, other = (
            _flat([None if g is None else g.detach() for g in _gradients(loss(core, half), parameters)], parameters)
            for half in halves
        )
        sums = torch.stack([(one.double() @ other.double()), (one - other).double().square().sum()])
    square, difference = sums.tolist()
    return GradientNoise(square, size * difference / 2)


def _differentiable(model: nn.Module) -> nn.Module:
    """The network inside its wrappers. Raises ValueError where it has no second derivatives to be had."""
    if isinstance(model, nn.DataParallel):
        raise ValueError("DataParallel copies the model in every pass; give the module inside it")
    core, group = unwrap(model)
    for name, module in core.named_modules():
        if hasattr(module, "_orig_mod"):
            raise ValueError(f"{name}: compiled parts cannot be differentiated twice; compile the whole model instead")
        if group is not None and isinstance(module, nn.SyncBatchNorm):
            raise ValueError(f"{name}: SyncBatchNorm cannot be differentiated twice")
    for name, parameter in core.named_parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name}: {parameter.dtype} is too coarse for curvature; expected float32 or float64")
    return core


@contextlib.contextmanager
def _traceless(core: nn.Module) -> Iterator[None]:
    """Differentiable forward passes that leave no trace, in full precision and by operations that have second ones."""
    device = next(core.parameters()).device.type
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with (
            undisturbed(core, training=True),
            unobserved(),
            eager(core),
            torch.autocast(device, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _gradients(loss: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Sequence[Tensor | None]:
    if loss.numel() != 1 or not loss.requires_grad:
        raise ValueError(f"the loss is {tuple(loss.shape)}, expected a scalar that depends on trained parameters")
    return torch.autograd.grad(loss.sum(), parameters, create_graph=create_graph, allow_unused=True)


def _hessian_product(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], vector: Tensor
) -> Sequence[Tensor | None]:
    """H times a flat vector, by differentiating <gradient, vector>; None where a loss is linear in a parameter."""
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    curved = [
        (gradient, part.view(gradient.shape).to(gradient.device))
        for gradient, part in zip(gradients, parts, strict=True)
        if gradient is not None and gradient.requires_grad
    ]
    if not curved:
        return [None] * len(parameters)
    outputs, weights = zip(*curved, strict=True)
    return torch.autograd.grad(outputs, parameters, weights, retain_graph=True, allow_unused=True)


def _flat(parts: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """Parts of the parameters' shapes laid end to end, (n,), zeros for None."""
    device = parameters[0].device
    pairs = zip(parts, parameters, strict=True)
    return torch.cat([(torch.zeros_like(w) if part is None else part).reshape(-1).to(device) for part, w in pairs])


def _start(parameters: Sequence[Tensor]) -> Tensor:
    """A vector with a part of every direction, always the same for as many parameters."""
    kind = torch.float64 if any(parameter.dtype == torch.float64 for parameter in parameters) else torch.float32
    count = sum(parameter.numel() for parameter in parameters)
    return torch.randn(count, dtype=kind, generator=torch.Generator().manual_seed(0)).to(parameters[0].device)
