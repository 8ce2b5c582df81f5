"""Where the organ surely is not: slice → blocks that need no model."""

import cv2
import numpy as np

from .padding import sample_slices
from .slices import Slices

# Means of 8x8 pixels: one bright grain of the medium around the organ does not count, a vessel's wall does.
BLOCK = 8
# Share of the variance that lies between two classes; 0.64 when one bell curve is cut in two, 0.75 when the
# values are spread evenly, 0.92 for kidney_1_dense, 1 for two values.
_MIN_SEPARABILITY = 0.8
_MIN_DARK_BORDER = 0.95
_NONE = np.float32(-np.inf)


def measure_background(slices: Slices) -> np.number:
    """Finds the grey value up to which a volume has no organ, if there is one.

    Otsu's threshold (1979) over the block means of at most 16 slices, without padding. It counts only where dark and
    bright are two things, not one blurred together, and where the slices' borders are dark: else the scan shows
    only background, only organ, or both in like grey, and no value tells them apart.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.

    Returns:
        The grey value in the dtype of the slices; minus infinity where nothing is safe to say.
    """
    sampled = sample_slices(slices)
    means = [_block_means(slice_[None])[0] for slice_ in sampled]
    values = np.concatenate([block.ravel() for block in means])
    level, _ = cv2.threshold(values.astype(np.uint16), 0, 1, cv2.THRESH_OTSU)
    bright = values > level
    border = np.concatenate([edge for block in means for edge in (block[0], block[-1], block[:, 0], block[:, -1])])
    if not 0 < bright.mean() < 1 or (border <= level).mean() < _MIN_DARK_BORDER:
        return _NONE
    between = bright.mean() * (1 - bright.mean()) * (values[bright].mean() - values[~bright].mean()) ** 2
    return sampled[0].dtype.type(level) if between >= _MIN_SEPARABILITY * values.var() else _NONE


def occupied_blocks(stack: np.ndarray, background: np.number | float) -> np.ndarray:
    """Marks the blocks that may show the organ: not background, and not constant at the stack's darkest value.

    Args:
        stack: (C, H, W) uint8, uint16 or float32.
        background: what `measure_background` found, as a value of the stack.

    Returns:
        (ceil(H/8), ceil(W/8)) bool.
    """
    darkest = stack.min()
    if background < darkest:  # then all means are above it
        occupied = _reduce_blocks(stack, np.maximum) > darkest
    else:  # then none above it is that of a block constant at the darkest value
        occupied = _block_means(stack) > background
    return occupied.any(axis=0)


def is_occupied(window: tuple[slice, slice], occupied: np.ndarray) -> bool:
    """Whether a window (rows, columns) touches one of the blocks that `occupied_blocks` marked, or is next to one.

    A block that the organ's edge just enters is dark in the mean, but then the next one is not.
    """
    rows, columns = (slice(max(0, axis.start // BLOCK - 1), -(-axis.stop // BLOCK) + 1) for axis in window)
    return bool(occupied[rows, columns].any())


def _block_means(stack: np.ndarray) -> np.ndarray:
    rows, columns = (np.minimum(BLOCK, length - np.arange(0, length, BLOCK)) for length in stack.shape[1:])
    return _reduce_blocks(stack, np.add, np.float32) / np.outer(rows, columns).astype(np.float32)


def _reduce_blocks(stack: np.ndarray, ufunc: np.ufunc, dtype: type | None = None) -> np.ndarray:
    """(C, H, W) → (C, ceil(H/8), ceil(W/8)); blocks at the end are cut off where the stack ends."""
    channels, height, width = stack.shape
    whole = height - height % BLOCK
    rows = [ufunc.reduce(stack[:, :whole].reshape(channels, -1, BLOCK, width), axis=2, dtype=dtype)]
    if whole < height:
        rows.append(ufunc.reduce(stack[:, whole:], axis=1, keepdims=True, dtype=dtype))
    return ufunc.reduceat(np.concatenate(rows, axis=1), np.arange(0, width, BLOCK), axis=2, dtype=dtype)
