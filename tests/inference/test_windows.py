"""Windows cover a slice, and their blend is what they say where they agree."""

import numpy as np
import pytest
import torch

from sennet_kaggle.inference.windows import Blend, cut_windows, importance_map, plan_windows

SIZES = [(97, 127), (511, 513), (40, 2000), (1, 1), (3, 64), (512, 512)]


def blend(tensor, roi_size, overlap, kind):
    """Cuts a slice (1, H, W) into windows and blends them again."""
    height, width = tensor.shape[1:]
    windows = plan_windows(height, width, roi_size, overlap)
    blended = Blend(height, width)
    for window, cut in zip(windows, cut_windows(tensor, windows), strict=True):
        blended.add(cut[0], window, importance_map(*cut.shape[1:], kind))
    return blended.mean(uncovered=-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8])
def test_windows_blend_to_the_slice_they_were_cut_from(size, overlap):
    tensor = torch.rand((1, *size), generator=torch.Generator().manual_seed(0))
    for roi_size in (64, 200):
        np.testing.assert_array_equal(blend(tensor, roi_size, overlap, "constant"), tensor[0])
        np.testing.assert_allclose(blend(tensor, roi_size, overlap, "gaussian"), tensor[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "roi_size", "overlap", "starts"),
    [
        ((64, 64), 64, 0.5, ([0], [0])),
        ((64, 100), 64, 0, ([0], [0, 36])),
        ((128, 160), 64, 0.5, ([0, 32, 64], [0, 32, 64, 96])),
        ((129, 64), 64, 0, ([0, 32, 65], [0])),
        ((40, 30), 64, 0, ([0], [0])),
    ],
    ids=["one", "two", "half", "odd", "small"],
)
def test_windows_are_spread_evenly(size, roi_size, overlap, starts):
    windows = plan_windows(*size, roi_size, overlap)
    assert [(rows.start, columns.start) for rows, columns in windows] == [(y, x) for y in starts[0] for x in starts[1]]


@pytest.mark.parametrize(
    ("length", "expected"), [(3, 32), (32, 32), (33, 64), (97, 100), (4000, 100)], ids=lambda value: str(value)
)
def test_a_short_axis_is_padded_to_a_multiple_of_32_only(length, expected):
    for rows, columns in plan_windows(length, length, 100, 0.3):
        assert rows.stop - rows.start == columns.stop - columns.start == expected


def test_neighbours_overlap_by_what_was_asked_for_at_least():
    for length in range(100, 400, 7):
        starts = [columns.start for _, columns in plan_windows(32, length, 64, 0.3)]
        assert starts[0] == 0 and starts[-1] == length - 64
        assert all(b - a <= 64 * 0.7 for a, b in zip(starts, starts[1:], strict=False))


def test_the_border_is_repeated():
    """A slice of one row: all rows of its window are that row, and its last pixel goes on to the right."""
    row = torch.arange(40.0).view(1, 1, 40)
    (window,) = cut_windows(row, plan_windows(1, 40, 64, 0))
    assert window.shape == (1, 32, 64)
    torch.testing.assert_close(window[0, 17], torch.cat((torch.arange(40.0), torch.full((24,), 39.0))))


def test_importance_is_greatest_in_the_middle_and_nowhere_0():
    weights = importance_map(64, 33, "gaussian")
    assert weights.shape == (64, 33) and weights.min() == pytest.approx(1e-3) and weights.max() <= 1
    torch.testing.assert_close(weights, weights.flip(0))
    torch.testing.assert_close(weights, weights.flip(1))
    assert weights.argmax() in (31 * 33 + 16, 32 * 33 + 16) and (weights[:32, 16].diff() >= 0).all()
    assert weights[24, 16] == pytest.approx(np.exp(-0.5 * (7.5 / 8) ** 2))


def test_the_blend_is_a_weighted_mean():
    """Two windows of 2 pixels over 4: 1 and 3 share a pixel with weights 1 and 3, and the last has none."""
    blended = Blend(1, 4)
    blended.add(torch.full((1, 2), 1.0), (slice(0, 1), slice(0, 2)), torch.tensor([[1.0, 1.0]]))
    blended.add(torch.full((1, 2), 3.0), (slice(0, 1), slice(1, 3)), torch.tensor([[3.0, 1.0]]))
    np.testing.assert_array_equal(blended.mean(uncovered=-7), [[1, 2.5, 3, -7]])


def test_two_answers_for_a_whole_slice_are_averaged():
    """As from neighbouring slices; the first alone is taken as it is, beyond the slice it is cut."""
    blended, window = Blend(2, 3), (slice(0, 32), slice(0, 32))
    blended.add(torch.full((32, 32), 1.0), window, torch.full((32, 32), 2.0))
    np.testing.assert_array_equal(blended.mean(uncovered=-7), np.full((2, 3), 1.0))
    blended.add(torch.full((32, 32), 4.0), window, torch.ones(32, 32))
    np.testing.assert_array_equal(blended.mean(uncovered=-7), np.full((2, 3), 2.0))
