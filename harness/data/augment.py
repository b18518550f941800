"""Random distortions of a batch of normalised images (N, 3, H, W), on their device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.order import Dice

PAD_SHARE = 8
"""`crop_flip` pads by the image's size over this: 4 pixels at 32x32 (He et al., arXiv:1512.03385)."""
BRIGHTNESS, SATURATION, HUE, CONTRAST = 32 / 255, (0.5, 1.5), 0.2, (0.5, 1.5)
"""The Inception recipe's colour distortion (TF-slim, inception_preprocessing.distort_color with fast_mode off):
largest shift of all values; factor on the saturation; largest shift of the hue, in turns; factor on the contrast."""
ORDERINGS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)
"""The four orders in which the recipe applies them; each image gets one by chance."""


def flip(images: Tensor, dice: Dice) -> Tensor:
    """Mirror each image left to right by an even chance."""
    mirrored = dice.place(dice.below(2) == 1)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def crop_flip(images: Tensor, dice: Dice) -> Tensor:
    """Pad by zeros (the mean colour), crop at a random place to the old size, and flip by an even chance."""
    n, _, height, width = images.shape
    pad = max(height, width) // PAD_SHARE
    down, right = (dice.place(dice.below(2 * pad + 1))[:, None] for _ in range(2))
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    padded = F.pad(images, (pad, pad, pad, pad))
    cropped = padded[which, :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, 3): channels-last as it comes
    return flip(cropped.permute(0, 3, 1, 2), dice)


def inception(images: Tensor, dice: Dice) -> Tensor:
    """Flip by an even chance, then distort the colours. Values in [-1, 1], before and after."""
    colours = flip(images, dice) / 2 + 0.5
    amounts = {
        "brightness": dice.uniform(-BRIGHTNESS, BRIGHTNESS),
        "saturation": dice.uniform(*SATURATION),
        "hue": dice.uniform(-HUE, HUE),
        "contrast": dice.uniform(*CONTRAST),
    }
    orderings = dice.below(len(ORDERINGS))
    for number, ordering in enumerate(ORDERINGS):
        chosen = dice.place(np.flatnonzero(orderings == number))
        part = colours[chosen]
        for name in ordering:
            part = _DISTORTIONS[name](part, amounts[name][chosen][:, None, None, None])
        colours[chosen] = part
    return colours.clamp(0, 1) * 2 - 1


def adjust_brightness(images: Tensor, shift: Tensor) -> Tensor:
    """Add a number to every value."""
    return images + shift


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance from each channel's mean over the image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * factor + mean


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation of HSV, at most to 1; hue and value stay.

    At constant hue and value each channel's distance from the largest is in proportion to the saturation.
    """
    value = images.amax(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    largest = value.clamp(min=0) / spread.clamp(min=torch.finfo(images.dtype).tiny)  # 1 / saturation
    return value - (value - images) * torch.minimum(factor.expand_as(largest), largest)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV by a part of a whole turn; saturation and value stay."""
    value, brightest = images.max(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    red, green, blue = images.unsqueeze(2).unbind(1)
    difference = torch.where(brightest == 0, green - blue, torch.where(brightest == 1, blue - red, red - green))
    sextant = difference / spread.clamp(min=torch.finfo(images.dtype).tiny) + 2 * brightest + 6 * turns
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)[:, None, None]
    k = (sextant + offsets) % 6
    return value - spread * torch.minimum(k, 4 - k).clamp(0, 1)


_DISTORTIONS = {
    "brightness": adjust_brightness,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
    "contrast": adjust_contrast,
}
