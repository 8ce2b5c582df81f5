"""Constant values around a scan change neither its range of grey values nor its masks, whatever they are."""

import dataclasses

import cv2
import numpy as np
import pytest

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.background import measure_background
from sennet_kaggle.data.intensity import hide_padding, measure_intensity
from sennet_kaggle.data.neighbours import read_stack, stack_neighbours
from sennet_kaggle.data.padding import crop_padding, fill_padding, find_padding, is_blank, sample_slices, warn_of_spikes
from sennet_kaggle.data.phantom import Phantom, phantom_slices
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.files import shipped_checkpoints
from sennet_kaggle.inference.ensemble import ensemble_score, measure_grey_values
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.scoring.metrics import dice_coefficient

HEIGHT, WIDTH = 96, 130


def scan(seed=0, dtype=np.uint16, height=HEIGHT, width=WIDTH):
    """A noisy slice, brighter in the middle."""
    rng = np.random.default_rng(seed)
    slice_ = rng.normal(21000, 600, (height, width))
    slice_[height // 3 : -height // 3, width // 3 : -width // 3] += 5000
    return slice_.astype(np.uint16) if dtype == np.uint16 else (slice_ / 256).astype(np.uint8)


def outside_ellipse(height, width):
    y, x = np.ogrid[:height, :width]
    return ((y - (height - 1) / 2) / (height / 2)) ** 2 + ((x - (width - 1) / 2) / (width / 2)) ** 2 > 1


def shapes(height=HEIGHT, width=WIDTH):
    """Where padding may lie, by name."""
    y, x = np.mgrid[:height, :width]
    from_side = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x))
    return {
        "frame": from_side < 9,
        "thin frame": from_side < 1,
        "one side": y < 20,
        "two sides": (x < 12) | (y >= height - 17),
        "corners": np.minimum(y, height - 1 - y) + np.minimum(x, width - 1 - x) < 20,
        "cylinder": outside_ellipse(height, width),
        "hole": (abs(y - 40) < 17) & (abs(x - 50) < 20),
        "all": np.ones((height, width), bool),
    }


@pytest.mark.parametrize("value", [0, 65535, "median", 300])
@pytest.mark.parametrize("shape", shapes())
def test_padding_is_found_whatever_its_value(shape, value):
    where, slice_ = shapes()[shape], scan()
    value = int(np.median(slice_)) if value == "median" else value
    found = find_padding(np.where(where, value, slice_).astype(np.uint16))
    assert not (where & ~found).any()
    assert np.count_nonzero(found & ~where) <= 5  # pixels beside it that happen to have its value


def test_two_values_and_eight_bits():
    slice_, where = scan(dtype=np.uint8), shapes()
    padded = np.where(where["one side"], 255, slice_).astype(np.uint8)
    padded[-20:] = 0
    assert (find_padding(padded) == (where["one side"] | (np.arange(HEIGHT) >= HEIGHT - 20)[:, None])).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_scan_has_no_padding(dtype):
    assert not find_padding(scan(dtype=dtype)).any()
    clipped = scan().clip(21600)  # five of six pixels around the organ have the lowest value
    assert not find_padding(clipped).any()
    assert not find_padding(np.zeros((4, 5), np.uint16)).any()  # too small to tell


def smoothed(sigma=3):
    return cv2.GaussianBlur(scan(height=256, width=256), (0, 0), sigma)


CLIPPED = {
    "above": lambda: smoothed().clip(0, 25900),
    "below": lambda: smoothed().clip(21000),
    "below in 8 bits": lambda: ((smoothed().clip(21000) - 21000) / 32).clip(0, 255).astype(np.uint8).clip(3),
    "rounded to 8 bits": lambda: (smoothed() >> 8).astype(np.uint8),
    "rounded to 8 bits, stored in 16": lambda: (smoothed() >> 8) * np.uint16(257),
}


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_or_rounded_tissue_is_no_padding(name):
    slice_ = CLIPPED[name]()
    assert max(np.unique(slice_, return_counts=True)[1]) > 0.05 * slice_.size
    assert not find_padding(slice_).any()


