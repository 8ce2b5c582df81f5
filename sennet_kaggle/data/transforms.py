"""Image → the tensor that a model takes, and label → its target, the same in training and inference."""

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..config import Preprocessing
from .intensity import IMAGE_RANGE, IntensityRange
from .resizing import resize_image


def image_to_tensor(
    image: np.ndarray,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    intensity: IntensityRange = IMAGE_RANGE,
) -> torch.Tensor:
    """Makes the model's input of an image or of a stack of images, or directly of grey values.

    Grey values need no image in between: resizing and scaling can change places, and then only what the model
    sees is scaled.

    Args:
        image: (H, W) or (C, H, W), float32 of `slice_to_image`, or of `grey_levels` with their range.
        preprocessing: the settings of the model.
        device: where the work is done; the copy to a GPU is not waited for.
        intensity: the range of the values.

    Returns:
        (C, h, w) float32 there, each channel less its mean, over its std; h and w as of `resize_image`. On the CPU
        the channels of a pixel lie side by side (torch's channels_last).
    """
    if torch.device(device).type == "cuda":
        return _image_to_gpu(image, preprocessing, device, intensity)
    planes = resize_image(image, preprocessing)  # numpy and OpenCV from here: see `ensemble_score`
    factors, shifts = _normalisation(preprocessing, intensity)
    channels = max(len(planes), len(factors))
    planes = np.broadcast_to(planes, (channels, *planes.shape[1:]))
    scaled = [plane * factor for plane, factor in zip(planes, np.broadcast_to(factors, channels), strict=True)]
    for plane, shift in zip(scaled, np.broadcast_to(shifts, channels), strict=True):
        plane += shift
    merged = cv2.merge(scaled) if channels > 1 else scaled[0]
    return torch.from_numpy(merged.reshape(*planes.shape[1:], channels)).permute(2, 0, 1)


def _image_to_gpu(
    image: np.ndarray, preprocessing: Preprocessing, device: torch.device | str, intensity: IntensityRange
) -> torch.Tensor:
    stack, size = image.reshape(-1, *image.shape[-2:]).astype(np.float32, copy=False), preprocessing.roi_size
    # Only pinned memory is copied while others work.
    tensor = torch.from_numpy(np.ascontiguousarray(stack)).pin_memory().to(device, non_blocking=True)
    if preprocessing.region == "whole" and tensor.shape[1:] != (size, size):
        tensor = F.interpolate(tensor[None], (size, size), mode="bilinear", antialias=True)[0]
    factors, shifts = _normalisation_on(preprocessing, intensity, device)
    return tensor * factors + shifts


def _normalisation(preprocessing: Preprocessing, intensity: IntensityRange) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of each channel, (C or 1,) float32: from the range to 0..1, less the mean, over the std."""
    mean, std = (np.array(values, np.float64) for values in (preprocessing.mean, preprocessing.std))
    extent = intensity.high - intensity.low
    factors, shifts = 1 / (extent * std), -(intensity.low / extent + mean) / std
    channels = np.broadcast_shapes(factors.shape, shifts.shape)
    factors, shifts = (np.broadcast_to(values, channels).astype(np.float32) for values in (factors, shifts))
    return factors, shifts


@lru_cache(maxsize=8)
def _normalisation_on(
    preprocessing: Preprocessing, intensity: IntensityRange, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_normalisation`, (C or 1, 1, 1), kept on a GPU."""
    values = _normalisation(preprocessing, intensity)
    factors, shifts = (torch.from_numpy(each).to(device).view(-1, 1, 1) for each in values)
    return factors, shifts


def mask_to_target(mask: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """Makes the model's target of a label.

    With region "whole" it is resized, each pixel taking the nearest label pixel, so that no value is invented.

    Args:
        mask: (H, W) bool.
        preprocessing: the settings of the model.

    Returns:
        (1, h, w) float32 with only 0 and 1; h and w are roi_size, or with region "windows" H and W.
    """
    target = torch.from_numpy(mask)[None].float()
    if preprocessing.region == "windows":
        return target
    size = (preprocessing.roi_size, preprocessing.roi_size)
    return F.interpolate(target[None], size, mode="nearest-exact")[0]
