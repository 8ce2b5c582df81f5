import numpy as np
import pytest

from sennet_kaggle.data.organ import find_organ, organ_box
from sennet_kaggle.data.phantom import Phantom, phantom_slices
from sennet_kaggle.data.volume import open_volume


def disc(value=27000, around=20000, shape=(100, 80), center=(50, 40), radius=20) -> np.ndarray:
    """In noise: one value alone would be padding."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    slice_ = np.where((y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2, value, around)
    return (slice_ + np.random.default_rng(0).integers(0, 200, shape)).astype(np.uint16)


def test_a_bright_disc_by_hand():
    organ = find_organ(disc())
    assert organ.shape == (100, 80)
    assert abs(organ.sum() - np.pi * 20**2) < 0.1 * np.pi * 20**2 and organ[50, 40] and not organ[50, 62]
    assert np.abs(np.subtract(organ_box(disc()), (30 - 4, 70 + 4, 20 - 4, 60 + 4))).max() <= 2


def test_vessels_and_cavities_belong_to_it():
    slice_ = disc()
    slice_[45:55, 35:45] = 20000
    assert find_organ(slice_)[50, 40]


def test_a_large_slice_is_looked_at_in_small():
    organ = find_organ(disc(shape=(1600, 800), center=(800, 400), radius=300))
    assert organ.shape == (160, 80)
    assert abs(organ.mean() - np.pi * 300**2 / (1600 * 800)) < 0.02


def test_padding_and_a_bright_rim_are_not_the_organ():
    slice_ = disc(shape=(200, 200), center=(100, 100), radius=50)
    slice_[:20] = 0
    slice_[:, -12:] += 4500
    organ = find_organ(slice_)
    assert organ[80, 80] and not organ[:16].any() and not organ[:, -8:].any()


@pytest.mark.parametrize("slice_", [np.zeros((30, 30), np.uint16), np.full((4, 9), 7, np.uint8)], ids=["0", "7"])
def test_nothing_stands_out_of_a_single_value(slice_):
    assert find_organ(slice_) is None
    assert organ_box(slice_) == (0, slice_.shape[0], 0, slice_.shape[1])


def test_masks_are_never_cropped_away():
    mask = np.zeros((100, 80), bool)
    mask[98, 2] = True
    top, bottom, left, right = organ_box(disc(), [mask, np.zeros_like(mask)])
    assert bottom == 100 and left == 0 and top > 20 and right < 70


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 384, 320)], ids=str)
def test_it_is_found_in_a_phantom(shape):
    ((slice_, mask),) = phantom_slices(Phantom(shape))
    organ = find_organ(slice_)
    assert 0.4 < organ.mean() < 0.65


def test_it_is_found_in_real_slices(data_dir):
    """By hand: 0153 shows a pole amid a bright medium, 0742 the whole organ; the test kidneys' tips are too small."""
    kidney_2 = open_volume(data_dir / "train" / "kidney_2")
    pole, whole = (find_organ(slice_) for slice_ in kidney_2)
    assert 0.08 < pole.mean() < 0.14 and 0.33 < whole.mean() < 0.5
    top, bottom, left, right = organ_box(kidney_2[0])
    assert 180 < top < 290 and 720 < bottom < 830 and 380 < left < 500 and 930 < right < 1040
