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
    values = np.concatenate([slices[z][::_SAMPLED_STEP, ::_SAMPLED_STEP].ravel() for z in sampled_zs(len(slices))])
    low, high = np.percentile(values, (preprocessing.low_percentile, preprocessing.high_percentile))
    return IntensityRange(float(low), float(max(high, low + 1)))  # a blank volume has no range of its own


def sampled_zs(depth: int) -> list[int]:
    """At most 16 slices spread evenly over a volume, the first and the last among them."""
    return np.unique(np.linspace(0, depth - 1, _SAMPLED_SLICES).round().astype(int)).tolist()


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


def stack_neighbours(images: Iterable[np.ndarray], preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Gives each slice of a stream the neighbours that the model sees with it (2.5D).

    Beyond either end of the volume its last slice is repeated; so is the last slice before one of another
    size. As many images are held as the offsets span.

    Args:
        images: D arrays (H, W) float32 of `slice_to_image`, in order.
        preprocessing: the settings of the model.

    Yields:
        D stacks (C, H, W) float32, one image per offset; (1, H, W) where the offsets are all 0.
    """
    offsets = preprocessing.offsets if any(preprocessing.offsets) else (0,)
    before, after = -min(offsets), max(offsets)
    for _, run in groupby(images, key=np.shape):
        window = deque(maxlen=before + 1 + after)
        for image in chain(run, repeat(None, after)):
            image = window[-1] if image is None else image
            window.extend([image] if window else [image] * (before + 1))
            if len(window) == window.maxlen:
                stack = [window[before + offset] for offset in offsets]
                yield np.stack(stack) if len(stack) > 1 else stack[0][None]


def read_stack(
    slices: Sequence[np.ndarray], z: int, intensity: IntensityRange, preprocessing: Preprocessing
) -> np.ndarray:
    """Reads one slice and its neighbours, as `stack_neighbours` would give them.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.
        z: which of them.
        intensity: what `measure_intensity` found for them.
        preprocessing: the settings of the model.

    Returns:
        (C, H, W) float32; (1, H, W) where the offsets are all 0.
    """
    first, last = max(0, z + min(preprocessing.offsets)), min(len(slices) - 1, z + max(preprocessing.offsets))
    images = (slice_to_image(slices[i], intensity, preprocessing) for i in range(first, last + 1))
    return next(islice(stack_neighbours(images, preprocessing), z - first, None))


def image_to_tensor(
    image: np.ndarray, preprocessing: Preprocessing, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Makes the model's input of an image, or of a stack of images.

    Args:
        image: (H, W) float32 of `slice_to_image`, or (C, H, W) float32 of `stack_neighbours`.
        preprocessing: the settings of the model.
        device: where the resizing is done; the copy to a GPU is not waited for.

    Returns:
        (C, h, w) float32 there, each channel less its mean, over its std; h and w as of `resize_image`.
    """
    resized = resize_image(image, preprocessing, device)
    mean, std = _normalisation(preprocessing, device)
    if resized.is_cuda:
        return (resized - mean) / std
    normalised = resized.numpy() - mean.numpy()  # numpy: see `ensemble_score`
    normalised /= std.numpy()
    return torch.from_numpy(normalised)


@lru_cache(maxsize=8)
def _normalisation(preprocessing: Preprocessing, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std (C or 1, 1, 1), kept where they are needed."""
    return tuple(torch.tensor(v, device=device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))


def resize_image(image: np.ndarray, preprocessing: Preprocessing, device: torch.device | str = "cpu") -> torch.Tensor:
    """Brings an image to the size that the model sees; one of that size already stays as it is.

    With region "whole" it is resized, bilinearly with antialiasing (a triangle filter as wide as the
    reduction), which is what PIL and so HuggingFace's SegFormer image processor do. With "windows" it
    keeps its size.

    Args:
        image: (H, W) or (C, H, W) float32.
        preprocessing: the settings of the model.
        device: as for `image_to_tensor`.

    Returns:
        (1 or C, h, w) float32; h and w are roi_size, or with region "windows" H and W.
    """
    stack, size = np.ascontiguousarray(image).reshape(-1, *image.shape[-2:]), preprocessing.roi_size
    whole, on_gpu = preprocessing.region == "whole", torch.device(device).type == "cuda"
    if whole and not on_gpu:
        stack = np.stack([_resample(channel, size, size) for channel in stack])
    tensor = torch.from_numpy(stack)
    if on_gpu:
        tensor = tensor.pin_memory().to(device, non_blocking=True)  # only pinned memory is copied while others work
    if whole and on_gpu:
        tensor = F.interpolate(tensor[None], (size, size), mode="bilinear", antialias=True)[0]
    return tensor


def _resample(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) → (height, width), both float32, bilinearly with antialiasing.

    One sparse product per axis, in one thread: 5 times as fast as PIL (1303 x 912 to 512 x 512), equal to 2e-7.
    """
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
    return np.rint(_resample(slice_.astype(np.float32), height, width)).astype(slice_.dtype)


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