@pytest.mark.parametrize("value", [0, 9000, 20000, 60000])
def test_padding_with_a_blurred_edge(value):
    """As of a volume that was resized after it was padded: the edge leads up to the value, but steeply."""
    slice_, where = scan(height=256, width=256), outside_ellipse(256, 256)
    blurred = cv2.GaussianBlur(np.where(where, value, slice_).astype(np.uint16), (3, 3), 0)
    assert (find_padding(blurred) & where).sum() > 0.9 * where.sum()


def test_a_rejected_hole_stays_rejected():
    slice_ = scan(height=400, width=400)
    slice_[40:64, 40:64] = 65535  # too small for padding within a scan
    slice_[-50:] = 0
    assert (find_padding(slice_) == (np.arange(400) >= 350)[:, None]).all()


def test_small_corners_and_narrow_bars():
    slice_ = scan(height=200, width=200)
    y, x = np.mgrid[:200, :200]
    where = (y + (199 - x) < 8) | ((y >= 101) & (y < 116)) | (y == 30) | (x == 70)
    assert (find_padding(np.where(where, 65535, slice_).astype(np.uint16)) == where).all()


def test_real_slices_have_what_the_scanner_left(data_dir):
    """Of the slices at hand only kidney_2's show the edge of the scanned cylinder, filled with 32768."""
    assert not any(find_padding(slice_).any() for slice_ in open_volume(data_dir / "train" / "kidney_1_dense"))
    for slice_ in open_volume(data_dir / "train" / "kidney_2"):
        assert set(slice_[find_padding(slice_)].tolist()) == {32768}


def test_filled_and_cropped_slices_have_no_padding():
    slice_, where = scan(), shapes()["cylinder"]
    padded = np.where(where, 65535, slice_).astype(np.uint16)
    filled = fill_padding(padded)
    np.testing.assert_array_equal(filled[~where], slice_[~where])
    assert slice_.min() <= filled.min() and filled.max() <= slice_.max() and not find_padding(filled).any()
    boxed = np.pad(padded, ((30, 5), (0, 50)), constant_values=65535)
    np.testing.assert_array_equal(crop_padding(boxed)[~where], slice_[~where])
    assert fill_padding(slice_) is slice_ and crop_padding(slice_) is slice_
    np.testing.assert_array_equal(fill_padding(np.asfortranarray(padded)), filled)
    blank = np.full((HEIGHT, WIDTH), 7, np.uint16)
    assert fill_padding(blank) is blank and is_blank(blank) and not is_blank(slice_)


class Counting(list):
    """Counts what is read."""

    reads = 0

    def __getitem__(self, z):
        self.reads += 1
        return super().__getitem__(z)


def between_blank_ones(slices, places, value=65535):
    """The slices, with a blank one before each of these indices."""
    padded = Counting()
    for z in range(len(slices) + 1):
        padded += [np.full_like(slices[0], value)] * places.count(z) + slices[z : z + 1]
    return padded


@pytest.mark.parametrize(
    "places", [[0, 0, 40, 40], [0] * 30, [40] * 7, [20] * 20], ids=["ends", "first", "last", "middle"]
)
def test_the_sample_is_that_of_the_volume_without_blank_slices(places):
    slices = [scan(z, height=40, width=40) for z in range(40)]
    padded = between_blank_ones(slices, places)
    for a, b in zip(sample_slices(padded), sample_slices(slices), strict=True):
        np.testing.assert_array_equal(a, b)
    assert padded.reads < 2 * len(padded)
    assert measure_intensity(padded, Preprocessing()) == measure_intensity(slices, Preprocessing())
    assert measure_background(padded) == measure_background(slices)


def test_a_sample_has_no_blank_slice_and_is_its_own():
    slices = [scan(z, height=40, width=40) for z in range(40)]
    sample = sample_slices(between_blank_ones(slices, [*range(41)]))  # every second one
    assert len(sample) == 16 and not any(map(is_blank, sample))
    assert all(a is b for a, b in zip(sample, sample_slices(sample), strict=True))
    blank = [np.full((9, 9), 7, np.uint16)] * 3
    assert sample_slices(blank) == blank[:1] and sample_slices(blank).name == "the volume"


def test_a_scan_laid_into_a_larger_box_keeps_its_range():
    slices = [scan(z) for z in range(4)]
    boxed = [
        np.pad(slice_, ((50, 70), (0, 90)), constant_values=value)
        for slice_, value in zip(slices, (0, 9, 0, 65535), strict=True)
    ]
    assert measure_intensity(boxed, Preprocessing()) == measure_intensity(slices, Preprocessing())
    assert measure_background(boxed) == measure_background(slices)


