"""Which rectangle of an image is seen: the evaluation crop and the Inception recipe's random crop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.views import AREA, ASPECT, View, central, random_view, square, whole

SIZES = st.integers(1, 2000)


def test_the_central_square_of_a_landscape_image() -> None:
    # shorter side 400, 0.875 of it is 350; the rest is shared evenly: (500 - 350) / 2 and (400 - 350) / 2
    assert central(500, 400, 299, 0.875) == View(75, 25, 425, 375, 299, 299)


def test_the_central_square_of_an_upright_image() -> None:
    assert central(300, 800, 224, 0.5) == View(75, 325, 225, 475, 224, 224)


def test_all_of_a_square_image() -> None:
    assert central(32, 32, 32, 1.0) == whole(32, 32) == square(0, 0, 32, 32)


def test_mirroring() -> None:
    view = square(1, 2, 3, 4)
    assert view.mirror().mirrored and view.mirror() != view
    assert view.mirror().mirror() == view == view.mirror().upright()


@given(width=SIZES, height=SIZES, seed=st.integers(0, 2**32))
def test_a_random_view_lies_in_the_image_on_whole_pixels(width: int, height: int, seed: int) -> None:
    view = random_view(width, height, 75, np.random.default_rng(seed))
    assert 0 <= view.left < view.right <= width and 0 <= view.top < view.bottom <= height
    assert all(edge == int(edge) for edge in (view.left, view.top, view.right, view.bottom))
    assert (view.width, view.height, view.mirrored) == (75, 75, False)


def test_random_views_have_the_papers_areas_and_aspects() -> None:
    rng = np.random.default_rng(0)
    views = [random_view(900, 900, 299, rng) for _ in range(2000)]
    areas = np.array([(view.right - view.left) * (view.bottom - view.top) / 810_000 for view in views])
    aspects = np.array([(view.right - view.left) / (view.bottom - view.top) for view in views])
    assert AREA[0] - 0.002 < areas.min() < 0.1 and 0.9 < areas.max() <= 1
    assert ASPECT[0] - 0.01 < aspects.min() < 0.76 and 1.32 < aspects.max() < ASPECT[1] + 0.01
    assert np.mean(areas[areas < 0.7]) == pytest.approx((AREA[0] + 0.7) / 2, abs=0.01)  # uniform where all aspects fit
    assert np.median(aspects) == pytest.approx(1, abs=0.03)  # as often wide as tall


def test_an_image_too_long_for_any_random_view_is_seen_whole() -> None:
    assert random_view(5000, 10, 299, np.random.default_rng(0)) == View(0, 0, 5000, 10, 299, 299)
