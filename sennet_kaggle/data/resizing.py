"""Images, slices and maps from one size to another, with antialiasing where they get smaller."""

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array

from ..config import Preprocessing


def resize_image(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Brings an image to the size that the model sees; one of that size already stays as it is.

    With region "whole" it is resized, bilinearly with antialiasing (a triangle filter as wide as the
    reduction), which is what PIL and so HuggingFace's SegFormer image processor do. With "windows" it
    keeps its size.

    Args:
        image: (H, W) or (C, H, W), float32, uint8 or uint16.
        preprocessing: the settings of the model.

    Returns:
        (1 or C, h, w): float32 of size roi_size, or the image itself.
    """
    stack, size = image.reshape(-1, *image.shape[-2:]), preprocessing.roi_size
    if preprocessing.region == "windows" or stack.shape[1:] == (size, size):
        return stack
    return np.stack([_resample(channel, size, size) for channel in stack])


def _resample(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) of any dtype → (height, width) float32, bilinearly with antialiasing.

    One sparse product per axis, in one thread: 5 times as fast as PIL (1303 x 912 to 512 x 512), equal to 2e-7.
    """
    grey = grey.astype(np.float32, copy=False)  # the product would do it, and let no other thread run
    rows = _resampling_matrix(grey.shape[0], height) @ grey
    return cv2.transpose(_resampling_matrix(grey.shape[1], width) @ cv2.transpose(rows))


@lru_cache(maxsize=16)
def _resampling_matrix(length: int, new_length: int) -> csr_array:
    """What each of the new pixels takes of each old one, (new_length, length) float32; each row's sum is 1.

    The weights are a triangle around the new pixel's centre that reaches as many pixels to either side as the
    reduction, at least one: Pillow's "bilinear".
    """
    scale = length / new_length
    reach = max(scale, 1.0)
    centres = (np.arange(new_length)[:, None] + 0.5) * scale
    pixels = (centres - reach + 0.5).astype(int).clip(0) + np.arange(int(2 * reach) + 2)
    weights = (1 - abs(pixels + 0.5 - centres) / reach).clip(0) * (pixels < length)
    weights /= weights.sum(1, keepdims=True)
    new_pixels, places = np.nonzero(weights)
    taken = (weights[new_pixels, places].astype(np.float32), (new_pixels, pixels[new_pixels, places]))
    return csr_array(taken, shape=(new_length, length))


def scaled_length(length: int, scale: float) -> int:
    """Pixels along an axis of what is resized, at least 1."""
    return max(1, round(length * scale))


def resize_slice(slice_: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resamples a slice, bilinearly with antialiasing.

    Args:
        slice_: (H, W) uint8 or uint16.

    Returns:
        (height, width), of the slice's dtype.
    """
    if slice_.shape == (height, width):
        return slice_
    return np.rint(_resample(slice_, height, width)).astype(slice_.dtype)


def resize_map(map_: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As `resize_probability`, where the map is; on the CPU by OpenCV, which is several times as fast there.

    Args:
        map_: (h, w) float32.

    Returns:
        (height, width) float32 on the same device; the map itself when it has that size.
    """
    if map_.shape == (height, width):
        return map_
    if map_.device.type == "cpu":
        return torch.from_numpy(resize_probability(map_.numpy(), height, width))
    return F.interpolate(map_[None, None], (height, width), mode="bilinear")[0, 0]


def resize_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Brings a probability map back to the size of its slice, bilinearly.

    Args:
        probability: (h, w) float32 in 0..1.

    Returns:
        (height, width) float32 in 0..1.
    """
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
