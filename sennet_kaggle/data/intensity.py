"""Grey values of a slice → the range that a model sees: percentiles of the volume, 8 or 16 bits, padding filled."""

from dataclasses import dataclass

import numpy as np

from ..config import Preprocessing
from .padding import fill_padding, sample_slices, warn_of_spikes
from .slices import Slices

_SAMPLED_STEP = 4


@dataclass(frozen=True)
class IntensityRange:
    """Grey values that become 0 and 1."""

    low: float
    high: float


IMAGE_RANGE = IntensityRange(0.0, 1.0)
"""What becomes 0 and 1 of an image: its values have been scaled."""


def measure_intensity(slices: Slices, preprocessing: Preprocessing) -> IntensityRange:
    """Finds the grey values of a volume that become 0 and 1.

    With intensity "percentile" these are percentiles over at most 16 slices spread evenly over the
    volume, every 4th row and column of each, without padding (see `padding`): scanners and kidneys differ by more
    than vessel and tissue do, so the range belongs to the volume. With "eight_bit" they are fixed and no slice is
    read.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.
        preprocessing: the settings of the model.

    Returns:
        low < high, in the grey values of the slices.
    """
    if preprocessing.intensity == "eight_bit":
        return IntensityRange(0.0, 255.0)
    sample = sample_slices(slices)
    values = np.concatenate([slice_[::_SAMPLED_STEP, ::_SAMPLED_STEP].ravel() for slice_ in sample])
    warn_of_spikes(values, sample.name)
    low, high = np.percentile(values, (preprocessing.low_percentile, preprocessing.high_percentile))
    return IntensityRange(float(low), float(max(high, low + 1)))  # a blank volume has no range of its own


def grey_levels(slice_: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Drops what the model is not to see of grey values.

    Args:
        slice_: uint8 or uint16 of any shape.
        preprocessing: the settings of the model.

    Returns:
        The slice itself; with intensity "eight_bit", 16-bit values without their low byte, uint8, as in
        cv2.imread's default.
    """
    if preprocessing.intensity == "eight_bit" and slice_.dtype == np.uint16:
        return (slice_ >> 8).astype(np.uint8)
    return slice_


def hide_padding(slice_: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The grey values that the model sees of a slice.

    Args:
        slice_: (H, W) uint8 or uint16, as stored.
        preprocessing: the settings of the model.

    Returns:
        (H, W): `grey_levels` of the slice, its padding filled.
    """
    return grey_levels(fill_padding(slice_), preprocessing)


def slice_to_image(slice_: np.ndarray, intensity: IntensityRange, preprocessing: Preprocessing) -> np.ndarray:
    """Turns grey values into an image.

    Args:
        slice_: (H, W) or (C, H, W), uint8 or uint16, or such values resized, float32.
        intensity: what `measure_intensity` found for the slice's volume.
        preprocessing: the settings of the model.

    Returns:
        Float32 of that shape: 0 at `intensity.low`, 1 at `intensity.high`, not clipped.
    """
    image = grey_levels(slice_, preprocessing).astype(np.float32)
    image -= intensity.low
    image /= intensity.high - intensity.low
    return image
