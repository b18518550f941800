"""Which views each protocol takes, against cases computed by hand, and that they are cut where the geometry says."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.data.folder import resample
from harness.data.memory import sample
from harness.data.views import View, square, whole
from harness.evaluation.protocols import PROTOCOLS, views
from harness.evaluation.published import PAPER, beside

COUNTS = {"single": 1, "ten_crop": 10, "twelve_crop": 12, "multi_crop_144": 144, "dense": 10}


def boxes(layout: list[View]) -> list[tuple[float, float, float, float]]:
    """Edges of the upright views."""
    return [(view.left, view.top, view.right, view.bottom) for view in layout if not view.mirrored]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (299, 299), (33, 700)])
def test_number_size_and_mirrors(protocol: str, width: int, height: int) -> None:
    layout = list(views(protocol, 299)(width, height))  # type: ignore[arg-type]
    assert len(layout) == COUNTS[protocol]
    for view in layout:
        assert -1e-9 <= view.left < view.right <= width + 1e-9 and -1e-9 <= view.top < view.bottom <= height + 1e-9
        assert protocol == "dense" or (view.width, view.height) == (299, 299)
    if protocol != "single":
        upright = Counter(view for view in layout if not view.mirrored)
        assert Counter(view.upright() for view in layout if view.mirrored) == upright


def test_single_is_the_central_seven_eighths() -> None:
    assert list(views("single", 224)(320, 256)) == [square(48, 16, 224, 224)]


def test_ten_crop_by_hand() -> None:
    # 320x256: the central square is 32..288; crops of 224 within it
    assert boxes(list(views("ten_crop", 224)(320, 256))) == [
        (32, 0, 256, 224),
        (64, 0, 288, 224),
        (32, 32, 256, 256),
        (64, 32, 288, 256),
        (48, 16, 272, 240),
    ]


def test_twelve_crop_is_ten_crop_and_the_square_whole() -> None:
    twelve, ten = views("twelve_crop", 224)(320, 256), views("ten_crop", 224)(320, 256)
    assert list(twelve[:10]) == list(ten)
    assert list(twelve[10:]) == [square(32, 0, 256, 224), square(32, 0, 256, 224).mirror()]


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(("number", "side"), [(0, 256), (1, 288), (2, 320), (3, 352)])
def test_144_crops_by_hand(number: int, side: int, upright: bool) -> None:
    """An image whose shorter side is `side` already: at that scale the crops are 224 of its own pixels."""
    longer = side + 100
    size = (side, longer) if upright else (longer, side)
    layout = list(views("multi_crop_144", 224)(*size))
    of_scale = boxes(layout[36 * number : 36 * number + 36])
    rest = side - 224
    expected = []
    for start in (0, 50, 100):  # left, central, right square
        for along, across in ((0, 0), (rest, 0), (0, rest), (rest, rest), (rest / 2, rest / 2)):
            expected.append((start + along, across, start + along + 224, across + 224))
        expected.append((start, 0, start + side, side))
    if upright:  # top, central, bottom square: the same with the axes exchanged
        expected = [(top, left, bottom, right) for left, top, right, bottom in expected]
    assert sorted(of_scale) == sorted(expected)


def test_144_crops_of_another_input_size_keep_their_proportions() -> None:
    small, large = views("multi_crop_144", 224)(500, 375), views("multi_crop_144", 299)(500, 375)
    assert boxes(list(small)) == boxes(list(large))
    assert {(view.width, view.height) for view in large} == {(299, 299)}


def test_dense_sees_the_whole_image_at_five_scales() -> None:
    layout = list(views("dense", 224)(500, 375))
    assert set(boxes(layout)) == {(0, 0, 500, 375)}
    sizes = [(view.width, view.height) for view in layout if not view.mirrored]
    assert sizes == [(299, 224), (341, 256), (512, 384), (640, 480), (853, 640)]  # 500/375 times each
    doubled = [(view.width, view.height) for view in views("dense", 448)(500, 375) if not view.mirrored]
    assert doubled[0] == (597, 448) and doubled[-1] == (1707, 1280)


# The pixels.


@given(
    left=st.floats(0, 20), top=st.floats(0, 12), width=st.floats(3, 9), height=st.floats(3, 9), mirrored=st.booleans()
)
def test_views_in_memory_are_bilinear_as_pils(
    left: float, top: float, width: float, height: float, mirrored: bool
) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 21, 29)).astype(np.float32)
    view = View(left, top, left + width, top + height, 11, 10, mirrored)
    expected = torch.stack(
        [
            torch.from_numpy(
                np.array(
                    Image.fromarray(channel).resize(
                        (11, 10), Image.Resampling.BILINEAR, box=(view.left, view.top, view.right, view.bottom)
                    )
                )
            )
            for channel in pixels
        ]
    )
    found = sample(torch.from_numpy(pixels), [view])[0]
    assert torch.allclose(found, expected.flip(-1) if mirrored else expected, atol=2e-4)


def test_the_whole_image_is_taken_bit_for_bit() -> None:
    image = torch.randn(3, 7, 9)
    plain, mirrored = sample(image, [whole(9, 7), whole(9, 7).mirror()])
    assert torch.equal(plain, image)
    assert torch.allclose(mirrored, image.flip(-1), atol=1e-5)


def test_a_file_is_sampled_once_for_views_that_differ_by_mirroring_or_repeat() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    groups, places = resample(image, views("multi_crop_144", 64)(500, 375))
    assert [tuple(group.shape) for group in groups] == [(3 * 5 * 4 + 3, 64, 64, 3)]  # the whole squares repeat
    assert len(places) == 144 and sum(mirrored for _, _, mirrored in places) == 72
    exact = [square(10, 20, 64, 64), View(0, 0, 64, 32, 64, 32, mirrored=True), square(10, 20, 64, 64)]
    groups, places = resample(image, exact)
    assert np.array_equal(groups[0][0].numpy(), pixels[20:84, 10:74])
    assert np.array_equal(groups[1][0].numpy(), pixels[:32, :64])
    assert places == [(0, 0, False), (1, 0, True), (0, 0, False)]


# The paper's figures.


def test_the_papers_rows() -> None:
    found = {(row.table, row.network): (row.top1, row.top5) for row in PAPER}
    assert found[2, "inception_resnet_v2"] == (19.9, 4.9)
    assert found[3, "inception_v4"] == (18.7, 4.2)
    assert found[4, "inception_resnet_v2"] == (17.8, 3.7)
    assert found[5, "inception_v4 + 3 x inception_resnet_v2"] == (16.5, 3.1)
    assert len(PAPER) == 5 + 5 + 5 + 3


@pytest.mark.parametrize(
    ("protocol", "networks", "table"),
    [
        ("single", 1, 2),
        ("ten_crop", 1, 3),
        ("twelve_crop", 1, 3),
        ("multi_crop_144", 1, 4),
        ("dense", 1, 4),
        ("multi_crop_144", 4, 5),
    ],
)
def test_the_table_beside_a_protocol(protocol: str, networks: int, table: int) -> None:
    rows = beside(protocol, networks)  # type: ignore[arg-type]
    assert rows == [row for row in PAPER if row.table == table]


def test_the_paper_has_no_ensemble_on_a_single_crop() -> None:
    assert beside("single", 3) == []
