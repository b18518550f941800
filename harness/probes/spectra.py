"""Numbers of a matrix's singular values: how many directions features fill, and how much a layer can amplify."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """exp(entropy) of the singular values of features (N, C), as shares of their sum; a double, on the device.

    From 1, where all samples point one way, to min(N, C); 0 where all are zero, NaN where one is not finite. Nothing is
    subtracted: a mean that all samples share is one direction. Source: Roy & Vetterli, EUSIPCO 2007.
    """
    features = features.double()
    if not bool(features.isfinite().all()):
        return torch.full((), torch.nan, dtype=torch.float64, device=features.device)
    values = torch.linalg.svdvals(features)
    total = values.sum()
    return torch.special.entr(values / total).sum().exp() if bool(total > 0) else torch.zeros_like(total)


@torch.no_grad()
def spectral_norm(kernel: Tensor) -> Tensor:
    """The largest singular value of a kernel (C, ...) as the matrix (C, -1); a double, on the device.

    Of a 1x1 convolution's or a linear layer's it is the layer's largest amplification. Exact: the root of the largest
    eigenvalue of the smaller of the two products with the transpose. NaN where an element is not finite.
    """
    matrix = kernel.detach().flatten(1).double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    product = matrix @ matrix.T
    if not bool(product.isfinite().all()):
        return torch.full((), torch.nan, dtype=torch.float64, device=kernel.device)
    largest: Tensor = torch.linalg.eigvalsh(product)[-1]
    return largest.clamp_min(0).sqrt()
