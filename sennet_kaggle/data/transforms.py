"""Slice → image → tensor, the same in training and inference; probability and mask back and forth in size."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, islice, repeat

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array

from ..config import Preprocessing
from .padding import fill_padding, is_blank, sample_slices, warn_of_spikes

# OpenCV's own threads would gain little on one slice, and wait for the next by spinning on the model's cores.
cv2.setNumThreads(1)

_SAMPLED_STEP = 4


@dataclass(frozen=True)
class IntensityRange:
    """Grey values that become 0 and 1."""

    low: float
    high: float


IMAGE_RANGE = IntensityRange(0.0, 1.0)
"""What becomes 0 and 1 of an image: its values have been scaled."""


def measure_intensity(slices: Sequence[np.ndarray], preprocessing: Preprocessing) -> IntensityRange:
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


def stack_neighbours(slices: Iterable[np.ndarray], preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Gives each slice of a stream the neighbours that the model sees with it (2.5D).

    Beyond either end of the volume its last slice is repeated; so is the last slice before one of another
    size, and before one of padding alone. As many slices are held as the offsets span.

    Args:
        slices: D arrays (H, W), in order.
        preprocessing: the settings of the model.

    Yields:
        D stacks (C, H, W) of the slices' dtype, one slice per offset; (1, H, W) where the offsets are all 0.
    """
    offsets = preprocessing.offsets if any(preprocessing.offsets) else (0,)
    before, after = -min(offsets), max(offsets)
    for _, run in groupby(slices, key=lambda slice_: (slice_.shape, is_blank(slice_))):
        window = deque(maxlen=before + 1 + after)
        for slice_ in chain(run, repeat(None, after)):
            slice_ = window[-1] if slice_ is None else slice_
            window.extend([slice_] if window else [slice_] * (before + 1))
            if len(window) == window.maxlen:
                stack = [window[before + offset] for offset in offsets]
                yield np.stack(stack) if len(stack) > 1 else stack[0][None]


def read_stack(slices: Sequence[np.ndarray], z: int, preprocessing: Preprocessing) -> np.ndarray:
    """Reads one slice and its neighbours, as `stack_neighbours` would give them.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.
        z: which of them.
        preprocessing: the settings of the model.

    Returns:
        (C, H, W) of `hide_padding`; (1, H, W) where the offsets are all 0.
    """
    first, last = max(0, z + min(preprocessing.offsets)), min(len(slices) - 1, z + max(preprocessing.offsets))
    read = (hide_padding(slices[i], preprocessing) for i in range(first, last + 1))
    return next(islice(stack_neighbours(read, preprocessing), z - first, None))


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
    return tuple(np.broadcast_to(values, channels).astype(np.float32) for values in (factors, shifts))


@lru_cache(maxsize=8)
def _normalisation_on(
    preprocessing: Preprocessing, intensity: IntensityRange, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_normalisation`, (C or 1, 1, 1), kept on a GPU."""
    values = _normalisation(preprocessing, intensity)
    return tuple(torch.from_numpy(each).to(device).view(-1, 1, 1) for each in values)


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


def fetch_mask(probability: torch.Tensor, threshold: float) -> np.ndarray:
    """Cuts a map at a threshold where it is; from a GPU only the mask comes back, eight pixels in a byte.

    Args:
        probability: (H, W) float32.

    Returns:
        (H, W) bool; not a number is not above.
    """
    if probability.device.type == "cpu":
        return probability.numpy() > threshold
    mask = probability > threshold
    return unpack_bits(pack_bits(mask).cpu().numpy(), mask.shape)


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Does on any device what np.packbits does: bool of any shape → (ceil(size / 8),) uint8."""
    bits = F.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    places = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)
    return (bits * places).sum(1, dtype=torch.uint8)


def unpack_bits(packed: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The mask of a shape that `pack_bits` packed."""
    return np.unpackbits(packed, count=math.prod(shape)).view(np.bool_).reshape(shape)


def resize_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Brings a probability map back to the size of its slice, bilinearly.

    Args:
        probability: (h, w) float32 in 0..1.

    Returns:
        (height, width) float32 in 0..1.
    """
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
