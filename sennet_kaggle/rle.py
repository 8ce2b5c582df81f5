"""Masks ↔ text: the competition's run-length encoding.

Pixels are numbered row by row (left to right, then down) from 1; a mask is the text
"start length start length …", and a mask without a vessel is "1 0".
"""

import numpy as np

from .errors import InputError

EMPTY_RLE = "1 0"


def rle_encode(mask: np.ndarray) -> str:
    """Encodes a mask.

    Args:
        mask: (H, W) bool, or any integer dtype with only 0 and 1.

    Returns:
        "start length" pairs in ascending order, 1-based and row-major; "1 0" when the mask is empty.

    Raises:
        ValueError: the mask is not 2D, or has values other than 0 and 1.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {mask.shape}")
    if mask.dtype != np.bool_:
        if mask.size and (mask.min() < 0 or mask.max() > 1 or mask.dtype.kind not in "iu"):
            raise ValueError(
                f"mask must be bool or hold only the integers 0 and 1, got {mask.dtype} up to {mask.max()}"
            )
        mask = mask.astype(np.bool_)
    pixels = mask.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1  # those on the border come next
    if pixels[:1].any():
        edges = np.insert(edges, 0, 0)
    if edges.size % 2:
        edges = np.append(edges, pixels.size)
    if edges.size == 0:
        return EMPTY_RLE
    edges[1::2] -= edges[::2]  # ends become lengths
    edges[::2] += 1
    return str(edges.tolist())[1:-1].replace(",", "")  # faster than joining the text of each number


def rle_decode(rle: str, height: int, width: int) -> np.ndarray:
    """Decodes a run-length encoding.

    Args:
        rle: "start length" pairs, 1-based and row-major, or "1 0" for an empty mask.
        height: rows of the mask.
        width: columns of the mask.

    Returns:
        (height, width) bool.

    Raises:
        InputError: the text is empty or has something else than positive integers, a start without a
            length, runs that overlap or are not in ascending order, or runs beyond the last pixel.
    """
    starts, ends = parse_runs(rle)
    if starts.size and ends[-1] > height * width:
        raise InputError(
            f"RLE out of range: the run that starts at {starts[-1] + 1} ends at pixel {ends[-1]}, "
            f"but {height}x{width} has {height * width} pixels"
        )
    # Lengths of background and vessel in turn: 0..start, start..end, end..next start, …
    boundaries = np.zeros(2 * starts.size + 2, dtype=np.int64)
    boundaries[1:-1:2], boundaries[2:-1:2], boundaries[-1] = starts, ends, height * width
    is_vessel = np.zeros(2 * starts.size + 1, dtype=np.bool_)
    is_vessel[1::2] = True
    return np.repeat(is_vessel, np.diff(boundaries)).reshape(height, width)


def parse_runs(rle: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the runs of an encoding and checks all that can be checked without the mask's size.

    Args:
        rle: "start length" pairs.

    Returns:
        starts, ends: (R,) int64 each, 0-based, end exclusive; R is 0 for "1 0".

    Raises:
        InputError: as `rle_decode`, save for the range.
    """
    if rle == EMPTY_RLE:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if not rle or rle.isspace():
        raise InputError(f"RLE is empty: a mask without a vessel is written {EMPTY_RLE!r}")
    not_numeric = rle.translate(_DROP_DIGITS_AND_SPACE)
    if not_numeric:
        raise InputError(f"RLE must hold only digits and spaces, found {not_numeric[0]!r}")
    numbers = np.fromstring(rle, dtype=np.int64, sep=" ")
    if numbers.size % 2:
        raise InputError(f"RLE must hold pairs of start and length, found {numbers.size} numbers")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    ends = starts + lengths
    if numbers.min() < 1 or ends.min() < 1:  # a number beyond int64 wraps round to a negative end
        raise InputError("RLE must hold starts and lengths of at least 1 (pixels are counted from 1)")
    if (starts[1:] < ends[:-1]).any():
        at = int(np.argmax(starts[1:] < ends[:-1]))
        how = "overlap" if starts[at + 1] >= starts[at] else "are not in ascending order"
        raise InputError(
            f"RLE runs {how}: {starts[at] + 1} {lengths[at]} is followed by {starts[at + 1] + 1} {lengths[at + 1]}"
        )
    return starts, ends


_DROP_DIGITS_AND_SPACE = dict.fromkeys(map(ord, "0123456789 "))
