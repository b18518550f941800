"""Random distortions: what each one does to a picture, and that chance is a pure function of seed and step."""

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data import augment
from harness.data.order import CPU, BatchOrder, Dice
from harness.located import InputError

ALL = slice(None)


def dice(step: int = 0, size: int = 64, rows: slice = ALL, seed: int = 0) -> Dice:
    return Dice(seed, step, size, rows, CPU)


def pictures(n: int, size: int = 8) -> Tensor:
    """Images in [0, 1]."""
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def each(value: float) -> Tensor:
    return torch.tensor(value)[None, None, None, None]


def through_hsv(images: Tensor, *, turns: float = 0.0, saturation: float = 1.0) -> Tensor:
    """The definition, pixel by pixel."""

    def change(pixel: list[float]) -> tuple[float, float, float]:
        hue, s, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turns) % 1, min(1.0, s * saturation), value)

    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    changed = torch.tensor([change(pixel) for pixel in pixels])
    n, _, height, width = images.shape
    return changed.view(n, height, width, 3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3, 5.0])
def test_saturation_is_hsvs(factor: float) -> None:
    images = pictures(2)
    expected = through_hsv(images, saturation=factor)
    assert torch.allclose(augment.adjust_saturation(images, each(factor)), expected, atol=1e-5)


@pytest.mark.parametrize("turns", [-0.2, 0.0, 0.07, 0.2, 0.5])
def test_hue_is_hsvs(turns: float) -> None:
    images = pictures(2)
    assert torch.allclose(augment.adjust_hue(images, each(turns)), through_hsv(images, turns=turns), atol=1e-5)


def test_grey_has_neither_hue_nor_saturation() -> None:
    grey = torch.full((1, 3, 2, 2), 0.4)
    black = torch.zeros(1, 3, 2, 2)
    for image in (grey, black):
        assert torch.equal(augment.adjust_hue(image, each(0.1)), image)
        assert torch.equal(augment.adjust_saturation(image, each(1.5)), image)


def test_contrast_scales_about_each_channels_mean() -> None:
    image = torch.tensor([0.2, 0.6]).repeat(3, 1)[None, :, None, :]  # mean 0.4
    assert torch.allclose(augment.adjust_contrast(image, each(0.5))[0, 0, 0], torch.tensor([0.3, 0.5]))


def test_brightness_shifts() -> None:
    assert torch.allclose(augment.adjust_brightness(torch.zeros(1, 3, 1, 1), each(0.1)), torch.tensor(0.1))


def test_a_flip_mirrors_about_half_the_images_left_to_right() -> None:
    images = pictures(64)
    flipped = augment.flip(images, dice())
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert [a != b for a, b in zip(mirrored, same, strict=True)] == [True] * 64
    assert 20 < sum(mirrored) < 44


def test_crop_flip_shifts_by_up_to_an_eighth_over_zeros() -> None:
    count, size, pad = 400, 16, 2
    places = torch.arange(1.0, size * size + 1).view(1, 1, size, size).expand(count, 3, size, size)
    found = set()
    for image in augment.crop_flip(places, dice(size=count)):
        one = image[0] if image[0, size // 2, -3] > image[0, size // 2, 2] else image[0].flip(-1)
        centre = int(one[size // 2, size // 2]) - 1
        down, right = centre // size - size // 2, centre % size - size // 2
        expected = torch.zeros(size + 2 * pad, size + 2 * pad)
        expected[pad : pad + size, pad : pad + size] = places[0, 0]
        assert torch.equal(one, expected[pad + down :, pad + right :][:size, :size])
        found.add((down, right))
    assert found == {(down, right) for down in range(-pad, pad + 1) for right in range(-pad, pad + 1)}


def test_inception_keeps_the_range_and_changes_every_image_in_its_own_way() -> None:
    image = pictures(1) * 2 - 1
    distorted = augment.inception(image.expand(64, -1, -1, -1), dice())
    assert distorted.min() >= -1 and distorted.max() <= 1
    assert len({tuple(one.flatten().tolist()) for one in distorted}) == 64


def test_inception_is_the_four_distortions_in_the_order_that_chance_gives() -> None:
    images = pictures(16) * 2 - 1
    again = dice(size=16)
    expected = augment.flip(images, again) / 2 + 0.5
    brightness = again.uniform(-32 / 255, 32 / 255)
    saturation, hue, contrast = again.uniform(0.5, 1.5), again.uniform(-0.2, 0.2), again.uniform(0.5, 1.5)
    orderings = again.below(4)
    assert len(set(orderings)) == 4
    for i, number in enumerate(orderings):
        steps = {
            "brightness": lambda x, i=i: augment.adjust_brightness(x, brightness[i]),
            "saturation": lambda x, i=i: augment.adjust_saturation(x, saturation[i]),
            "hue": lambda x, i=i: augment.adjust_hue(x, hue[i]),
            "contrast": lambda x, i=i: augment.adjust_contrast(x, contrast[i]),
        }
        one = expected[i : i + 1]
        for name in augment.ORDERINGS[number]:
            one = steps[name](one)
        expected[i] = one[0]
    assert torch.allclose(augment.inception(images, dice(size=16)), expected.clamp(0, 1) * 2 - 1, atol=1e-5)


@pytest.mark.parametrize("distort", [augment.flip, augment.crop_flip, augment.inception])
def test_ranks_together_see_what_one_process_sees(distort: object) -> None:
    assert callable(distort)
    images = pictures(12) * 2 - 1
    whole = distort(images, dice(step=3, size=12))
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
        assert torch.allclose(distort(images[rows], dice(step=3, size=12, rows=rows)), whole[rows], atol=1e-6)
    assert not torch.equal(distort(images, dice(step=4, size=12)), whole)
    assert not torch.equal(distort(images, dice(step=3, size=12, seed=1)), whole)


@pytest.mark.parametrize("distort", [augment.flip, augment.crop_flip, augment.inception])
def test_images_stay_channels_last(distort: object) -> None:
    assert callable(distort)
    images = pictures(12).contiguous(memory_format=torch.channels_last)
    assert distort(images, dice(size=12)).is_contiguous(memory_format=torch.channels_last)


def test_chance_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    augment.inception(pictures(8), dice(size=8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.batch_size: 11 is above the 10 training images"):
        BatchOrder(10, 11, seed=0)