def test_a_range_without_padding_is_as_it_always_was():
    slices = [scan(z) for z in range(20)]
    values = np.stack(slices)[np.linspace(0, 19, 16).round().astype(int), ::4, ::4]
    low, high = np.percentile(values, (10, 99.8))
    assert dataclasses.astuple(measure_intensity(slices, Preprocessing())) == (low, high)


def test_a_stack_ends_where_padding_begins():
    """Slices 0 and 3 are blank: 1 and 2 see themselves instead, as they would at the ends of a volume."""
    slices = [np.full((20, 20), 65535, np.uint16), scan(1, height=20, width=20), scan(2, height=20, width=20)]
    slices.append(slices[0])
    preprocessing = Preprocessing(offsets=(-1, 0, 1))
    stacks = list(stack_neighbours(slices, preprocessing))
    for z, neighbours in ((1, (1, 1, 2)), (2, (1, 2, 2))):
        np.testing.assert_array_equal(stacks[z], [slices[n] for n in neighbours])
        np.testing.assert_array_equal(read_stack(slices, z, preprocessing), stacks[z])


def test_no_model_sees_an_edge():
    padded = np.where(shapes()["cylinder"], 65535, scan()).astype(np.uint16)
    assert hide_padding(padded, Preprocessing()).max() < 30000
    assert read_stack([padded], 0, Preprocessing()).max() < 30000


def test_a_scan_of_one_value_is_said_once(caplog):
    sample = sample_slices([np.full((20, 30), 7, np.uint16)] * 3)
    measure_background(sample)
    measure_intensity(sample, Preprocessing(intensity="percentile"))
    assert caplog.text.count("found slices of one grey value each") == 1


def test_what_stays_suspicious_is_said(caplog):
    values = scan().ravel()
    warn_of_spikes(values, "k")
    warn_of_spikes(values // 256, "k")  # few levels, each with many pixels, are no spike
    warn_of_spikes(np.full(9, 3, np.uint16), "k")
    assert not caplog.records
    values[::10] = 0
    warn_of_spikes(values, "kidney_9")
    assert "kidney_9: expected a scan's grey values, found 10 % of them at exactly 0" in caplog.text


INFERENCE = Inference(device="cpu")


@pytest.fixture(scope="module")
def predictors(one_thread):
    return load_predictors(shipped_checkpoints(), INFERENCE)


def masks_of(slices, predictors):
    scores = ensemble_score(predictors, measure_grey_values(slices, predictors, INFERENCE), INFERENCE)(iter(slices))
    return [score.numpy() > predictors[0].threshold for score in scores]


@pytest.fixture(scope="module")
def kidney_2(data_dir, predictors):
    slices = list(open_volume(data_dir / "train" / "kidney_2"))
    return slices, masks_of(slices, predictors)


@pytest.mark.parametrize("value", [0, 65535, "median"])
@pytest.mark.parametrize("shape", ["ellipse", "corners"])
def test_masks_of_real_slices_inside_padding(kidney_2, predictors, shape, value):
    slices, expected = kidney_2
    height, width = slices[0].shape
    y, x = np.ogrid[:height, :width]
    corners = np.minimum(y, height - 1 - y) + np.minimum(x, width - 1 - x) < 150
    where = outside_ellipse(height, width) if shape == "ellipse" else corners
    filler = int(np.median(slices)) if value == "median" else value
    padded = [np.where(where, filler, slice_).astype(np.uint16) for slice_ in slices]
    for mask, other in zip(masks_of(padded, predictors), expected, strict=True):
        assert other.any() and dice_coefficient(mask & ~where, other & ~where) > 0.97


@pytest.mark.parametrize("value", [0, 65535])
def test_masks_of_slices_between_blank_ones(predictors, value):
    slices = [slice_ for slice_, _ in phantom_slices(Phantom((4, 128, 160)))]
    blank = [np.full((128, 160), value, np.uint16)]
    padded = [*blank * 2, *slices[:2], *blank * 5, *slices[2:], *blank * 3]
    masks = masks_of(padded, predictors)
    np.testing.assert_array_equal(masks[2:4] + masks[9:11], masks_of(slices, predictors))
    assert not any(mask.any() for mask in masks[:2] + masks[4:9] + masks[11:])
