"""A window is left out only where no organ can be."""

import numpy as np
import pytest

from sennet_kaggle.data.background import is_occupied, measure_background, occupied_blocks
from sennet_kaggle.data.phantom import Phantom, phantom_slices
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.inference.windows import plan_windows

RNG = np.random.default_rng(0)


def organ_slice(tissue=26000.0, medium=21000.0, noise=300.0):
    """A bright square of organ that fills a quarter of a dark slice."""
    slice_ = np.full((160, 160), medium)
    slice_[40:120, 40:120] = tissue
    return (slice_ + noise * RNG.standard_normal(slice_.shape)).astype(np.uint16)


def test_the_level_lies_between_medium_and_tissue():
    level = measure_background([organ_slice() for _ in range(3)])
    assert level.dtype == np.uint16 and 21000 < level < 25500
    assert measure_background([(organ_slice() >> 8).astype(np.uint8)] * 2).dtype == np.uint8


@pytest.mark.parametrize(
    "slices",
    [
        pytest.param([organ_slice(tissue=21000)] * 3, id="medium alone"),
        pytest.param([organ_slice(tissue=21400, noise=3000)] * 3, id="like grey"),
        pytest.param([organ_slice(tissue=21000, medium=26000)] * 3, id="organ up to the border"),
        pytest.param([np.full((40, 31), 7, np.uint16)], id="constant"),
        pytest.param([RNG.integers(0, 65536, (3, 5), dtype=np.uint16)], id="less than a block"),
    ],
)
def test_nothing_is_said_where_nothing_is_safe(slices):
    assert measure_background(slices) == -np.inf


def test_blocks():
    """Rows 0..7 are dark, then one bright block at the end of row 1 (cut off at 20 columns)."""
    stack = RNG.random((1, 16, 20)).astype(np.float32)
    stack[0, 8:, 16:] += 5
    np.testing.assert_array_equal(occupied_blocks(stack, 2.0), [[0, 0, 0], [0, 0, 1]])
    assert occupied_blocks(stack, -np.inf).all()
    stack[0, :8, :8] = stack[0, 8:, 8:16] = -1  # padding of the scanner: constant and darkest
    np.testing.assert_array_equal(occupied_blocks(stack, -np.inf), [[0, 1, 1], [1, 0, 1]])
    assert not occupied_blocks(np.full((3, 9, 9), 4, np.float32), -np.inf).any()


def test_any_slice_of_a_stack_keeps_a_block():
    stack = np.zeros((3, 8, 16), np.float32)
    stack[2, 3, 12] = 100
    np.testing.assert_array_equal(occupied_blocks(stack, 1.0), [[0, 1]])


def test_windows_touch_blocks_or_are_next_to_one():
    occupied = np.zeros((6, 6), bool)
    occupied[2, 3] = True  # rows 16..23, columns 24..31
    assert is_occupied((slice(0, 9), slice(0, 17)), occupied)
    assert not is_occupied((slice(0, 8), slice(0, 48)), occupied)
    assert not is_occupied((slice(0, 48), slice(40, 64)), occupied)
    assert is_occupied((slice(24, 64), slice(32, 64)), occupied)
    assert not is_occupied((slice(32, 64), slice(0, 64)), occupied)  # beyond the end


def skipped(slices, masks, roi_size):
    """Share of windows left out, and vessel pixels that no window is left for."""
    level, left_out, windows, lost = float(measure_background(slices)), 0, 0, 0
    for slice_, mask in zip(slices, masks, strict=True):
        occupied, seen = occupied_blocks(slice_[None].astype(np.float32), level), np.zeros(mask.shape, bool)
        for window in plan_windows(*slice_.shape, roi_size, 0.25):
            windows += 1
            if is_occupied(window, occupied):
                seen[window] = True
            else:
                left_out += 1
        lost += np.count_nonzero(mask & ~seen)
    return left_out / windows, lost


def test_a_phantoms_vessels_are_all_seen():
    slices, masks = zip(*phantom_slices(Phantom(shape=(12, 384, 320))), strict=True)
    for roi_size, at_least in ((64, 0.03), (32, 0.15)):
        share, lost = skipped(slices, masks, roi_size)
        assert lost == 0 and share > at_least


def test_real_vessels_are_all_seen(data_dir):
    kidney = open_volume(data_dir / "train" / "kidney_1_dense")
    for roi_size, at_least in ((512, 0.02), (128, 0.2)):
        share, lost = skipped(list(kidney), [kidney.label(z) for z in range(len(kidney))], roi_size)
        assert lost == 0 and share > at_least


@pytest.mark.parametrize("kidney", ["test/kidney_6", "train/kidney_2"])
def test_real_kidneys_without_a_safe_level_are_seen_whole(data_dir, kidney):
    """Three slices of medium alone; an organ in a medium of like grey."""
    assert measure_background(open_volume(data_dir / kidney)) == -np.inf
