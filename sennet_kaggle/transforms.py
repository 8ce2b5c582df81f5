"""Slice → image → tensor, the same in training and inference; probability and mask back and forth in size."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from .config import Preprocessing

_SAMPLED_SLICES = 16
_SAMPLED_STEP = 4


@dataclass(frozen=True)
class IntensityRange:
    """Grey values that become 0 and 1."""

    low: float
    high: float


def measure_intensity(slices: Sequence[np.ndarray], preprocessing: Preprocessing) -> IntensityRange:
    """Finds the grey values of a volume that become 0 and 1.

    With intensity "percentile" these are percentiles over at most 16 slices spread evenly over the
    volume, every 4th row and column of each: scanners and kidneys differ by more than vessel and tissue
    do, so the range belongs to the volume. With "eight_bit" they are fixed and no slice is read.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.
        preprocessing: the settings of the model.

    Returns:
        low < high, in the grey values of the slices.
    """
    if preprocessing.intensity == "eight_bit":
        return IntensityRange(0.0, 255.0)
    sampled_z = np.unique(np.linspace(0, len(slices) - 1, _SAMPLED_SLICES).round().astype(int))
    values = np.concatenate([slices[z][::_SAMPLED_STEP, ::_SAMPLED_STEP].ravel() for z in sampled_z])
    low, high = np.percentile(values, (preprocessing.low_percentile, preprocessing.high_percentile))
    return IntensityRange(float(low), float(max(high, low + 1)))  # a blank volume has no range of its own


def slice_to_image(slice_: np.ndarray, intensity: IntensityRange, preprocessing: Preprocessing) -> np.ndarray:
    """Turns grey values into an image.

    Args:
        slice_: (H, W) uint8 or uint16.
        intensity: what `measure_intensity` found for the slice's volume.
        preprocessing: the settings of the model; with "eight_bit", 16-bit values lose their low byte, as
            in cv2.imread's default.

    Returns:
        (H, W) float32: 0 at `intensity.low`, 1 at `intensity.high`, not clipped.
    """
    if preprocessing.intensity == "eight_bit" and slice_.dtype == np.uint16:
        slice_ = slice_ >> 8
    image = slice_.astype(np.float32)
    image -= intensity.low
    image /= intensity.high - intensity.low
    return image


def image_to_tensor(image: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """Resizes an image and gives it the model's channels.

    Args:
        image: (H, W) float32 of `slice_to_image`.
        preprocessing: the settings of the model.

    Returns:
        (C, roi_size, roi_size) float32, each channel the same image less its mean, over its std.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (resize_image(image, preprocessing) - mean) / std


def resize_image(image: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """Resizes an image to the model's input; one of that size already stays as it is.

    The resize is bilinear with antialiasing (a triangle filter as wide as the reduction), which is what
    PIL and so HuggingFace's SegFormer image processor do.

    Args:
        image: (H, W) float32 of `slice_to_image`.
        preprocessing: the settings of the model.

    Returns:
        (1, roi_size, roi_size) float32.
    """
    size = (preprocessing.roi_size, preprocessing.roi_size)
    return F.interpolate(torch.from_numpy(image)[None, None], size, mode="bilinear", antialias=True)[0]


def mask_to_target(mask: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """Resizes a label to the model's output: each pixel takes the nearest label pixel, so no value is invented.

    Args:
        mask: (H, W) bool.
        preprocessing: the settings of the model.

    Returns:
        (1, roi_size, roi_size) float32 with only 0 and 1.
    """
    size = (preprocessing.roi_size, preprocessing.roi_size)
    return F.interpolate(torch.from_numpy(mask)[None, None].float(), size, mode="nearest-exact")[0]


def resize_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Brings a probability map back to the size of its slice, bilinearly.

    Args:
        probability: (h, w) float32 in 0..1.

    Returns:
        (height, width) float32 in 0..1.
    """
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
